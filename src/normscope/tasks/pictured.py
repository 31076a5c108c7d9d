"""Tasks whose models can be shown in pictures: samples, attention, and the like."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from normscope.results.pictures import Picture


@runtime_checkable
class Pictured(Protocol):
    """A task whose models can be shown in pictures."""

    def pictures(self, model: Any, data: Any, generator: torch.Generator) -> Sequence[Picture]:
        """Return pictures of what a trained model does, drawn once at the end of a run, from the tested weights."""
        ...
