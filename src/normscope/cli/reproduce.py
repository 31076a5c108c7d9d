"""``normscope reproduce``: the progress of a paper's studies, and its tables of verdicts."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from normscope.cli.parsing import DEFAULTS, JSON, RunOptions, parse_counts, parse_seeds
from normscope.cli.progress import DownloadProgress, StudyProgress
from normscope.cli.tables import open_console, rows_table

if TYPE_CHECKING:
    from normscope.papers import ReproductionRequest
    from normscope.studies import RunEvent

WIDE = 110
"""Columns from which the reasons have room."""

STYLES = {"reproduced": "bold green", "not reproduced": "bold red", "cannot": "yellow", "not": "dim"}
"""The colour of a verdict, by its first words; the words say it all."""


def reproduce(
    paper: Annotated[str, Parameter(help="xu2019 or xiong2020")],
    /,
    *,
    only: Annotated[str, Parameter(help="tasks, tables, figures, such as rt,table3; see --list")] = "",
    seeds: Annotated[str, Parameter(help="such as 0-9; fewer than six cannot reach significance")] = "0-9",
    layers: Annotated[str, Parameter(help="sizes of the gradient figure")] = "6,8,10,12,14",
    width: Annotated[int, Parameter(help="of its networks")] = 512,
    tokens: Annotated[int, Parameter(help="of its batch")] = 2048,
    out: Annotated[Path | None, Parameter(help="folder of the studies; runs/<paper> where left out")] = None,
    norms_at: Annotated[
        Literal["all", "final"],
        Parameter(help="which norms the arms replace; final, the two at the ends, is xu2019's released De-En code"),
    ] = "all",
    read_only: Annotated[bool, Parameter(help="judge what the folder holds and compute nothing")] = False,
    list_cells: Annotated[
        bool, Parameter(name="--list", help="show the cells, or those of --only, and what can be run here")
    ] = False,
    json_output: JSON = False,
    options: RunOptions = DEFAULTS,
) -> None:
    """Try what a paper printed: run its studies, or resume them, and give every cell a verdict.

    Differences are compared, on paired seeds, never figures by themselves; of BLEU, whose scorer neither paper names,
    the direction alone. Nothing is concluded from runs cut short or baselines that do not train. Writes reproduce.json
    and reproduce.md beside the studies. Stop it at any time: the same command goes on.

    For example:

    normscope reproduce xu2019 --list

    normscope reproduce xu2019 --only rt,sst5

    normscope reproduce xiong2020 --only gradients
    """
    from normscope.papers import ReproductionRequest, Setting

    request = ReproductionRequest(
        paper=paper,
        only=tuple(name.strip() for name in only.split(",") if name.strip()),
        seeds=tuple(parse_seeds(seeds)),
        preset=options.preset,
        steps=options.steps,
        out=out,
        workers=options.workers,
        device=options.device,
        precision=options.precision,
        compile=options.compile,
        norms_at=norms_at,
        read_only=read_only,
        gradients=Setting(layers=tuple(parse_counts(layers)), width=width, tokens=tokens),
        command=shlex.join(["normscope", *sys.argv[1:]]),
    )
    if list_cells:
        _list_cells(request)
    else:
        _run(request, json_output=json_output)


def _list_cells(request: "ReproductionRequest") -> None:
    """List what a paper says, all or what the request asks for, and what of it can be run on this machine.

    Raises:
        LookupError: If there is no such paper, task, table or figure.
    """
    from normscope.papers import choose, missing
    from normscope.papers.judging.tables import list_rows

    chosen = choose(request)
    paper = chosen.paper
    lacking = {task: missing(task) for task in paper.tasks}
    console = open_console()
    asked = {task for cell in chosen.cells for task in cell.places}
    if chosen.cells:
        console.print(_cells(list_rows(chosen.cells, chosen.counts, lacking), paper.title, console.width))
    for task, words in lacking.items():
        if words and task in asked:
            _say(console, f"{task} cannot be run here: {words}")
    able = [task for task in paper.tasks if not lacking[task]]
    _say(console, f"--only takes tasks that can be run here: {', '.join(able)}; tables: {', '.join(paper.tables)}")
    for figure, words in paper.figures.items():
        _say(console, f"and {figure}: {words}")
    if len(paper.norms_at) > 1:
        _say(console, f"--norms-at takes {' or '.join(paper.norms_at)}")


def _run(request: "ReproductionRequest", *, json_output: bool = False) -> None:
    """Run a request with a bar for every stage, then print its tables, or ``reproduce.json``.

    Raises:
        KeyboardInterrupt: If the user stopped it; it says how to go on.
    """
    from normscope.papers import choose
    from normscope.papers import reproduce as reproduce_paper

    console = open_console(stderr=json_output)
    chosen = choose(request)
    asked = ", ".join((*chosen.tasks, *chosen.figures)) or "nothing that can be run here"
    doing = "reading" if request.read_only else "running, or resuming,"
    _say(console, f"{chosen.paper.title}\n{doing} {asked} in {request.folder}")
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    stages = _Stages(console, bar)
    try:
        with DownloadProgress(console) as fetched:
            content = reproduce_paper(request, callback=stages.run, gradients_callback=stages.network, fetched=fetched)
    except KeyboardInterrupt:
        stages.stop()
        _say(console, f"\nStopped; what is finished is kept in {request.folder}. The same command goes on.")
        raise
    finally:
        stages.stop()
    if json_output:
        print(json.dumps(content, indent=1, allow_nan=False))
        return
    _print(console, content)
    _say(console, f"Page: {request.folder / 'reproduce.md'}")


class _Stages:
    """One bar at a time: the study that runs, or the gradient figure."""

    def __init__(self, console: Console, bar: Progress) -> None:
        self.console = console
        self.studies = StudyProgress(console)
        self.bar = bar
        self.started = False

    def run(self, event: "RunEvent") -> None:
        """Take an event of a run."""
        if not self.started:
            self.studies.__enter__()
            self.started = True
        spec = event.spec
        name = f"{spec.task} {spec.label} seed {spec.seed}"
        self.studies.callback(spec.id, name, event.state, event.step, of=spec.recipe.steps, note=event.note)

    def network(self, done: int, of: int, name: str) -> None:
        """Take how many networks are measured."""
        if not self.bar.task_ids:
            self.studies.progress.stop()
            self.bar.start()
            self.bar.add_task("", total=of)
        self.bar.update(self.bar.task_ids[0], completed=done, description=name)
        if not self.console.is_terminal and (done % 10 == 0 or done == of):
            _say(self.console, f"{done} of {of} networks measured, the last {name}")

    def stop(self) -> None:
        """Take the bars away."""
        self.studies.progress.stop()
        self.bar.stop()


def _print(console: Console, content: Mapping[str, Any]) -> None:
    from normscope.papers.judging.tables import (
        AUDIT,
        COST,
        audit_rows,
        cost_rows,
        gradient_rows,
        result_rows,
        setting_words,
    )

    cells = [one for one in content["cells"] if one["kind"] == "count" or one["id"] in content["asked"]]
    if not content["asked"]:
        cells = []
    for task in dict.fromkeys(one["task"] for one in cells):
        judged = [one for one in cells if one["task"] == task]
        title = task or "Over data sets, and what was not run"
        console.print(_results(result_rows(judged), title, console.width))
        for words in setting_words(task, judged, content):
            _say(console, words.replace("**", ""))
        for study in (one for one in content["studies"] if one["task"] == task):
            console.print(rows_table(COST, cost_rows(study["costs"]), f"What the arms cost ({study['folder']})"))
    weighed = [one for one in cells if one["kind"] in ("difference", "count")]
    if weighed:
        console.print(rows_table(AUDIT, audit_rows(weighed), "What the published figures rest on"))
    if content["not_drawn"]:
        _say(console, f"Gradients at initialization: not run here: {content['not_drawn']}")
    if content["gradients"]:
        lines = gradient_rows(content["gradients"]["lines"])
        console.print(_results(lines, "Gradient norms at initialization, slopes", console.width))


def _cells(rows: Sequence[Sequence[str]], title: str, width: int) -> Table:
    """Draw what there is; below :data:`WIDE` columns without where it is printed and what it rests on."""
    from normscope.papers.judging.tables import LISTED

    kept = range(len(LISTED)) if width >= WIDE else (0, 1, 3)
    table = Table(title=Text(title, "table.title"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for at in kept:
        table.add_column(LISTED[at], no_wrap=LISTED[at] == "published")
    for row in rows:
        table.add_row(*(Text(row[at]) for at in kept))
    return table


def _results(rows: Sequence[Sequence[str]], title: str, width: int) -> Table:
    """Draw verdicts; below :data:`WIDE` columns without the reasons, which are on the page."""
    from normscope.papers.judging.tables import RESULT

    columns = RESULT if width >= WIDE else RESULT[:-1]
    table = Table(title=Text(title, "table.title"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in columns:
        # Numbers stay whole; words are broken between words.
        least = max(map(len, {"verdict": ("not reproduced",), "claim": ("difference of the two",)}.get(name, (name,))))
        table.add_column(name, min_width=least, no_wrap=name in ("published", "epsilon"))
    for row in rows:
        style = next((style for word, style in STYLES.items() if row[4].startswith(word)), "")
        table.add_row(*(Text(cell, style if at == 4 else "") for at, cell in enumerate(row[: len(columns)])))
    return table


def _say(console: Console, words: str) -> None:
    console.print(words, markup=False, highlight=False, soft_wrap=True)
