"""``normscope judge``: the verdict on anybody's table of runs."""

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from normscope.cli.gate import EXIT_CODES, GATE, GATE_ARM, Decision, check_gate_arm, decision, gate
from normscope.cli.parsing import JSON, TARGET, TARGET_MARGIN, given, parse_counts, shell_words

if TYPE_CHECKING:
    from normscope.results.foreign import Judgment


def judge(
    source: Annotated[
        Path,
        Parameter(
            help="table of runs: CSV, TSV, JSON, JSON lines, Parquet, or runs of W&B, MLflow, TensorBoard, Trackio"
        ),
    ],
    /,
    *,
    margin: Annotated[float, Parameter(help="smallest difference worth having, in the unit of the metric")],
    metric: Annotated[
        str | None,
        Parameter(help="column of the metric, or several with commas; unnamed columns are inferred and printed"),
    ] = None,
    arm: Annotated[
        str | None, Parameter(help="column of the arms; several with commas: one arm per combination")
    ] = None,
    seed: Annotated[str | None, Parameter(help="column of the seeds, which pair the runs")] = None,
    baseline: Annotated[
        str | None, Parameter(help="arm that the others are compared with; default: layer_norm, baseline or control")
    ] = None,
    higher_is_better: Annotated[
        bool, Parameter(help="higher values are better; default: by the metric's name")
    ] = False,
    lower_is_better: Annotated[bool, Parameter(help="lower values are better; default: by the metric's name")] = False,
    task: Annotated[str | None, Parameter(help="column of the tasks: each is a study")] = None,
    step: Annotated[
        str | None, Parameter(help="column of the steps, where a run has several rows; its last one counts")
    ] = None,
    state: Annotated[str | None, Parameter(help="column of the states, such as finished and crashed")] = None,
    scores: Annotated[
        str | None,
        Parameter(help="column with a list per run: the scores of its test examples; their mean is the metric"),
    ] = None,
    seconds: Annotated[
        str | None, Parameter(help="column of the seconds since a run began, beside the steps, for times to a target")
    ] = None,
    pattern: Annotated[
        str | None,
        Parameter(help="arm and seed in the names of runs, such as '(?P<arm>.+)-(?P<seed>\\d+)'; default: ...seed3..."),
    ] = None,
    unit: Annotated[str, Parameter(help="unit of the metric", show_default=False)] = "",
    alpha: Annotated[float, Parameter(help="accepted probability of any false claim, per study")] = 0.05,
    looks: Annotated[
        str,
        Parameter(
            help="numbers of seeds at which the results are read, such as 10,15,20, as planned before the first run; "
            "the last is the maximum; repeat the command when the table has more seeds",
            show_default=False,
        ),
    ] = "",
    spending: Annotated[
        Literal["pocock", "obrien_fleming", "kim_demets"] | None,
        Parameter(help="spending of alpha: early (pocock), late (obrien_fleming), or in between (kim_demets, default)"),
    ] = None,
    target: TARGET = "",
    target_margin: TARGET_MARGIN = 1.1,
    gate_exit: Annotated[GATE, Parameter(name="--gate")] = False,
    gate_arm: GATE_ARM = None,
    html: Annotated[Path | None, Parameter(help="file for the page of the study")] = None,
    out: Annotated[Path | None, Parameter(help="folder in which the study is kept, with its page")] = None,
    json_output: JSON = False,
) -> None:
    """Judge a table of runs that any program wrote: which arm is better, worse or equivalent; does not need torch.

    A table has a row per run, or per step of a run, with an arm, a seed and a metric. Runs of different arms with the
    same seed are paired. The command prints how it read each column. NaN, infinity, an empty cell or a state such as
    crashed counts as a failed run. Refused, with the rows: duplicate seeds, seeds without a partner, runs of different
    lengths.

    For example:

    normscope judge results.csv --margin 0.01

    normscope judge results.csv --metric test_loss --arm norm --seed seed --baseline layer_norm --margin 0.01 --gate

    normscope judge mlruns --metric test_loss --margin 0.01 --out study

    normscope judge curves.csv --margin 0.01 --step step --seconds elapsed --target 3.2,baseline

    Raises:
        TableUnusable: If the table cannot be read, or no verdict can rest on it.
        ValueError: If options exclude each other.
    """
    from normscope.cli.tables import open_console
    from normscope.results.foreign import TableUnusable, judge_all
    from normscope.results.foreign.columns import ColumnOptions

    if higher_is_better and lower_is_better:
        raise ValueError("--higher-is-better and --lower-is-better exclude each other")
    with tempfile.TemporaryDirectory(prefix="normscope-judge-") as scratch:
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
            higher_is_better=True if higher_is_better else False if lower_is_better else None,
            unit=unit,
            alpha=alpha,
            looks=parse_counts(looks),
            spending=spending,
            targets=[part.strip() for part in target.split(",") if part.strip()],
            target_margin=target_margin,
            out=out if out is not None else Path(scratch) / "study",
            command=shell_words("normscope", *given()),
        )
        for each in judged:
            check_gate_arm([every.label for every in each.summary.arms], each.summary.baseline, gate_arm)
        decided = gate([each.summary for each in judged], gate_arm)
        if html is not None and len(judged) > 1:
            raise TableUnusable(f"{len(judged)} studies have {len(judged)} pages: keep them in a folder with --out")
        pages = _write_pages(judged, html) if out is not None or html is not None else []
    if json_output:
        print(json.dumps(_content(judged, decided), indent=1, allow_nan=False))
    else:
        console = open_console()
        _print(judged, console)
        for page in pages:
            console.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)
    if gate_exit:
        sys.exit(EXIT_CODES[decided])


def _write_pages(judged: "list[Judgment]", html: Path | None) -> list[Path]:
    """Write the page of every study into its folder, and a copy to a file."""
    from normscope.files import write_atomically
    from normscope.report import write_report

    pages = [write_report(each.folder) for each in judged if each.folder is not None]
    if html is None:
        return pages
    write_atomically(html, pages[0].read_bytes())
    return [html]


def _content(judged: "list[Judgment]", decided: Decision) -> dict[str, Any]:
    """Return the answer for programs."""
    return {
        "schema": 1,
        "decision": decided,
        "exit_code": EXIT_CODES[decided],
        "studies": [
            {
                "read": list(each.reading),
                "decisions": {
                    arm.label: decision(arm) for arm in each.summary.arms if arm.label != each.summary.baseline
                },
                "summary": each.summary.to_dict(),
            }
            for each in judged
        ],
    }


def _print(judged: "list[Judgment]", console: Any) -> None:
    from normscope.cli.tables import look_tables, target_tables, verdict_table

    for each in judged:
        console.print(f"{'; '.join(each.reading)}.", markup=False, highlight=False, soft_wrap=True)
        title = f"{each.summary.task}: {each.summary.question}"
        console.print(verdict_table(each.summary, each.summary.arms, title, width=console.width))
        if each.summary.looks is not None and each.summary.looks.reached:
            for table in look_tables(each.summary, width=console.width):
                console.print(table)
        for table in target_tables(each.summary, width=console.width):
            console.print(table)
