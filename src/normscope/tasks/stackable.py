"""Tasks whose seeds can be trained as one stacked model."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Stackable(Protocol):
    """A task whose batches are tuples of tensors of equal shapes in every update, and whose loss draws no numbers."""

    def stacked_losses(self, model: Callable[[Tensor], Tensor], batch: Any) -> Tensor:
        """Compute the training loss of every member of a stack, ``[S]``.

        Args:
            model: Maps the inputs of all members, ``[S, B, ...]``, each by its own weights.
            batch: The batches of all members, stacked.
        """
        ...
