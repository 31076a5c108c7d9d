"""``normscope atlas``: one page of every comparison in a folder of studies."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from normscope.cli.parsing import JSON


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
