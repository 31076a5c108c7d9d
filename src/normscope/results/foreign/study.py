"""A table's runs written as the folder of a study, so that one code path judges ours and anybody's."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from normscope.results.foreign.runs import ForeignRun
from normscope.results.foreign.table import ForeignTable, TableUnusable
from normscope.results.store import SCHEMA, StudyFolder, write_json

_ENDED = ("done", "diverged", "failed")


def write_study(
    folder: Path,
    table: ForeignTable,
    runs: Sequence[ForeignRun],
    *,
    task: str,
    metric: dict[str, Any],
    baseline: str,
    margin: float,
    alpha: float,
    command: str,
    told: Sequence[str],
    warnings: Sequence[str],
) -> None:
    """Write ``card.json`` and the runs of one task and metric (``docs/guides/studies.md``).

    Args:
        folder: An empty or missing folder, or one that holds the same question.
        table: The table.
        runs: Its runs.
        task: Name of the task.
        metric: ``name``, ``unit`` and ``higher_is_better``.
        baseline: Label of the baseline.
        margin: Smallest difference worth having.
        alpha: Accepted probability of any false claim.
        command: Command that repeats the verdict.
        told: What was read as what.
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
        "seeds": sorted({run.seed for run in runs}),
        **({"steps": steps.pop()} if len(steps) == 1 else {}),
        "regime": f"the networks, data and recipe behind {table.source}, over other seeds: the table has no scores of "
        "test examples, so other examples are not covered",
        "failure": "NaN, infinity or nothing in place of a value, or a state such as crashed",
        "command": command,
        "source": {"name": table.source, "kind": table.kind, "sha256": table.digest, "told": list(told)},
        "warnings": list(warnings),
    }
    before = _check_folder(StudyFolder(folder), card)
    if looks := [*before.get("looks", []), *([len(before["seeds"])] if _adds_seeds(before, card) else [])]:
        card["looks"] = looks
    write_json(StudyFolder(folder).card, card)
    for run in runs:
        _write_run(StudyFolder(folder), run, task)


def _adds_seeds(before: dict[str, Any], card: dict[str, Any]) -> bool:
    """Return whether seeds were added after results could be seen, which makes the p values exploratory."""
    return bool(before) and not {*card["seeds"]} <= {*before["seeds"]}


def _check_folder(study: StudyFolder, card: dict[str, Any]) -> dict[str, Any]:
    """Check that nothing of another study is written over, and return the card that is there; empty if none is.

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
    same = ("question", "task", "metric", "margin", "alpha", "baseline")
    differing = [key for key in same if existing.get(key) != card[key]]
    if differing or "source" not in existing:
        key = differing[0] if differing else "source"
        raise TableUnusable(
            f"{study.path} holds another study: its {key} is {existing.get(key)!r}, this one's {card[key]!r}; choose "
            "another folder with --out"
        )
    return existing


def _write_run(study: StudyFolder, run: ForeignRun, task: str) -> None:
    """Write the files of one run; a run that has not ended has no result.

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
    rows = [json.dumps({"step": step, "valid_value": value}) + "\n" for step, value in run.history]
    if len(rows) > 1:
        folder.metrics.write_text("".join(rows), encoding="utf-8")
    if run.state in _ENDED:
        result = {"schema": SCHEMA, "state": run.state, "value": run.value, "reason": run.reason}
        _write(folder.result, result | ({} if run.last_step is None else {"steps": run.last_step}))


def _ending(result: Mapping[str, Any]) -> str:
    return result["state"] if result["value"] is None else str(result["value"])


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON without waiting for the disk: the table has it all, and the same command writes it again."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
