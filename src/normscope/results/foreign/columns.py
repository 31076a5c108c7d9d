"""What the columns of a table mean: arm, seed, metric, task, step and state, inferred by name and content."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from normscope.results.foreign.table import (
    ForeignTable,
    TableUnusable,
    as_text,
    is_empty,
    is_number,
    read_number,
    some,
)

_PREFIXES = ("config.", "config/", "params.", "param.", "metrics.", "summary.", "tags.", "hparams.", "hparams/")
_SETTINGS = ("config.", "config/", "params.", "param.", "hparams.", "hparams/")
_SEEDS = ("seed", "random_seed", "rng_seed", "manual_seed", "random_state")
_ARMS = ("arm", "norm", "norm_type", "norm_layer", "normalization", "method", "variant", "condition", "treatment")
_TASKS = ("task", "dataset", "data_set", "benchmark")
_STEPS = (
    *("step", "_step", "global_step", "trainer/global_step", "steps", "iteration", "iterations", "iter", "update"),
    *("updates", "epoch", "epochs"),
)
_STATES = ("state", "status", "run_state")
_RUNS = ("run_name", "name", "display_name", "mlflow.runname", "run", "run_id", "id")
_METRIC_NAMES = ("metric", "metric_name", "tag")
_VALUES = ("value", "score", "result")
_LOWER = {
    *("loss", "nll", "error", "err", "perplexity", "ppl", "bpc", "bpb", "wer", "cer", "mse", "rmse", "mae", "mape"),
    *("crossentropy", "fid", "ece", "brier", "regret"),
}
_HIGHER = {
    *("accuracy", "acc", "f1", "bleu", "auc", "auroc", "auprc", "rouge", "chrf", "precision", "recall", "iou", "miou"),
    *("dice", "psnr", "ssim", "uas", "las", "mcc", "ndcg", "mrr", "reward", "return"),
}
ENDINGS = {
    **dict.fromkeys(("finished", "done", "completed", "complete", "success", "succeeded", "ok"), "done"),
    **dict.fromkeys(("diverged", "nan"), "diverged"),
    **dict.fromkeys(
        ("crashed", "crash", "failed", "fail", "failure", "killed", "error", "canceled", "cancelled", "preempted"),
        "failed",
    ),
    **dict.fromkeys(("running", "pending", "scheduled", "queued", "preempting"), "open"),
}
"""State of a run by the word in a column of states."""

_SEED_IN_NAME = re.compile(
    r"(?P<before>.*?)(?:^|[-_/., =])(?:seed|rng)[-_=: /]?(?P<seed>\d{1,18})(?P<after>(?:\D.*)?)", re.I
)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of columns, as an option gave them or as they were inferred; None for one that is not there."""

    arm: tuple[str, ...]
    seed: str
    metrics: tuple[str, ...]
    task: str | None = None
    step: str | None = None
    state: str | None = None
    run: str | None = None
    scores: str | None = None
    seconds: str | None = None
    reading: tuple[str, ...] = ()
    """How each column was read, in words."""


@dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """The options that name columns; None to infer."""

    metric: str | None = None
    seed: str | None = None
    arm: str | None = None
    task: str | None = None
    step: str | None = None
    state: str | None = None
    scores: str | None = None
    seconds: str | None = None
    pattern: str | None = None
    """Regular expression with the groups arm and seed, for the names of runs."""


