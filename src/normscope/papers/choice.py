"""What of a paper is asked for, and what of it this machine can run."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from normscope import data
from normscope.catalogue import TASKS, look_up
from normscope.data.sets import SETS
from normscope.papers.cell import Cell, Count, Paper, Setup
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
    precision: str = "float32"
    """Key of ``normscope.tasks.recipe.PRECISIONS``."""
    compile: bool = False
    """Whether the training loss is compiled."""
    norms_at: str = "all"
    """Which norms the arms replace: one of the paper's ``norms_at``."""
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

    @property
    def setup(self) -> Setup:
        """What the paper's studies are made from."""
        return Setup(
            preset=self.preset,
            seeds=tuple(self.seeds),
            steps=self.steps,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            norms_at=self.norms_at,
        )


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a request comes to."""

    paper: Paper
    cells: tuple[Cell, ...]
    """Those that were asked for, or all."""
    counts: tuple[Count, ...]
    """Those over any of them, in the tables that were asked for."""
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
    lacking = missing_packages(task)
    states = [(name, data.state(SETS[name])) for name in TASKS[task].datasets]
    said = [f"data set {name} is {state.words}" for name, state in states if not state.ready]
    return "; ".join([lacking, *said] if lacking else said)


def missing_packages(task: str) -> str:
    """Say which packages a task lacks here; empty where it has all.

    Args:
        task: Key of ``TASKS``.
    """
    absent = [name for name in getattr(TASKS[task], "packages", ()) if find_spec(name) is None]
    return f"it needs {' and '.join(absent)}: `pip install normscope[text]` brings them" if absent else ""


def choose(request: Request) -> Chosen:
    """Find the cells that a request asks for, and the tasks to run: a paper's own where its data are here.

    Without ``only``, a cell whose data are not here is tried on its first stand-in that is. Tasks and tables together
    choose the cells that both name.

    Raises:
        LookupError: If there is no such paper, task, table or figure; the message suggests the nearest name.
        ValueError: If the paper's studies cannot replace the norms that are asked for.
    """
    paper = look_up("paper", PAPERS, request.paper)
    if request.norms_at not in paper.norms_at:
        raise ValueError(f"{paper.name} replaces norms at: {', '.join(paper.norms_at)}; got {request.norms_at!r}")
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
        return Chosen(paper=paper, cells=(), counts=(), tasks=(), figures=tuple(figures))
    cells = [cell for cell in paper.cells if not tables or set(cell.tables) & set(tables)]
    cells = [cell for cell in cells if not tasks or set(cell.places) & set(tasks)]
    if not tasks:
        absent = {task: missing(task) for task in paper.tasks}
        for cell in cells:
            able = [task for task in cell.places if not absent.get(task, "unknown")]
            tasks += able[:1] if not cell.never_run else []
    ids = {cell.id for cell in cells}
    counts = [one for one in paper.counts if set(one.cells) & ids and (not tables or set(one.tables) & set(tables))]
    return Chosen(
        paper=paper, cells=tuple(cells), counts=tuple(counts), tasks=tuple(dict.fromkeys(tasks)), figures=tuple(figures)
    )
