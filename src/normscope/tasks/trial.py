"""What a user's own function returns: a model of theirs, how it is trained, and how it is judged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope.tasks.order import BatchOrder, Draw
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import Metric, Order

Tell = Callable[[int, float], None]
"""Takes a step and its training loss; raises :class:`Stop` where the run is to end."""


class Stop(BaseException):
    """Leaves a user's training loop; no ``except Exception`` of theirs catches it."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One model with its data, made for one norm, one placement and one seed.

    Either ``loss`` and ``batches`` are given, and the training is ours: resumable, with the schedule, the probe and the
    checkpoints of every study; or ``train`` is, and it is the user's: from the beginning each time.

    Raises:
        TypeError: If ``model`` is no module.
        ValueError: If not exactly one of the two ways is given, or ``margin`` is not positive.
    """

    model: nn.Module
    """With its first weights: they are taken as they are, drawn under the run's seed."""
    metric: Metric
    """What is judged, in which unit and direction."""
    evaluate: Callable[[nn.Module, str], "np.ndarray | Sequence[float] | float"]
    """From the model, in evaluation mode and without gradients, and ``"valid"`` or ``"test"`` to the score of every
    example; a single number where there are none, which leaves the noise of the test set unknown."""
    margin: float
    """Smallest difference worth having, in the metric's unit."""
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    """From the model and a batch to the training loss, a scalar."""
    batches: Callable[[int], Any] | Sequence[Any] | None = None
    """From a step to its batch; or all batches of a pass, visited in a new order in every pass."""
    train: Callable[[nn.Module, Tell], None] | None = None
    """Trains the model in place; tells its step and loss now and then, so that it can be stopped."""
    recipe: Recipe = field(default_factory=lambda: Recipe(steps=1000, batch_size=1, learning_rate=1e-3))
    """How ours trains; its batch size is what the report says. Of ``train`` only the number of steps is used."""
    placements: tuple[str, ...] = ()
    """Placements that the function makes something of, its default first; none where it does not look at them."""
    regime: str = ""
    """What claims are limited to: network, data, optimizer, depth."""

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"model must be a torch module, got {self.model!r}")
        ours, theirs = (self.loss is not None, self.batches is not None), self.train is not None
        if ours not in ((True, True), (False, False)) or theirs == ours[0]:
            raise ValueError("a Trial takes either loss and batches, or train")
        if not self.margin > 0:
            raise ValueError(f"margin must be positive, got {self.margin!r}")


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """Every step is its own batch."""

    def batch(self, step: int) -> Tensor:
        """Give the step, ``[1]``."""
        return torch.tensor([step])


@dataclass(frozen=True, kw_only=True)
class TrialData:
    """The batches of a trial, as the training loop asks for them."""

    batches: Callable[[int], Any] | Sequence[Any]
    device: torch.device
    hashes: Mapping[str, str]

    @property
    def train_examples(self) -> int:
        """Batches of a pass; 1 where only their function knows."""
        return 1 if callable(self.batches) else len(self.batches)

    def order(self, batch_size: int, draw: Draw) -> Order:
        """One batch of theirs a step."""
        return _Steps() if callable(self.batches) else BatchOrder(len(self.batches), 1, draw)

    def batch(self, indices: Tensor) -> Any:
        """Give the batch of a step, its tensors on the device."""
        index = int(indices[0])
        return moved(self.batches(index) if callable(self.batches) else self.batches[index], self.device)


def moved(batch: Any, device: torch.device) -> Any:
    """Put the tensors of a batch on a device: in tuples, lists, dictionaries, and in what has ``to(device)``."""
    if isinstance(batch, dict):
        return {key: moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(entry, device) for entry in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(moved(entry, device) for entry in batch)
    return batch.to(device) if hasattr(batch, "to") else batch