def leaf(name: str) -> str:
    """Return a column's name without the prefix that a tracker gives it, in lower case."""
    for prefix in _PREFIXES:
        if name.casefold().startswith(prefix):
            return leaf(name[len(prefix) :])
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def direction(metric: str) -> bool | None:
    """Return whether higher is better, as the name of a metric says; None if it does not say, or says both."""
    words = {*re.findall(r"[a-z]+\d*", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", metric).casefold())}
    words |= {"crossentropy"} if {"cross", "entropy"} <= words else set()
    lower, higher = bool(words & _LOWER), bool(words & _HIGHER)
    return None if lower == higher else higher


def read_columns(table: ForeignTable, options: ColumnOptions) -> tuple[ForeignTable, Columns]:
    """Find what each column means.

    Returns:
        The table, with the columns that were read from names of runs or from a list of metrics, and the columns.

    Raises:
        TableUnusable: If a column is not there, or cannot be inferred; the message lists the candidates.
    """
    table, names = _spread(table, options)
    given = {each: getattr(options, each) for each in ("seed", "task", "step", "state", "scores", "seconds")}
    options = replace(options, **{each: _find(table, name, each) for each, name in given.items() if name})
    step = options.step or _named(table, _STEPS)
    state = options.state or _state(table)
    run = next((name for known in _RUNS for name in table.columns if leaf(name) == known), None)
    task = options.task or _named(table, _TASKS)
    table, seed, from_names = _seed(table, options, run)
    metrics = _metrics(table, options, names, {seed, step, task, state, options.seconds})
    fixed = {seed, step, state, task, run, options.seconds, *metrics}
    arm = _arm(table, options, seed, task, step, fixed, from_names)
    reading = [
        f"arm = {_column(arm, from_names)}",
        f"seed = {_column((seed,), from_names)}",
        *([f"task = column {task}"] if task else []),
        *([f"step = column {step}"] if step else []),
        *([f"state = column {state}"] if state else []),
        *([f"scores of test examples = column {options.scores}"] if options.scores else []),
        *([f"seconds of training = column {options.seconds}"] if options.seconds else []),
    ]
    if options.scores and len(metrics) > 1:
        raise TableUnusable(f"scores are those of one metric, got {', '.join(metrics)}: choose one with --metric")
    return table, Columns(
        arm=arm,
        seed=seed,
        metrics=metrics,
        task=task,
        step=step,
        state=state,
        run=run,
        scores=options.scores,
        seconds=options.seconds,
        reading=tuple(reading),
    )


def _column(names: Sequence[str], from_names: Mapping[str, str]) -> str:
    if names[0] in from_names:
        return from_names[names[0]]
    return f"column {names[0]}" if len(names) == 1 else f"columns {' and '.join(names)}"


def _find(table: ForeignTable, name: str, option: str) -> str:
    """Return the column that an option names, with or without the prefix that a tracker gives it.

    Raises:
        TableUnusable: If there is none, or several with different prefixes.
    """
    if name in table.columns:
        return name
    found = [column for column in table.columns if leaf(column) == leaf(name)]
    if len(found) != 1:
        raise TableUnusable(
            f"{table.source} has {'several columns' if found else 'no column'} {name!r} for --{option}; it has "
            f"{some(found or table.columns, 30)}"
        )
    return found[0]


def _find_all(table: ForeignTable, text: str, option: str) -> tuple[str, ...]:
    """Return the columns that an option names, with commas between them."""
    if text in table.columns:
        return (text,)
    return tuple(dict.fromkeys(_find(table, part.strip(), option) for part in text.split(",") if part.strip()))


def _named(table: ForeignTable, names: Sequence[str]) -> str | None:
    """Return the first column with one of the names, in the order of the names."""
    return next((column for name in names for column in table.columns if leaf(column) == name), None)


def _state(table: ForeignTable) -> str | None:
    """Return the column of states: one with such a name, all of whose words are states."""
    column = _named(table, _STATES)
    words = {as_text(cell).casefold() for cell in table.column(column) if not is_empty(cell)} if column else set()
    return column if words and words <= ENDINGS.keys() else None


def _spread(table: ForeignTable, options: ColumnOptions) -> tuple[ForeignTable, list[str]]:
    """Give every metric its column, if the table has one column with names of metrics and one with their values.

    Raises:
        TableUnusable: If ``--metric`` names the column of values, which mixes metrics.
    """
    naming, value = _named(table, _METRIC_NAMES), _named(table, _VALUES)
    if naming is None or value is None or all(map(is_number, table.column(naming))):
        return table, []
    names = list(dict.fromkeys(as_text(cell) for cell in table.column(naming) if not is_empty(cell)))
    if options.metric == value and len(names) > 1:
        rows = [f"{row.place}: {as_text(row.values.get(naming))} {row.values.get(value)}" for row in table.rows]
        raise TableUnusable(
            f"column {value} of {table.source} mixes the metrics {', '.join(names)} ({some(rows)}): name one of them "
            "with --metric"
        )
    rows = []
    for row in table.rows:
        kept = {column: cell for column, cell in row.values.items() if column not in (naming, value)}
        rows.append(replace(row, values=kept | {as_text(row.values.get(naming)): row.values.get(value)}))
    return replace(table, rows=tuple(rows)), names


def _seed(table: ForeignTable, options: ColumnOptions, run: str | None) -> tuple[ForeignTable, str, dict[str, str]]:
    """Find the column of seeds, or read seeds, and the arms with them, from the names of the runs.

    Raises:
        TableUnusable: If there are several candidates, or none.
    """
    if options.seed:
        return table, options.seed, {}
    found = [column for name in _SEEDS for column in table.columns if leaf(column) == name]
    distinct = {tuple(map(as_text, table.column(column))): column for column in reversed(found)}
    if len(distinct) > 1:
        raise TableUnusable(
            f"{table.source} has several columns of seeds, {', '.join(found)}: choose the one that pairs the runs with "
            "--seed"
        )
    if found and options.pattern is None:
        return table, found[0], {}
    if run is not None:
        names = [as_text(cell) for cell in table.column(run)]
        compiled = _compile(options.pattern)
        matches = [compiled.fullmatch(name) for name in names]
        if all(matches):
            return _with_names(table, run, matches)
        if options.pattern is not None:
            bad = next(name for name, match in zip(names, matches, strict=True) if match is None)
            raise TableUnusable(f"--pattern does not match the name of the run {bad!r}")
    whole = [
        column
        for column in table.columns
        if all(re.fullmatch(r"-?\d{1,18}", as_text(cell)) for cell in table.column(column))
    ]
    raise TableUnusable(
        f"{table.source} has no column of seeds, which pair the runs of the arms: name it with --seed (columns of "
        f"whole numbers: {', '.join(whole) or 'none'})"
        + (f", or read arm and seed from the names in {run} with --pattern '(?P<arm>.+)-(?P<seed>\\d+)'" if run else "")
    )


def _compile(pattern: str | None) -> re.Pattern[str]:
    if pattern is None:
        return _SEED_IN_NAME
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise TableUnusable(f"--pattern {pattern!r} is not a regular expression: {error}") from error
    if not {"arm", "seed"} <= compiled.groupindex.keys():
        raise TableUnusable(f"--pattern needs the groups (?P<arm>...) and (?P<seed>...), got {pattern!r}")
    return compiled


def _with_names(
    table: ForeignTable, run: str, matches: Sequence[re.Match[str] | None]
) -> tuple[ForeignTable, str, dict[str, str]]:
    """Add the columns of seeds and arms that the names of the runs have."""
    rows = []
    arm_column, seed_column = f"arm in {run}", f"seed in {run}"
    for row, match in zip(table.rows, matches, strict=True):
        assert match is not None
        parts = match.groupdict()
        arm = parts.get("arm") or f"{parts.get('before', '')} {parts.get('after', '')}".strip(" -_/.,=") or "(no name)"
        rows.append(replace(row, values={**row.values, arm_column: arm, seed_column: parts["seed"]}))
    first, example = rows[0].values, as_text(rows[0].values[run])
    return (
        replace(table, rows=tuple(rows)),
        seed_column,
        {
            arm_column: f"part of the names in {run}, {first[arm_column]!r} of {example!r}",
            seed_column: f"the number in the names in {run}, {first[seed_column]} of {example!r}",
        },
    )


def _metrics(
    table: ForeignTable, options: ColumnOptions, names: Sequence[str], taken: set[str | None]
) -> tuple[str, ...]:
    """Find the columns of metrics.

    Raises:
        TableUnusable: If one is not there, or several or none could be meant.
    """
    if options.metric:
        return _find_all(table, options.metric, "metric")
    if names:
        return tuple(names)
    numeric = [
        column
        for column in table.columns
        if column not in taken and not column.casefold().startswith(_SETTINGS) and _is_numeric(table.column(column))
    ]
    known = [column for column in numeric if direction(leaf(column)) is not None]
    tested = [column for column in known if "test" in re.split(r"[^a-z]+", column.casefold())]
    for candidates in (known, tested):
        if len(candidates) == 1:
            return (candidates[0],)
    listed = known or [column for column in numeric if not column.startswith("_")]
    if not listed:
        _read_cells_of_metrics(table, taken)
    raise TableUnusable(
        f"{table.source} has {'several columns' if listed else 'no column'} that could be the metric"
        + (f": {', '.join(listed[:20])}" if listed else f"; its columns are {', '.join(table.columns[:20])}")
        + ". Choose one, or several with commas, with --metric"
    )


def _read_cells_of_metrics(table: ForeignTable, taken: set[str | None]) -> None:
    """Read the columns that are called like a metric.

    Raises:
        TableUnusable: If a cell is not a number, as in every such column that was not taken for one.
    """
    for column in table.columns:
        if column not in taken and direction(leaf(column)) is not None:
            for row in table.rows:
                read_number(row.values.get(column), column, row.place)


def _is_numeric(cells: Sequence[Any]) -> bool:
    """Return whether most full cells of a column are numbers; the others are refused with their row when read."""
    full = [cell for cell in cells if not is_empty(cell)]
    numbers = [cell for cell in full if is_number(cell) and not isinstance(cell, bool | list)]
    return len(numbers) > len(full) / 2


def _arm(
    table: ForeignTable,
    options: ColumnOptions,
    seed: str,
    task: str | None,
    step: str | None,
    fixed: set[str | None],
    from_names: Mapping[str, str],
) -> tuple[str, ...]:
    """Find the columns whose values are the arms: those with which every run has its seed once.

    Raises:
        TableUnusable: If one is not there, or several or none could be meant.
    """
    if options.arm:
        return _find_all(table, options.arm, "arm")
    if from_names:
        return (next(iter(from_names)),)
    named = [column for name in _ARMS for column in table.columns if leaf(column) == name]
    if named and leaf(named[0]) == "arm":
        return (named[0],)
    keys = [tuple(as_text(row.values.get(name)) for name in (task, step, seed) if name) for row in table.rows]
    seeds = table.column(seed)
    varying, fitting = [], []
    for column in table.columns:
        cells = [as_text(cell) for cell in table.column(column)]
        if (
            column in fixed
            or direction(leaf(column)) is not None
            or len({*cells}) < 2
            or ("" in cells and column not in named)
        ):
            continue
        varying.append(column)
        once = len({*zip(keys, cells, strict=True)}) == len(keys)
        partners = Counter(cell for _, cell in {*zip(map(as_text, seeds), cells, strict=True)})
        if once and min(partners.values()) >= min(2, len({*map(as_text, seeds)})):
            numbers = {cell: number for number, cell in enumerate(dict.fromkeys(cells))}
            fitting.append((column, tuple(numbers[cell] for cell in cells)))
    fitting.sort(key=lambda found: found[0] not in named)
    preferred = [column for column in varying if column in named]
    if fitting and len({partition for _, partition in fitting}) == 1:
        return (fitting[0][0],)
    if len(preferred) == 1:
        return (preferred[0],)
    candidates = [column for column, _ in fitting] or varying
    raise TableUnusable(
        f"{table.source} has {'several columns' if candidates else 'no column'} that could be the arms"
        + (f": {', '.join(candidates[:20])}" if candidates else f"; its columns are {', '.join(table.columns[:20])}")
        + ". Choose one, or several with commas, with --arm"
    )
