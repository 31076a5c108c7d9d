"""Rows of a table put together to runs, and the refusals: what would make a verdict about something else."""

import contextlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normscope.results.foreign.columns import ENDINGS, Columns
from normscope.results.foreign.table import (
    ForeignRow,
    ForeignTable,
    TableUnusable,
    as_text,
    is_empty,
    read_number,
    some,
)

_DIGITS = 18
"""Most digits of a seed or a step, which fit 64 bits."""

_LARGEST = 1e100
"""Largest value of which statistics can be computed; the smallest is its reciprocal."""

_SETTING_PREFIXES = ("config.", "config/", "params.", "param.", "hparams.", "hparams/")


@dataclass(frozen=True, kw_only=True)
class ForeignRun:
    """One run of one arm, in one metric."""

    arm: str
    """Label of the arm."""
    seed: int
    """Seed."""
    place: str
    """Where its last row stands."""
    state: str
    """``done``, ``diverged`` or ``failed``; ``open`` if it has not ended."""
    value: float | None
    """Value at its last step; None unless it is done."""
    reason: str | None
    """Why it has no value."""
    history: tuple[tuple[int, float, float | None], ...]
    """Step and finite value of every row that has both, and its seconds of training."""
    last_step: int | None
    """Last step with a value."""
    scores: tuple[float, ...] | None = None
    """Scores of the test examples, whose mean is the value; None if the table has none."""


def group_rows(table: ForeignTable, columns: Columns) -> dict[str, dict[tuple[str, int], list[ForeignRow]]]:
    """Group the rows by task, and by arm and seed.

    Raises:
        TableUnusable: If a row has no arm or no seed, or its seed is not a whole number.
    """
    tasks: dict[str, dict[tuple[str, int], list[ForeignRow]]] = {}
    for row in table.rows:
        arms = [as_text(row.values.get(name)) for name in columns.arm]
        if "" in arms:
            raise TableUnusable(f"{row.place} of {table.source} has no {columns.arm[arms.index('')]}, which is its arm")
        cell = as_text(row.values.get(columns.seed))
        if not cell.removeprefix("-").isdecimal() or len(cell) > _DIGITS:
            raise TableUnusable(
                f"{row.place} of {table.source} has {columns.seed} {cell!r}; a seed must be a whole number of at most "
                f"{_DIGITS} digits"
            )
        task = as_text(row.values.get(columns.task)) if columns.task else ""
        runs = tasks.setdefault(task, {})
        runs.setdefault((", ".join(arms), int(cell)), []).append(row)
    return tasks


def read_runs(
    groups: Mapping[tuple[str, int], Sequence[ForeignRow]], metric: str, columns: Columns, source: str
) -> list[ForeignRun]:
    """Read the runs of one task in one metric.

    Raises:
        TableUnusable: If a seed of an arm is there twice, or a cell cannot be read.
    """
    twice = []
    for (arm, seed), rows in groups.items():
        twice += _find_duplicates(rows, metric, columns, f"{arm} seed {seed}")
    if twice:
        raise TableUnusable(
            f"{source} has seeds of an arm more than once: {some(twice)}. Keep one run per arm and seed"
            + ("" if columns.step else "; if these are steps of one run, name their column with --step")
        )
    return [_read_run(arm, seed, rows, metric, columns) for (arm, seed), rows in groups.items()]


def _find_duplicates(rows: Sequence[ForeignRow], metric: str, columns: Columns, name: str) -> list[str]:
    """Describe what makes the rows of one arm and seed several runs: two rows at one step, or two names."""
    values = [f"{row.place}: {_show(row.values.get(metric))}" for row in rows]
    if columns.step is None:
        return [f"{name} ({some(values)})"] if len([row for row in rows if metric in row.values]) > 1 else []
    runs = dict.fromkeys(as_text(row.values.get(columns.run)) for row in rows) if columns.run else {}
    if len(runs) > 1:
        return [f"{name} in the runs {', '.join(runs)} ({some(values)})"]
    steps = Counter(as_text(row.values.get(columns.step)) for row in rows if metric in row.values)
    return [
        f"{name} at step {step} ("
        + some(
            [value for value, row in zip(values, rows, strict=True) if as_text(row.values.get(columns.step)) == step]
        )
        + ")"
        for step, count in steps.items()
        if count > 1 and _differ(rows, step, metric, columns.step)
    ]


