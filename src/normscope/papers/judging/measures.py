"""Figures of a run other than its metric: columns of its scores, or measures that its task has computed."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from normscope.results.aggregates import Aggregate
from normscope.results.matching import ArmRuns, StoredRun
from normscope.results.store import RunFolder


@dataclass(frozen=True)
class _ColumnFolder(RunFolder):
    """The folder of a run that shows a single column of its scores, or none."""

    column: int | None = None

    def read_examples(self) -> np.ndarray | None:
        """Return the column, ``[E]``; None if the measure is no column."""
        scores = None if self.column is None else super().read_examples()
        return None if scores is None else np.ascontiguousarray(scores[:, self.column])


def measured(arm: ArmRuns, aggregate: Aggregate, measure: str) -> ArmRuns:
    """Return an arm whose values are another figure of its runs.

    A figure that a run has among the ``measures`` of its ``result.json`` comes first; else it is the mean of the column
    of that name of the scores of the test examples. A done run that has neither is shown as ``unscored``.

    Args:
        arm: The arm.
        aggregate: Aggregate of the study's metric, whose columns have names.
        measure: Name of the figure.

    Raises:
        ValueError: If the scores of a run have another shape than the aggregate says.
    """
    column = aggregate.columns.index(measure) if measure in aggregate.columns and aggregate.width > 1 else None
    return replace(arm, runs={seed: _measured(run, column, measure) for seed, run in arm.runs.items()})


def _measured(run: StoredRun, column: int | None, measure: str) -> StoredRun:
    folder = _ColumnFolder(run.folder.path, column=column)
    if run.result is None or run.result["state"] != "done":
        return replace(run, folder=folder)
    value: Any = (run.result.get("measures") or {}).get(measure)
    if value is not None:
        folder = replace(folder, column=None)
    elif (scores := folder.read_examples()) is not None and len(scores):
        value = float(scores.mean(dtype=np.float64))
    changed = {"value": value} if value is not None else {"state": "unscored", "value": None}
    return replace(run, folder=folder, result={**run.result, **changed})
