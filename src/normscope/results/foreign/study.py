"""A table's runs written as the folder of a study, so that one code path judges ours and anybody's."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from normscope.results.foreign.runs import ForeignRun
from normscope.results.foreign.table import ForeignTable, TableUnusable
from normscope.results.look_plan import LookPlan
from normscope.results.store import SCHEMA, StudyFolder, write_json
from normscope.results.targets.record import TargetPlan

_POINTS = 500
"""Largest number of points of a run's curve that is kept where it is drawn and decides nothing."""

_ENDED = ("done", "diverged", "failed")


def write_study(
    folder: Path,
    table: ForeignTable,
    runs: Sequence[ForeignRun],
    *,
    seeds: Sequence[int],
    task: str,
    metric: dict[str, Any],
    baseline: str,
    margin: float,
    alpha: float,
    looks: LookPlan | None,
    targets: TargetPlan | None = None,
    command: str,
    reading: Sequence[str],
    warnings: Sequence[str],
) -> None:
    """Write ``card.json`` and the runs of one task and metric (``docs/guides/studies.md``).

    Args:
        folder: An empty or missing folder, or one that holds the same question.
        table: The table.
        runs: Its runs.
        seeds: Seeds in the order of the looks.
        task: Name of the task.
        metric: ``name``, ``unit`` and ``higher_is_better``.
        baseline: Label of the baseline.
        margin: Smallest difference worth having.
        alpha: Accepted probability of any false claim.
        looks: Looks that were planned; None for a fixed number of seeds.
        targets: Targets of the metric; None for none.
        command: Command that repeats the verdict.
        reading: How the table was read.
        warnings: Sentences on what the numbers leave out.

    Raises:
        TableUnusable: If the folder holds another question, or something else.
    """
    arms = dict.fromkeys([baseline, *(run.arm for run in runs)])
    steps = {run.last_step for run in runs if run.state == "done"} - {None}
    others = [arm for arm in arms if arm != baseline]
    subject = others[0] if len(others) == 1 else f"one of {len(others)} arms"
    card = {
        "schema": SCHEMA,
        "question": f"Does {subject} change {metric['name']} compared with {baseline}?",
        "task": task,
        "metric": metric,
        "margin": margin,
        "alpha": alpha,
        "baseline": baseline,
        "arms": [
            {"label": arm, "norm": arm, "placement": None, "arguments": {}, "learning_rate": None, "tuned": False}
            for arm in arms
        ],
        "seeds": list(seeds),
        **({"looks": {"pairs": list(looks.pairs), "spending": looks.spending}} if looks else {}),
        **({"targets": targets.content()} if targets else {}),
        **({"steps": steps.pop()} if len(steps) == 1 else {}),
        "regime": f"the networks, data and recipe behind {table.source}, over other seeds"
        + (
            " and test examples"
            if any(run.scores for run in runs)
            else ": the table has no scores of test examples, so other examples are not covered"
        ),
        "failure": "NaN, infinity or nothing in place of a value, or a state such as crashed",
        "command": command,
        "source": {"name": table.source, "kind": table.kind, "sha256": table.digest, "read": list(reading)},
        "warnings": list(warnings),
    }
    before = _check_folder(StudyFolder(folder), card)
    if looks is None and (changes := [*before.get("changes", []), *_added_to(before, card)]):
        card["changes"] = changes
    write_json(StudyFolder(folder).card, card)
    for run in runs:
        _write_run(StudyFolder(folder), run, task, every_point=targets is not None)


def order_seeds(folder: Path | None, runs: Sequence[ForeignRun], looks: LookPlan | None, source: str) -> list[int]:
    """Return the seeds in the order in which the looks count them, with those that are still to come.

    Seeds that a kept study has come first, in its order, so that a look at them never changes.

    Args:
        folder: Folder of the study, which may hold it already; None if it is not kept.
        runs: Runs of the table.
        looks: Looks that were planned; without any the order does not matter.
        source: Name of the table.

    Raises:
        TableUnusable: If there are more seeds than pairs at the last look.
    """
    seeds = sorted({run.seed for run in runs})
    if looks is None:
        return seeds
    if len(seeds) > looks.pairs[-1]:
        raise TableUnusable(
            f"{source} has {len(seeds)} seeds; the last look is at {looks.pairs[-1]}: give the looks that were planned "
            "before the first run, or leave out the rows of the seeds beyond the last"
        )
    if folder is not None and StudyFolder(folder).card.exists():
        known = [seed for seed in StudyFolder(folder).read_card()["seeds"] if seed in seeds]
        had = {*_kept_seeds(StudyFolder(folder))}
        first = [seed for seed in known if seed in had]
        seeds = [*first, *(seed for seed in seeds if seed not in first)]
    return [*seeds, *range(max(seeds) + 1, max(seeds) + 1 + looks.pairs[-1] - len(seeds))]