def _differ(rows: Sequence[ForeignRow], step: str, metric: str, column: str) -> bool:
    """Return whether more than one row of a step has a value; trackers add rows for other metrics at the same step."""
    at = [row.values[metric] for row in rows if as_text(row.values.get(column)) == step and metric in row.values]
    return sum(not is_empty(cell) for cell in at) > 1 or all(map(is_empty, at))


def _show(cell: Any) -> str:
    return "empty" if is_empty(cell) else as_text(cell)


def _read_run(arm: str, seed: int, rows: Sequence[ForeignRow], metric: str, columns: Columns) -> ForeignRun:
    """Read one run: its value is that of the last step that has one, and whatever is not a number is a failure."""
    cells = [
        (_step(row, columns), read_number(row.values[metric], metric, row.place), row)
        for row in rows
        if metric in row.values
    ]
    cells.sort(key=lambda cell: cell[0] if cell[0] is not None else 0)
    full = [cell for cell in cells if cell[1] is not None]
    step, value, last = full[-1] if full else (None, None, rows[-1])
    state, reason = _end(rows, columns)
    if state == "done":
        if value is None:
            state, reason = "failed", f"{metric} is empty ({last.place})"
        elif isinstance(value, str):
            state, reason = "diverged" if value == "diverged" else "failed", f"{metric} is {value!r} ({last.place})"
        elif not math.isfinite(value):
            state, reason = "diverged", f"{metric} is {value} ({last.place})"
    history = tuple(
        (at, number, _seconds(row, columns))
        for at, number, row in full
        if at is not None and isinstance(number, float) and math.isfinite(number)
    )
    return ForeignRun(
        arm=arm,
        seed=seed,
        place=last.place,
        state=state,
        value=value if state == "done" and isinstance(value, float) else None,
        reason=reason,
        history=history,
        last_step=step,
        scores=_read_scores(last, metric, columns.scores, value) if columns.scores and state == "done" else None,
    )


def _read_scores(row: ForeignRow, metric: str, column: str, value: Any) -> tuple[float, ...]:
    """Read the scores of the test examples, a list of numbers.

    Raises:
        TableUnusable: If the cell is something else, or its mean is not the value of the run.
    """
    cell = row.values.get(column)
    with contextlib.suppress(ValueError):
        cell = json.loads(cell) if isinstance(cell, str) else cell
    numbers = cell if isinstance(cell, list) else []
    if not numbers or not all(isinstance(each, int | float) and math.isfinite(each) for each in numbers):
        raise TableUnusable(f"{row.place} has no list of numbers in {column}: the scores of its test examples")
    mean = sum(numbers) / len(numbers)
    if abs(mean - value) > 1e-4 * max(map(abs, numbers)):
        raise TableUnusable(f"{row.place} has {metric} {value}, and the mean of its {column} is {mean:.6g}")
    return tuple(map(float, numbers))


def _step(row: ForeignRow, columns: Columns) -> int | None:
    """Return the step of a row.

    Raises:
        TableUnusable: If it is not a whole number.
    """
    if columns.step is None or is_empty(row.values.get(columns.step)):
        return None
    text = as_text(row.values[columns.step])
    if not text.isdecimal() or len(text) > _DIGITS:
        raise TableUnusable(f"{row.place} has {columns.step} {text!r}, which is not a number of steps")
    return int(text)


def _seconds(row: ForeignRow, columns: Columns) -> float | None:
    """Return the seconds of training at a row; None if it has none.

    Raises:
        TableUnusable: If they are not a number of seconds.
    """
    seconds = read_number(row.values.get(columns.seconds), columns.seconds, row.place) if columns.seconds else None
    if seconds is not None and (isinstance(seconds, str) or not 0 <= seconds < math.inf):
        raise TableUnusable(f"{row.place} has {columns.seconds} {seconds}, which are not seconds since the run began")
    return seconds


