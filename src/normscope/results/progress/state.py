"""The state of a study's runs, read with a few calls to the file system per run."""

import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from normscope.results.look_state import read_plan
from normscope.results.schema import FINAL_STATES, check
from normscope.results.store import RunFolder, StudyFolder, parse_json, read_json
from normscope.results.summary import runs_to_look

_TAIL_BYTES = 1 << 16
"""Length of the end of the metrics that has the last evaluation."""

_TUNING = {"grid?": [float], "seeds?": [int], "arms?": [str]}
"""Shape of what is read of tuning.json."""

_LAST_ROW = {"step": int}
"""Shape of what is read of an evaluation."""

SILENT_SECONDS = 600.0
"""Time without a sign of life after which a process may be dead."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A run that a process computes."""

    id: str
    """Name of its folder."""
    label: str
    """Label of its arm."""
    seed: int
    """Seed."""
    holder: str
    """Which process computes it, in words, such as ``process 12 on node1``."""
    since: float
    """When that process began, in seconds since 1970."""
    silent: float
    """Seconds since it last wrote to the folder of the run; a process that was killed stays silent."""
    step: int
    """Number of updates at the last evaluation; 0 before the first."""
    of: int | None
    """Number of updates of the run, if it is known."""

    @property
    def is_silent(self) -> bool:
        """Whether the process has been silent for :data:`SILENT_SECONDS`: it may be dead."""
        return self.silent > SILENT_SECONDS


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The stage of a study that is computed in stages: trials of learning rates, then looks."""

    kind: Literal["look", "tuning"]
    """Whether its runs are those of a planned look, or trials of learning rates."""
    number: int = 1
    """Number of the look, from 1 on."""
    pairs: tuple[int, ...] = ()
    """Number of pairs at each look."""


@dataclass(frozen=True, kw_only=True)
class StudyState:
    """How far a study is."""

    question: str
    """The question of the study."""
    waiting: int
    """Number of runs of this stage that have not ended and that nobody computes."""
    running: tuple[Running, ...]
    """The runs that are being computed, those that began first at the front."""
    ended: Mapping[str, int]
    """Number of runs in each final state."""
    stage: Stage | None
    """The stage, if the study is computed in stages and has not ended."""
    minutes: float | None
    """Time until all of these runs have ended, with as many processes as there are now; None if it is unknown, since no
    run is done yet or no process computes one."""

    @property
    def left(self) -> int:
        """Number of runs of this stage that have not ended."""
        return self.waiting + len(self.running)


def read_state(directory: Path) -> StudyState:
    """Read how far a study is from its folder, whatever computes it, finished or not.

    A finished run costs one file that is opened, and a run that is being computed six calls to the file system. Studies
    with looks are an exception: which arms go on follows from all of their results.

    Args:
        directory: Study folder.

    Raises:
        FileNotFoundError: If the folder has no card.
        ValueError: If a file cannot be read, or the card does not name its runs; the message names the file.

    Example:
        >>> from pathlib import Path
        >>> from normscope.results.progress import read_state
        >>> state = read_state(Path("runs/digits"))  # a study that compare() made
        >>> state.left, dict(state.ended)
        (0, {'done': 70})
    """
    study = StudyFolder(Path(directory))
    card = study.read_card()
    if card.get("tune") and card.get("tuning") is None:
        return _read_trials(StudyFolder(study.path / "tuning"), card)
    runs = {
        identity: (arm["label"], int(seed))
        for arm in card["arms"]
        for seed, identity in (arm.get("runs") or {}).items()
    }
    if not runs:
        raise ValueError(f"{study.card} does not name its runs; `normscope report` shows what the folder has")
    plan, stage = read_plan(card, study.card), None
    if plan is not None:
        needed = set(runs_to_look(study.path))
        there = set(_names(study.path / "runs"))
        runs = {identity: run for identity, run in runs.items() if identity in needed or identity in there}
        if needed:
            last = max(card["seeds"].index(runs[identity][1]) for identity in needed)
            number = next(look for look, pairs in enumerate(plan.pairs, 1) if last < pairs)
            stage = Stage(kind="look", number=number, pairs=plan.pairs)
    return _read(study, card, runs, stage)


def _read_trials(study: StudyFolder, card: Mapping[str, Any]) -> StudyState:
    """Read the state of the trials of learning rates, which the card does not name."""
    path = study.path / "tuning.json"
    content = read_json(path) if path.exists() else {}
    check(content, _TUNING, path)
    total = math.prod(len(content.get(part) or [""]) for part in ("grid", "seeds", "arms"))
    runs = dict.fromkeys(_names(study.path / "runs"), ("", 0))
    return _read(study, card, runs, Stage(kind="tuning"), more=max(0, total - len(runs)))


def _read(
    study: StudyFolder,
    card: Mapping[str, Any],
    runs: Mapping[str, tuple[str, int]],
    stage: Stage | None,
    *,
    more: int = 0,
) -> StudyState:
    there = set(_names(study.path / "runs"))
    counts: Counter[str] = Counter()
    seconds: dict[str, list[float]] = {}
    waiting = [""] * more
    running: list[Running] = []
    for identity, (label, seed) in runs.items():
        folder = study.run(identity)
        result = _result(folder) if identity in there else None
        if result is not None:
            counts[result["state"]] += 1
            if result["state"] == "done" and result.get("seconds") is not None:
                seconds.setdefault(label, []).append(result["seconds"])
        elif identity in there and (held := _running(folder, label, seed, card.get("steps"))) is not None:
            running.append(held)
        else:
            waiting.append(label)
    return StudyState(
        question=card["question"],
        waiting=len(waiting),
        running=tuple(sorted(running, key=lambda run: run.since)),
        ended={state: counts[state] for state in FINAL_STATES if counts[state]},
        stage=stage,
        minutes=_minutes(waiting, running, seconds),
    )


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []


def _result(folder: RunFolder) -> dict[str, Any] | None:
    try:
        return folder.read_result()
    except FileNotFoundError:
        return None


def _running(folder: RunFolder, label: str, seed: int, steps: int | None) -> Running | None:
    """Return who computes a run, or None if nobody does."""
    try:
        with folder.holder.open(encoding="utf-8", errors="replace") as file:
            holder, since = file.readline(1000).strip(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    signs = [since]
    # The lease of the process has its signs of life; a folder from before there were leases has none.
    for path in (folder.lease, folder.checkpoint, folder.metrics):
        with suppress(FileNotFoundError):
            signs.append(path.stat().st_mtime)
    if not label:
        with suppress(FileNotFoundError):
            description = folder.read_description()
            label, seed = description.get("label") or "", description.get("seed") or 0
    return Running(
        id=folder.path.name,
        label=label,
        seed=seed,
        holder=holder or "another process",
        since=since,
        silent=max(0.0, time.time() - max(signs)),
        step=_last_step(folder),
        of=steps,
    )


def _last_step(folder: RunFolder) -> int:
    """Return the step of the last complete line of the metrics, from the end of the file alone."""
    try:
        with folder.metrics.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    if not lines:
        return 0
    row = parse_json(lines[-1], f"the last line of {folder.metrics}")
    check(row, _LAST_ROW, f"the last line of {folder.metrics}")
    return row["step"]


def _minutes(waiting: list[str], running: list[Running], seconds: Mapping[str, list[float]]) -> float | None:
    """Estimate the time left from the medians of the arms' finished runs, or of all where an arm has none."""
    alive = [run for run in running if not run.is_silent]
    if not alive or not seconds:
        return None
    medians = {label: statistics.median(values) for label, values in seconds.items()}
    usual = statistics.median(medians.values())
    parts = [medians.get(run.label, usual) * (1 - min(1.0, run.step / run.of) if run.of else 1) for run in running]
    total = sum(medians.get(label, usual) for label in waiting) + sum(parts)
    return max(total / len(alive), *parts) / 60
