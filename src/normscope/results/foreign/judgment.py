"""The verdict on anybody's table of runs: read it, write it as a study, and summarize that."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from normscope.arguments import check_arguments
from normscope.results.foreign.columns import ColumnOptions, Columns, direction, leaf, read_columns
from normscope.results.foreign.detect import read_table
from normscope.results.foreign.runs import ForeignRun, check_runs, differing_settings, group_rows, read_runs
from normscope.results.foreign.study import order_seeds, write_study
from normscope.results.foreign.table import ForeignTable, TableUnusable
from normscope.results.look_plan import DEFAULT_SPENDING, LookPlan, Spending
from normscope.results.statistics import LEAST_PAIRS
from normscope.results.summary import Summary, summarize
from normscope.results.targets.record import DEFAULT_MARGIN, TargetPlan, parse_targets

_BASELINES = ("layer_norm", "layernorm", "ln", "baseline", "base", "control")


@dataclass(frozen=True, kw_only=True)
class Judgment:
    """The verdicts on one task and metric of a table."""

    summary: Summary
    """The summary, as of a study."""
    folder: Path | None
    """Folder of the study; None if it was not kept."""
    reading: tuple[str, ...]
    """How the table was read, and what was assumed."""
    kind: str
    """Format of the table, and the program that wrote it."""


@check_arguments
def judge(
    source: Path,
    *,
    margin: float,
    metric: str | None = None,
    arm: str | None = None,
    seed: str | None = None,
    baseline: str | None = None,
    higher_is_better: bool | None = None,
    task: str | None = None,
    step: str | None = None,
    state: str | None = None,
    scores: str | None = None,
    seconds: str | None = None,
    pattern: str | None = None,
    unit: str = "",
    alpha: float = 0.05,
    looks: Sequence[int] = (),
    spending: Spending | None = None,
    targets: Sequence[float | str] = (),
    target_margin: float = DEFAULT_MARGIN,
    out: Path | None = None,
) -> Summary:
    r"""Judge a table of runs that any program wrote: which arm is better than the baseline, which worse or equivalent?

    Args:
        source: A file (CSV, TSV, JSON, JSON lines, Parquet, ``mlflow.db``, Trackio's ``<project>.db``) or a folder
            (``mlruns``, ``wandb``, TensorBoard's log folder, or one with a table per run).
        margin: Smallest difference worth having, in the unit of the metric.
        metric: Column of the metric. Like every column it is inferred if None, and named in the error if it cannot be.
        arm: Column of the arms; several, joined by commas, are one arm per combination.
        seed: Column of the seeds, which pair the runs.
        baseline: Arm that the others are compared with; None for one called layer_norm, baseline or control.
        higher_is_better: Direction of the metric; None if its name says it, as loss and accuracy do.
        task: Column of the tasks.
        step: Column of the steps, in a table with a row per step: the value of a run is its last one.
        state: Column of states such as finished and crashed.
        scores: Column with a list per run, the scores of its test examples, whose mean is the metric: a claim must then
            hold over test examples, too.
        seconds: Column of the seconds since a run began, in a table with a row per step, for times to a target.
        pattern: Regular expression with the groups ``arm`` and ``seed`` for names of runs that have both.
        unit: Unit of the metric.
        alpha: Accepted probability of any false claim.
        looks: Numbers of pairs at which the results are read, such as ``(10, 15, 20)``, if they were planned before the
            first run; the table may hold any number of seeds up to the last. Seeds count in ascending order.
        spending: How alpha is spent over the looks; None for the default.
        targets: Values of the metric, and ``"baseline"`` for the best one of the baseline's run of each seed: the
            steps that each run takes to them are compared, too, in a table with a row per step.
        target_margin: Times whose ratio lies between 1 / margin and margin are equivalent.
        out: Folder in which the table is kept as a study, for :func:`normscope.write_report`; none if None.

    Returns:
        The summary, as of a study of our own.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If a package that reads the format is not installed.
        TableUnusable: If the table cannot be read, has duplicate or unpaired seeds, runs of different lengths, fewer
            than two arms, or several tasks or metrics; a ``ValueError``.

    Example:
        >>> from pathlib import Path
        >>> import normscope
        >>> rows = [f"{norm},{seed},{0.30 + 0.01 * seed + (norm == 'rms_norm') * (0.02 + 0.001 * seed)}"
        ...         for norm in ("layer_norm", "rms_norm") for seed in range(8)]
        >>> _ = Path("results.csv").write_text("norm,seed,test_loss\n" + "\n".join(rows))
        >>> summary = normscope.judge("results.csv", margin=0.01)
        >>> [(arm.label, arm.pairs, arm.verdict) for arm in summary.arms]
        [('layer_norm', 8, 'baseline'), ('rms_norm', 8, 'worse')]
    """
    judged = judge_all(
        source,
        columns=ColumnOptions(
            **{"metric": metric, "seed": seed, "arm": arm, "task": task, "step": step, "state": state},
            scores=scores,
            seconds=seconds,
            pattern=pattern,
        ),
        margin=margin,
        baseline=baseline,
        higher_is_better=higher_is_better,
        unit=unit,
        alpha=alpha,
        looks=looks,
        spending=spending,
        targets=targets,
        target_margin=target_margin,
        out=out,
        only=True,
    )
    return judged[0].summary


def judge_all(
    source: Path,
    *,
    columns: ColumnOptions,
    margin: float,
    baseline: str | None = None,
    higher_is_better: bool | None = None,
    unit: str = "",
    alpha: float = 0.05,
    looks: Sequence[int] = (),
    spending: Spending | None = None,
    targets: Sequence[float | str] = (),
    target_margin: float = DEFAULT_MARGIN,
    out: Path | None = None,
    command: str = "",
    only: bool = False,
) -> list[Judgment]:
    """Judge every task and metric of a table, each as a study.

    Args:
        source: As for :func:`judge`, like the other arguments that it has.
        columns: Names of columns.
        margin: Smallest difference worth having.
        baseline: Label of the baseline.
        higher_is_better: Direction of the metrics.
        unit: Unit of the metrics.
        alpha: Accepted probability of any false claim, per study.
        looks: Numbers of pairs at which the results are read.
        spending: How alpha is spent over them.
        targets: Values of the metrics, and ``"baseline"``.
        target_margin: Times whose ratio lies between 1 / margin and margin are equivalent.
        out: Folder of the study; of several, the folder that holds theirs.
        command: Command that repeats it, for the page.
        only: Whether several studies are refused.

    Returns:
        One judgment per task and metric that has values.

    Raises:
        TableUnusable: As for :func:`judge`.
    """
    if not 0 < margin < float("inf"):
        raise TableUnusable(f"the margin must be positive and finite, got {margin}")
    if not 0 < alpha < 0.5:
        raise TableUnusable(f"alpha must be between 0 and 0.5, got {alpha}")
    plan = _plan(looks, spending)
    goals = TargetPlan(values=parse_targets(targets), margin=target_margin) if targets else None
    table, found = read_columns(read_table(Path(source)), columns)
    if goals is not None and found.step is None:
        raise TableUnusable(
            f"{table.source} has no column of steps: times to a target need a row per evaluation of every run, "
            "with its step; name the column with --step"
        )
    directions = {metric: _direction(metric, higher_is_better) for metric in found.metrics}
    parts = [
        (task, metric, groups)
        for task, groups in group_rows(table, found).items()
        for metric in found.metrics
        if any(metric in row.values for rows in groups.values() for row in rows)
    ]
    if not parts:
        raise TableUnusable(f"{table.source} has no value of {', '.join(found.metrics)}")
    if only and len(parts) > 1:
        names = ", ".join(f"{metric} on {task}" if task else metric for task, metric, _ in parts)
        raise TableUnusable(f"{table.source} has {len(parts)} studies, {names}: choose one, or use judge_all")
    with tempfile.TemporaryDirectory(prefix="normscope-judge-") as scratch:
        judgments = []
        for number, (task, metric, groups) in enumerate(parts):
            where = f"{found.task} {task} of {table.source}" if task else table.source
            runs = read_runs(groups, metric, found, where)
            base = _baseline(runs, baseline, where)
            home = Path(scratch) / "study" if out is None else Path(out)
            folder = home if len(parts) == 1 else home / _folder_name(task, metric, number)
            seeds = order_seeds(None if out is None else folder, runs, plan, where)
            check_runs(runs, base, where, order=None if plan is None else seeds)
            reading = _describe_reading(table, found, metric, directions[metric], base, len(parts))
            write_study(
                folder,
                table,
                runs,
                seeds=seeds,
                task=task or table.source,
                metric={"name": _shown(metric), "unit": unit, "higher_is_better": directions[metric]},
                baseline=base,
                margin=margin,
                alpha=alpha,
                looks=plan,
                targets=goals,
                command=command or f"normscope.judge({table.source!r}, margin={margin!r}, ...)",
                reading=reading,
                warnings=[*table.notes, *differing_settings(groups, found, found.metrics)],
            )
            summary = summarize(folder)
            summary.write(folder)
            judgments.append(
                Judgment(
                    summary=summary, folder=None if out is None else folder, reading=tuple(reading), kind=table.kind
                )
            )
        return judgments


def _plan(looks: Sequence[int], spending: Spending | None) -> LookPlan | None:
    """Return the looks, or None if there are none.

    Raises:
        TableUnusable: If nothing can be claimed at the first, or a spending comes without looks.
    """
    if not looks:
        if spending is not None:
            raise TableUnusable("a spending of alpha is for looks: give them, such as --looks 10,15,20")
        return None
    if min(looks) < LEAST_PAIRS:
        raise TableUnusable(f"nothing is claimed below {LEAST_PAIRS} pairs, got a look at {min(looks)}")
    return LookPlan(pairs=tuple(looks), spending=spending or DEFAULT_SPENDING)


def _direction(metric: str, higher_is_better: bool | None) -> bool:
    known = direction(leaf(metric))
    if higher_is_better is None and known is None:
        raise TableUnusable(
            f"whether a higher or a lower {metric} is better is not known from its name: say --higher-is-better or "
            "--lower-is-better"
        )
    return bool(known) if higher_is_better is None else higher_is_better


def _baseline(runs: Sequence[ForeignRun], wanted: str | None, source: str) -> str:
    """Return the label of the baseline.

    Raises:
        TableUnusable: If there are fewer than two arms, the baseline is not one of them, or no arm has the name of a
            baseline.
    """
    labels = list(dict.fromkeys(run.arm for run in runs))
    if len(labels) < 2:
        raise TableUnusable(
            f"{source} has one arm, {labels[0]}: a comparison needs two; name another column with --arm"
        )
    if wanted is not None:
        if wanted not in labels:
            raise TableUnusable(f"{source} has no arm {wanted!r} for --baseline; it has {', '.join(labels)}")
        return wanted
    likely = [label for name in _BASELINES for label in labels if re.sub(r"[\s-]+", "_", label.casefold()) == name]
    if not likely:
        raise TableUnusable(f"which arm is the baseline? Name it with --baseline: {', '.join(labels)}")
    return likely[0]


def _folder_name(task: str, metric: str, number: int) -> str:
    words = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(filter(None, (task, metric)))).strip("._")[:80]
    return f"{number + 1:02d}-{words}"


def _shown(metric: str) -> str:
    """Return the name of a metric without the prefix that a tracker gives it."""
    return re.sub(r"^(metrics|summary)\.", "", metric)


def _describe_reading(
    table: ForeignTable, found: Columns, metric: str, higher: bool, baseline: str, studies: int
) -> list[str]:
    """Describe how the table was read, and what was assumed."""
    known = direction(leaf(metric))
    why = "" if known is None else " (by its name)" if known == higher else " (as you say; its name says the opposite)"
    rows = "1 row" if len(table.rows) == 1 else f"{len(table.rows):,} rows"
    return [
        f"{table.source} was read as {table.kind}, {rows}",
        *found.reading,
        f"metric = {metric}, {'higher' if higher else 'lower'} is better{why}",
        f"baseline = {baseline}",
        *([f"{studies} studies, each at its own alpha: not corrected for their number"] if studies > 1 else []),
    ]
