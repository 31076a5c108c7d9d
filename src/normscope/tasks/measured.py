"""Further results of a run, which a task may have beside its metric."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np


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
