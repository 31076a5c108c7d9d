"""``normscope reproduce``: run the studies of a paper, show their progress, and print the tables of verdicts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from normscope.cli.parsing import (
    DEFAULTS,
    JSON,
    LAST_LOOK,
    LOOKS,
    UNTIL_DECIDED,
    RunOptions,
    given,
    parse_counts,
    parse_seeds,
    shell_words,
)
from normscope.cli.progress import DownloadProgress, StudyProgress
from normscope.cli.tables import open_console, rows_table

if TYPE_CHECKING:
    from normscope.papers import ReproductionRequest
    from normscope.studies import RunEvent

WIDE = 110
"""Minimum terminal width for the reasons."""

STYLES = {"reproduced": "bold green", "not reproduced": "bold red", "cannot": "yellow", "not": "dim"}
"""Style of a verdict by its first words."""


def reproduce(
    paper: Annotated[str, Parameter(help="paper to reproduce: xu2019, xiong2020 or ba2016")],
    /,
    *,
    only: Annotated[
        str,
        Parameter(
            help="tasks, tables, figures and probes to reproduce, such as rt,table3 (see --list); default: all",
            show_default=False,
        ),
    ] = "",
    seeds: Annotated[
        str,
        Parameter(
            help="seeds, such as 0-9; fewer than six cannot reach significance; default: 0-9, or as many from 0 on as "
            "the looks need",
            show_default=False,
        ),
    ] = "",
    until_decided: UNTIL_DECIDED = False,
    looks: LOOKS = "",
    max_seeds: LAST_LOOK = None,
    minutes: Annotated[
        float | None,
        Parameter(help="stop each study with looks after this time; the same command resumes it"),
    ] = None,
    layers: Annotated[str, Parameter(help="numbers of layers in the gradient figure")] = "6,8,10,12,14",
    width: Annotated[int, Parameter(help="width of the networks in the gradient figure")] = 512,
    tokens: Annotated[int, Parameter(help="number of tokens per batch in the gradient figure")] = 2048,
    out: Annotated[Path | None, Parameter(help="folder of the studies; default: runs/<paper>")] = None,
    norms_at: Annotated[
        Literal["all", "final"],
        Parameter(help="norms that the arms replace: all, or the two final norms, as in xu2019's released De-En code"),
    ] = "all",
    tune: Annotated[
        bool,
        Parameter(
            negative="--no-tune",
            help="tune the learning rate of every arm first, with equal budgets, and choose the initialization of the "
            "network without norms; the verdicts are those of the tuned arms, with the untuned ones beside them",
        ),
    ] = True,
    read_only: Annotated[
        bool, Parameter(help="evaluate the existing runs in the folder; compute and write nothing")
    ] = False,
    list_cells: Annotated[
        bool,
        Parameter(
            name="--list",
            help="list the results of the paper (with --only, a selection) and the tasks that can be run here",
        ),
    ] = False,
    json_output: JSON = False,
    options: RunOptions = DEFAULTS,
) -> None:
    """Reproduce a paper: run or resume its studies, and report a verdict per published result.

    Differences between norms are compared on paired seeds, not single values; for BLEU only their signs, because
    these papers do not name their scorers. Shortened runs and baselines that do not train give no verdict. Writes
    reproduce.json and reproduce.md beside the studies, but with --read-only. It can be stopped at any time: the same
    command resumes it.

    For example:

    normscope reproduce xu2019 --list

    normscope reproduce xu2019 --only rt,sst5

    normscope reproduce xu2019 --only rt,sst5 --no-tune

    normscope reproduce xiong2020 --only gradients

    normscope reproduce ba2016 --only cifar10_part,table1 --until-decided
    """
    from normscope.papers import ReproductionRequest, Setting

    request = ReproductionRequest(
        paper=paper,
        only=tuple(name.strip() for name in only.split(",") if name.strip()),
        seeds=tuple(parse_seeds(seeds)) if seeds else None,
        looks=tuple(parse_counts(looks)),
        until_decided=until_decided,
        max_seeds=max_seeds,
        minutes=minutes,
        preset=options.preset,
        steps=options.steps,
        out=out,
        workers=options.workers,
        device=options.device,
        precision=options.precision,
        compile=options.compile,
        norms_at=norms_at,
        tune=tune,
        read_only=read_only,
        gradients=Setting(layers=tuple(parse_counts(layers)), width=width, tokens=tokens),
        command=shell_words("normscope", *given()),
    )
    if list_cells:
        _list_cells(request)
    else:
        _reproduce(request, json_output=json_output)


def _list_cells(request: "ReproductionRequest") -> None:
    """List the requested results of a paper, and the tasks that can be run on this machine.

    Raises:
        UnknownName: If there is no such paper, task, table or figure.
    """
    from normscope.papers import choose, missing
    from normscope.papers.judging.tables import list_rows

    chosen = choose(request)
    paper = chosen.paper
    obstacles = {task: missing(task) for task in paper.tasks}
    console = open_console()
    requested = {task for cell in chosen.cells for task in cell.places}
    if chosen.cells:
        console.print(_cells(list_rows(chosen.cells, chosen.counts, obstacles), paper.title, console.width))
    for task, obstacle in obstacles.items():
        if obstacle and task in requested:
            _write(console, f"{task} cannot be run here: {obstacle}")
    available = [task for task in paper.tasks if not obstacles[task]]
    _write(console, f"--only accepts tasks: {', '.join(available)}; tables: {', '.join(paper.tables)}")
    for figure, description in paper.figures.items():
        _write(console, f"and {figure}: {description}")
    for name, probe in paper.probes.items():
        _write(console, f"and {name}: {probe.what} ({probe.source}), computed in a second")
    if len(paper.norms_at) > 1:
        _write(console, f"--norms-at accepts {' or '.join(paper.norms_at)}")


def _reproduce(request: "ReproductionRequest", *, json_output: bool = False) -> None:
    """Run a request with progress bars, and print its tables, or its content as JSON.

    Raises:
        KeyboardInterrupt: If the user interrupts it; a message explains how to resume.
    """
    from normscope.papers import choose
    from normscope.papers import reproduce as reproduce_paper

    console = open_console(stderr=json_output)
    chosen = choose(request)
    parts = ", ".join((*chosen.tasks, *chosen.figures, *chosen.probes)) or "nothing that can be run here"
    action = "reading" if request.read_only else "running or resuming"
    _write(console, f"{chosen.paper.title}\n{action} {parts} in {request.folder}")
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
        with DownloadProgress(console) as downloads:
            content = reproduce_paper(
                request, callback=stages.run, gradients_callback=stages.network, fetched=downloads
            )
    except KeyboardInterrupt:
        stages.stop()
        _write(console, f"\nStopped; the finished runs are in {request.folder}. The same command resumes.")
        raise
    finally:
        stages.stop()
    if json_output:
        print(json.dumps(content, indent=1, allow_nan=False))
        return
    _print(console, content)
    if not request.read_only:
        _write(console, f"Page: {request.folder / 'reproduce.md'}")


class _Stages:
    """The progress bars of the studies and of the gradient figure, one at a time."""

    def __init__(self, console: Console, bar: Progress) -> None:
        self.console = console
        self.studies = StudyProgress(console)
        self.bar = bar
        self.started = False

    def run(self, event: "RunEvent") -> None:
        """Update the bar of the studies with an event of a run."""
        if event.is_of_engine:
            self.studies.console.print(event.note, markup=False, highlight=False, soft_wrap=True)
            return
        if not self.started:
            self.studies.__enter__()
            self.started = True
        spec = event.spec
        name = f"{spec.task} {spec.label} seed {spec.seed}"
        self.studies.callback(spec.id, name, event.state, event.step, of=spec.recipe.steps, note=event.note)

    def network(self, done: int, of: int, name: str) -> None:
        """Update the bar of the gradient figure.

        Args:
            done: Number of measured networks.
            of: Total number of networks.
            name: Name of the last network.
        """
        if not self.bar.task_ids:
            self.studies.progress.stop()
            self.bar.start()
            self.bar.add_task("", total=of)
        self.bar.update(self.bar.task_ids[0], completed=done, description=name)
        if not self.console.is_terminal and (done % 10 == 0 or done == of):
            _write(self.console, f"{done} of {of} networks measured, the last {name}")

    def stop(self) -> None:
        """Remove the bars."""
        self.studies.progress.stop()
        self.bar.stop()


def _print(console: Console, content: Mapping[str, Any]) -> None:
    from normscope.papers.judging.tables import (
        AUDIT,
        COST,
        OBSTACLES,
        STATEMENT,
        audit_rows,
        cost_rows,
        gradient_rows,
        obstacle_rows,
        result_rows,
        setting_words,
        statement_rows,
    )

    cells = [cell for cell in content["cells"] if cell["kind"] == "count" or cell["id"] in content["asked"]]
    if not content["asked"]:
        cells = []
    for task in dict.fromkeys(cell["task"] for cell in cells):
        judged = [cell for cell in cells if cell["task"] == task]
        title = task or "Counts over data sets, and results that were not run"
        console.print(_results(result_rows(judged), title, console.width))
        for text in setting_words(task, judged, content):
            _write(console, text.replace("**", ""))
        for study in (study for study in content["studies"] if study["task"] == task):
            console.print(rows_table(COST, cost_rows(study["costs"]), f"Costs of the arms ({study['folder']})"))
    obstacles = obstacle_rows(cells)
    if obstacles:
        console.print(rows_table(OBSTACLES, obstacles, "What this machine cannot tell"))
    audited = [cell for cell in cells if cell["kind"] in ("difference", "count")]
    if audited:
        console.print(rows_table(AUDIT, audit_rows(audited), "Evidence for the published results"))
    if content["not_drawn"]:
        _write(console, f"Gradients at initialization: not run here: {content['not_drawn']}")
    for probe in content.get("probes", ()):
        title = f"{probe['source']}: {probe['what']}"
        console.print(_verdicts(STATEMENT, statement_rows(probe), title, console.width))
    if content["gradients"]:
        lines = gradient_rows(content["gradients"]["lines"])
        console.print(_results(lines, "Gradient norms at initialization, slopes", console.width))


def _cells(rows: Sequence[Sequence[str]], title: str, width: int) -> Table:
    """Build the table of published results; below :data:`WIDE` columns without their sources and evidence."""
    from normscope.papers.judging.tables import LISTED

    columns = range(len(LISTED)) if width >= WIDE else (0, 1, 3)
    table = Table(title=Text(title, "table.title"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for at in columns:
        table.add_column(LISTED[at], no_wrap=LISTED[at] == "published")
    for row in rows:
        table.add_row(*(Text(row[at]) for at in columns))
    return table


def _results(rows: Sequence[Sequence[str]], title: str, width: int) -> Table:
    """Build the table of verdicts on figures."""
    from normscope.papers.judging.tables import RESULT

    return _verdicts(RESULT, rows, title, width)


def _verdicts(names: Sequence[str], rows: Sequence[Sequence[str]], title: str, width: int) -> Table:
    """Build a table of verdicts; below :data:`WIDE` columns without the reasons, which are on the page."""
    columns = names if width >= WIDE else names[:-1]
    verdict = names.index("verdict")
    table = Table(title=Text(title, "table.title"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in columns:
        # Numbers are not wrapped; text is wrapped between words.
        least = max(map(len, {"verdict": ("not reproduced",), "claim": ("difference of the two",)}.get(name, (name,))))
        table.add_column(name, min_width=least, no_wrap=name in ("published", "epsilon"))
    for row in rows:
        style = next((style for word, style in STYLES.items() if row[verdict].startswith(word)), "")
        table.add_row(*(Text(cell, style if at == verdict else "") for at, cell in enumerate(row[: len(columns)])))
    return table


def _write(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
