"""``normscope report`` and ``normscope atlas``: the page of a study, and one of every comparison in a folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from normscope.cli.parsing import JSON

if TYPE_CHECKING:
    from normscope.results import Summary


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