def _kept_seeds(study: StudyFolder) -> list[int]:
    return [study.run(path.name).read_description()["seed"] for path in sorted((study.path / "runs").iterdir())]


def _added_to(before: dict[str, Any], card: dict[str, Any]) -> list[int]:
    """Return the number of seeds before some were added; results could be seen then, which makes p exploratory."""
    return [len(before["seeds"])] if before and not {*card["seeds"]} <= {*before["seeds"]} else []


def _check_folder(study: StudyFolder, card: dict[str, Any]) -> dict[str, Any]:
    """Check that nothing of another study is written over, and return the existing card; empty if there is none.

    Raises:
        TableUnusable: If the folder holds another question, or something else.
    """
    if not study.path.exists():
        return {}
    if not study.path.is_dir():
        raise TableUnusable(f"{study.path} is a file; --out needs a folder")
    if not study.card.exists():
        if any(study.path.iterdir()):
            raise TableUnusable(f"{study.path} is not empty and holds no study: choose another folder with --out")
        return {}
    existing = study.read_card()
    same = ("question", "task", "metric", "margin", "alpha", "baseline", "looks", "targets")
    differing = [key for key in same if existing.get(key) != card.get(key)]
    if differing or "source" not in existing:
        key = differing[0] if differing else "source"
        raise TableUnusable(
            f"{study.path} holds another study: its {key} is {existing.get(key)!r}, this one's {card.get(key)!r}; "
            "choose another folder with --out"
        )
    return existing


def _write_run(study: StudyFolder, run: ForeignRun, task: str, *, every_point: bool) -> None:
    """Write the files of one run; a run that has not ended has no result.

    Args:
        study: Folder of the study.
        run: The run.
        task: Name of the task.
        every_point: Whether its curve decides something, so that every point is kept.

    Raises:
        TableUnusable: If the folder has another result of the run.
    """
    identity = hashlib.sha256(json.dumps([run.arm, run.seed]).encode()).hexdigest()[:12]
    folder = study.run(identity)
    if folder.finished():
        before = folder.read_result()
        if (before["state"], before["value"]) != (run.state, run.value):
            raise TableUnusable(
                f"{run.arm} seed {run.seed} was {_ending(before)} when {study.path} was written and is "
                f"{_ending(vars(run))} now ({run.place}): a result must not change; choose another folder with --out"
            )
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    description = {
        **{"schema": SCHEMA, "id": identity, "task": task, "label": run.arm, "norm": run.arm, "arguments": {}},
        **{"seed": run.seed, "split": "study"},
    }
    _write(folder.description, description)
    every = 1 if every_point else -(-len(run.history) // _POINTS)
    rows = [
        json.dumps({"step": step, "valid_value": value} | ({} if seconds is None else {"seconds": seconds})) + "\n"
        for place, (step, value, seconds) in enumerate(run.history)
        if place % every == 0 or place == len(run.history) - 1
    ]
    if len(rows) > 1 or every_point:
        folder.metrics.write_text("".join(rows), encoding="utf-8")
    if run.scores is not None:
        np.save(folder.examples, np.array(run.scores, dtype=np.float32))
    if run.state in _ENDED:
        result = {"schema": SCHEMA, "state": run.state, "value": run.value, "reason": run.reason}
        _write(folder.result, result | ({} if run.last_step is None else {"steps": run.last_step}))


def _ending(result: Mapping[str, Any]) -> str:
    return result["state"] if result["value"] is None else str(result["value"])


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON without waiting for the disk: the table has it all, and the same command writes it again."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
