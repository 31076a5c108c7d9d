"""Choice of the initialization with which a network without norms is trained, on a split and seeds of its own."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from normscope.results.store import SCHEMA, RunFolder, StudyFolder, read_json, write_json
from normscope.studies.compare import default_workers
from normscope.studies.engines.engine import RunEvent
from normscope.studies.engines.local import LocalEngine
from normscope.studies.plan import RunSpec
from normscope.studies.preflight import check_device
from normscope.studies.spec import Arm, StudySpec
from normscope.studies.tuning import tune, tuning_plan
from normscope.tasks import TASKS

CANDIDATES = (
    "rezero",
    "fixup",
    "t_fixup",
    "skipinit(start='depth')",
    "scaled_branches",
    "scaled_branches(factor='forward')",
)
"""Placements without norms that are tried. ``skipinit`` at zero is left out: it is ``rezero``."""

FILE = "without-norms.json"
"""File of the choice, in the folder of the study."""


def candidates(task: str) -> tuple[str, ...]:
    """Return the placements without norms that a task accepts."""
    return tuple(text for text in CANDIDATES if text.partition("(")[0] in TASKS[task].placements)


def read_choice(folder: Path) -> dict[str, Any] | None:
    """Return the content of :data:`FILE` in a study's folder, or None if nothing was chosen there."""
    return read_json(folder / FILE) if (folder / FILE).exists() else None


def choose_without_norms(
    spec: StudySpec, folder: Path, *, workers: int | None, callback: Callable[[RunEvent], None]
) -> dict[str, Any]:
    """Choose the placement without norms, and write the choice; a choice that was made before is kept.

    Every candidate is trained with every learning rate of the grid on the tuning split. The best validation metric at
    the best rate wins; the validation loss breaks ties.

    Args:
        spec: Study for which it is chosen: its task, preset, steps and device.
        folder: Folder of that study.
        workers: Number of processes; one per core if None.
        callback: Called with the events of the trials.

    Returns:
        ``{"chosen", "candidates": {placement: {"learning_rate", "value"}}, "metric", "unit", "seeds", "grid",
        "trials"}``.

    Raises:
        EngineError: If the device does not exist, or the workers cannot start.
    """
    made = read_choice(folder)
    if made is not None:
        return made
    check_device(spec.device)
    arms = tuple(Arm.parse("none", text) for text in candidates(spec.task))
    trials = replace(spec, arms=arms, baseline=0, question="Which placement without norms?", tune=True)
    engine = LocalEngine(workers=default_workers(spec) if workers is None else workers)
    study = StudyFolder(folder / "without_norms")
    for each in tuning_plan(trials):
        callback(RunEvent(spec=each, state="planned", step=0))
    found = tune(trials, study, engine, callback)
    sign = -1.0 if TASKS[spec.task].valid_metric.higher_is_better else 1.0
    ranks, rows = {}, {}
    for arm, label in zip(arms, trials.labels(), strict=True):
        tuned = found["arms"][label]
        best = next(point for point in tuned["curve"] if point["learning_rate"] == tuned["chosen"])
        rows[arm.placement.text] = {"learning_rate": best["learning_rate"], "value": _mean(best["values"])}
        means = (_mean(best["values"]), sign), (_mean(best["losses"]), 1.0)
        ranks[arm.placement.text] = tuple(math.inf if mean is None else factor * mean for mean, factor in means)
    content = {
        "schema": SCHEMA,
        "chosen": min(ranks, key=lambda text: ranks[text]),
        "candidates": rows,
        "metric": TASKS[spec.task].valid_metric.name,
        "unit": TASKS[spec.task].valid_metric.unit,
        "seeds": found["seeds"],
        "grid": found["grid"],
        "trials": len(tuning_plan(trials)),
    }
    write_json(folder / FILE, content)
    return content


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean, or None if a trial has no value."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def adopt(specs: Sequence[RunSpec], source: Path, target: Path) -> int:
    """Copy the finished ones of some runs from another study's folder, if it has them; return their number.

    A run is determined by its id. Only its label, which names an arm within a study, is that of the new study.
    """
    old, new = StudyFolder(source), StudyFolder(target)
    wanted = {spec.id: spec for spec in specs if old.run(spec.id).finished() and not new.run(spec.id).finished()}
    for identity, spec in wanted.items():
        _copy(spec, old.run(identity), new.run(identity))
    return len(wanted)


def _copy(spec: RunSpec, here: RunFolder, there: RunFolder) -> None:
    shutil.copytree(here.path, there.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("result.json", "lock"))
    if here.description.exists():
        write_json(there.description, {**here.read_description(), "label": spec.label})
    shutil.copy2(here.result, there.result)  # last: a run that has it has ended
