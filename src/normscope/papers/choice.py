"""What of a paper is asked for, and what of it this machine can run."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from normscope import data
from normscope.catalogue import TASKS, look_up
from normscope.data.sets import SETS
from normscope.papers.cell import Cell, Paper
from normscope.papers.initial_gradients import Setting
from normscope.papers.library import PAPERS


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be reproduced, and how."""

    paper: str
    """Key of ``PAPERS``."""
    only: tuple[str, ...] = ()
    """Tasks, tables and figures; everything that can be run where empty."""
    seeds: tuple[int, ...] = tuple(range(10))
    """One run an arm and seed."""
    preset: str = "small"
    """Key of a task's presets."""
    steps: int | None = None
    """Updates of every run; the preset's where None."""
    out: Path | None = None
    """Where the studies are; ``runs/<paper>`` where None."""
    workers: int | None = None
    """Processes; one a core where None."""
    device: str = "cpu"
    """As torch names it."""
    read_only: bool = False
    """Whether nothing is computed and only what is there is judged."""
    gradients: Setting = field(default_factory=Setting)
    """Of the gradient figure, where the paper has one."""
    command: str = "normscope.reproduce"
    """What the page says makes it again."""

    @property
    def folder(self) -> Path:
        """Where everything lies."""
        return Path("runs") / self.paper if self.out is None else self.out


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a request comes to."""

    paper: Paper
    cells: tuple[Cell, ...]
    """Those that were asked for, or all."""
    tasks: tuple[str, ...]
    """Those that a study is run of, or tried."""
    figures: tuple[str, ...]
    """Of the paper's figures."""


def missing(task: str) -> str:
    """Say why a task cannot be run here without fetching anything; empty where it can.

    Args:
        task: Maybe a key of ``TASKS``.
    """
    if task not in TASKS:
        return "this version has no such task"
    states = [(name, data.state(SETS[name])) for name in TASKS[task].datasets]
    return "; ".join(f"data set {name} is {state.words}" for name, state in states if not state.ready)


def choose(request: Request) -> Chosen:
    """Find the cells that a request asks for, and the tasks to run: a paper's own where its data are here.

    Without ``only``, a cell whose data are not here is tried on its first stand-in that is. Tasks and tables together
    choose the cells that both name.

    Raises:
        LookupError: If there is no such paper, task, table or figure; the message suggests the nearest name.
    """
    paper = look_up("paper", PAPERS, request.paper)
    names = {"task": paper.tasks, "table": paper.tables, "figure": tuple(paper.figures)}
    every = [name for group in names.values() for name in group]
    for name in request.only:
        if name not in every:
            near = get_close_matches(name, every, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise LookupError(f"{paper.name} has no task, table or figure {name!r}: {hint}There are {', '.join(every)}")
    tasks, tables, figures = ([name for name in request.only if name in group] for group in names.values())
    if not request.only:
        figures = list(paper.figures)
    if figures and request.only and not tasks and not tables:
        return Chosen(paper=paper, cells=(), tasks=(), figures=tuple(figures))
    cells = [cell for cell in paper.cells if not tables or set(cell.tables) & set(tables)]
    cells = [cell for cell in cells if not tasks or set(cell.places) & set(tasks)]
    if not tasks:
        absent = {task: missing(task) for task in paper.tasks}
        for cell in cells:
            able = [task for task in cell.places if not absent.get(task, "unknown")]
            tasks += able[:1] if not cell.never_run else []
    return Chosen(paper=paper, cells=tuple(cells), tasks=tuple(dict.fromkeys(tasks)), figures=tuple(figures))
