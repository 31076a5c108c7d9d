"""What a task may do beyond the interface on which every study relies."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from normscope.results.pictures import Picture


@runtime_checkable
class Pictured(Protocol):
    """A task whose models can be shown in pictures."""

    def pictures(self, model: Any, data: Any, generator: torch.Generator) -> Sequence[Picture]:
        """Return pictures of what a trained model does, drawn once at the end of a run, from the tested weights."""
        ...


@runtime_checkable
class HasMeasures(Protocol):
    """A task with further results beside its metric, on which no verdict rests."""

    def measures(self, model: Any, data: Any, scores: np.ndarray) -> Mapping[str, float]:
        """Return further results of a tested model by name.

        Args:
            model: The tested model.
            data: The data.
            scores: The scores of :meth:`normscope.tasks.task.Task.evaluate` for the test data.
        """
        ...
