"""``normscope status``, ``report`` and ``atlas``: what folders of studies have, on any machine that sees them."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from normscope.cli.parsing import JSON

if TYPE_CHECKING:
    from normscope.results import Summary
    from normscope.results.progress import Running, StudyState

MOST_ROWS = 20
"""Number of runs that are shown; more are counted."""


def report(
    directory: Annotated[Path, Parameter(help="folder of the study, which compare prints")],
    /,
    *,
    json_output: JSON = False,
) -> None:
    """Draw the table and the page of a study from its folder, finished or not; does not need torch.

    For example:

    normscope report runs/digits-0123456789
    """
    from normscope.cli.tables import open_console
    from normscope.report import write_report
    from normscope.results import summarize

    summary = summarize(directory)
    summary.write(directory)
    page = write_report(directory)
    if json_output:
        print(json.dumps(summary.to_dict(), indent=1, allow_nan=False))
        return
    console = open_console()
    print_summary(summary, console)
    console.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)


def atlas(
    directory: Annotated[Path, Parameter(help="folder that contains folders of studies, at any depth, such as runs")],
    /,
    *,
    out: Annotated[
        Path | None,
        Parameter(help="path of the page, name.html; default: atlas.html in the folder, and no page with --json"),
    ] = None,
    json_output: JSON = False,
) -> None:
    """Show what every study in a folder found, norms by tasks, on one page; does not need torch.

    A cell has the verdict of one arm of one study, the difference with its interval, and the cost. Nothing is merged or
    averaged, and what has not been measured is empty.

    For example:

    normscope atlas docs/results

    normscope atlas runs --out atlas.html

    normscope atlas runs --json
    """
    from normscope.report.atlas import read_atlas, write_atlas

    page = None if json_output and out is None else write_atlas(directory, out)
    comparisons = read_atlas(directory)
    if json_output:
        print(json.dumps(comparisons.to_dict(), indent=1, allow_nan=False))
        return
    from normscope.cli.tables import open_console, rows_table

    console = open_console()
    rows = [(norm, comparisons.sentence(norm).removeprefix(f"{norm}: ")) for norm in comparisons.norms]
    console.print(rows_table(("norm", "results, by task"), rows, "Which norm for which network?"))
    console.print(f"Page: {page}", markup=False, highlight=False, soft_wrap=True)


def print_summary(summary: "Summary", console: Console) -> None:
    """Print the tables of a study."""
    from normscope.cli.tables import target_tables, verdict_table

    title = summary.question + ("" if summary.untuned is None else " Every arm at its tuned learning rate:")
    console.print(verdict_table(summary, summary.arms, title, width=console.width))
    if summary.untuned is not None:
        title = "The same, untuned: every arm at the task's learning rate:"
        console.print(verdict_table(summary, summary.untuned, title, width=console.width))
    for table in target_tables(summary, width=console.width):
        console.print(table)


def status(
    directory: Annotated[Path, Parameter(help="folder of the study, which compare prints")],
    /,
    *,
    json_output: JSON = False,
) -> None:
    """Show how far a study is: what waits, what runs where, what has ended, and the time left; does not need torch.

    It reads the folder alone, so it works on every machine that sees it, whatever computes the study.

    For example:

    normscope status runs/digits-0123456789
    """
    from normscope.cli.tables import open_console, rows_table
    from normscope.results.progress import read_state

    state = read_state(directory)
    if json_output:
        print(json.dumps({"schema": 1, **asdict(state), "left": state.left}, indent=1, allow_nan=False))
        return
    console = open_console()
    console.print(f"{state.question} {_counts(state)}", markup=False, highlight=False)
    if state.running:
        rows = [_row(run) for run in state.running[:MOST_ROWS]]
        console.print(rows_table(("run", "where", "since", "step"), rows, ""))
        if len(state.running) > MOST_ROWS:
            console.print(f"and {len(state.running) - MOST_ROWS} more", highlight=False)
    console.print(_time_left(state), markup=False, highlight=False)


def _counts(state: "StudyState") -> str:
    """Return the numbers of runs, such as ``Look 1 of 3: 4 waiting, 2 running, 10 done.``."""
    stage = ""
    if state.stage is not None:
        stage = (
            "Tuning: " if state.stage.kind == "tuning" else f"Look {state.stage.number} of {len(state.stage.pairs)}: "
        )
    states = {
        "waiting": state.waiting,
        "running": len(state.running),
        "done": state.ended.get("done", 0),
        **state.ended,
    }
    return f"{stage}{', '.join(f'{count} {name}' for name, count in states.items())}."


def _row(run: "Running") -> tuple[str, str, str, str]:
    silent = f" (silent for {_duration(run.silent)})" if run.is_silent else ""
    step = f"{run.step:,}" + (f" of {run.of:,}" if run.of else "")
    return f"{run.label} seed {run.seed}", run.holder + silent, _duration(max(0.0, time.time() - run.since)), step


def _time_left(state: "StudyState") -> str:
    if not state.left:
        return "All runs have ended: `normscope report` has the results."
    if not any(not run.is_silent for run in state.running):
        what = f"{state.left} runs are left, and no process computes one"
        return f"{what}: the command that began the study goes on with it."
    if state.minutes is None:
        return "The time left is unknown before the first run is done."
    what = {None: "", "look": " to the look", "tuning": " of the tuning"}[state.stage and state.stage.kind]
    return f"About {_duration(60 * state.minutes)}{what} with as many processes as now."


def _duration(seconds: float) -> str:
    """Return a duration in its largest fitting unit: ``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