def _end(rows: Sequence[ForeignRow], columns: Columns) -> tuple[str, str | None]:
    """Return how a run ended by its column of states, and the reason if it did not end well.

    Raises:
        TableUnusable: If the word is not known.
    """
    words = [(as_text(row.values.get(columns.state)), row) for row in rows] if columns.state else []
    words = [(word, row) for word, row in words if word]
    if not words:
        return "done", None
    word, row = words[-1]
    ending = ENDINGS.get(word.casefold())
    if ending is None:
        raise TableUnusable(
            f"{row.place} has {columns.state} {word!r}; known are {', '.join(ENDINGS)}: rename it, or drop the column"
        )
    return ending, None if ending in ("done", "open") else f"{columns.state} is {word} ({row.place})"


def check_runs(runs: Sequence[ForeignRun], baseline: str, source: str, *, order: Sequence[int] | None = None) -> None:
    """Check that the runs can be paired and were equally long.

    Args:
        runs: Runs of one task and metric.
        baseline: Label of the baseline.
        source: Name of the table.
        order: Seeds in the order of the looks, where looks are planned: an arm that is decided has the first of them
            only. None where every arm has all seeds.

    Raises:
        TableUnusable: If a seed has no partner, runs that are done ended at different steps, or values are too large
            or too small.
    """
    places: dict[str, dict[int, str]] = defaultdict(dict)
    for run in runs:
        places[run.arm][run.seed] = run.place
    alone = []
    for arm in places:
        pairs = [(arm, baseline)] if order is not None else [(arm, baseline), (baseline, arm)]
        for have, lack in pairs:
            alone += [
                f"seed {seed} of {have} ({places[have][seed]}) has no run of {lack}"
                for seed in sorted(places[have].keys() - places[lack].keys())
            ]
        first = order[: len(places[arm])] if order is not None else ()
        alone += [f"{arm} has seed {max(places[arm])} and no seed {seed}" for seed in first if seed not in places[arm]]
    if alone:
        raise TableUnusable(
            f"{source} has seeds without a partner: {some(alone)}. Run them, or remove the row: a run that failed "
            "needs a row, too, with NaN"
        )
    values = {f"{run.arm} seed {run.seed}: {run.value} ({run.place})": abs(run.value or 0) for run in runs}
    beyond = [words for words, size in values.items() if size > _LARGEST] or (
        [*values] if 0 < max(values.values()) < 1 / _LARGEST else []
    )
    if beyond:
        raise TableUnusable(
            f"{source} has values whose squares are no longer numbers: {some(beyond)}. Write them in another unit, or "
            "NaN if the run diverged"
        )
    steps = Counter(run.last_step for run in runs if run.state == "done" and run.last_step is not None)
    if len(steps) > 1:
        usual = steps.most_common(1)[0][0]
        others = [
            f"{run.arm} seed {run.seed} ends at step {run.last_step} with {run.value} ({run.place})"
            for run in runs
            if run.state == "done" and run.last_step not in (usual, None)
        ]
        raise TableUnusable(
            f"{source} has runs of different lengths: {some(others)}; the others end at step {usual}. Compare them at "
            "one step, or give a run that ended early a NaN"
        )


def differing_settings(
    groups: Mapping[tuple[str, int], Sequence[ForeignRow]], columns: Columns, metrics: Sequence[str]
) -> list[str]:
    """Describe settings in which the arms differ beside what names them, or in which the runs of one arm differ."""
    ours = {*columns.arm, columns.seed, columns.step, columns.state, columns.run, columns.task, *metrics}
    names = dict.fromkeys(name for rows in groups.values() for row in rows for name in row.values if name not in ours)
    sentences = []
    for name in names:
        by_arm: dict[str, set[str]] = defaultdict(set)
        for (arm, _), rows in groups.items():
            by_arm[arm] |= {as_text(row.values.get(name)) for row in rows}
        is_setting = name.casefold().startswith(_SETTING_PREFIXES)
        if all(len(values) == 1 for values in by_arm.values()) and len(set.union(*by_arm.values())) > 1:
            values = [f"{arm} {next(iter(values)) or 'nothing'}" for arm, values in by_arm.items()]
            sentences.append(f"The arms differ in {name}, too: {some(values, 4)}.")
        elif is_setting and (mixed := [arm for arm, values in by_arm.items() if len(values) > 1]):
            sentences.append(f"The runs of {some(mixed, 4)} differ in {name}.")
    return sentences[:5]
