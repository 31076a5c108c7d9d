"""What a reproduction is asked for, and which cells, tasks, figures and statements of a paper that selects."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from normscope import data
from normscope.data.registry import SETS
from normscope.papers.ba2016.study import BA2016
from normscope.papers.judging.cell import Cell, Count, NormsAt, Paper, Setup
from normscope.papers.xiong2020.initial_gradients import Setting
from normscope.papers.xiong2020.study import XIONG2020
from normscope.papers.xu2019.study import XU2019
from normscope.registry import look_up
from normscope.tasks import TASKS

PAPERS: dict[str, Paper] = {"xu2019": XU2019, "xiong2020": XIONG2020, "ba2016": BA2016}


@dataclass(frozen=True, kw_only=True)
class ReproductionRequest:
    """Selection and settings of a reproduction."""

    paper: str
    """Key of ``PAPERS``."""
    only: tuple[str, ...] = ()
    """Tasks, tables, figures and probes; if empty, everything that can be run."""
    seeds: tuple[int, ...] | None = None
    """One run per arm and seed, paired by seed; if None, the first ten, or as many as the looks need."""
    looks: tuple[int, ...] = ()
    """Numbers of seeds after which undecided arms are tested; empty to test once."""
    until_decided: bool = False
    """Whether there are looks at the default numbers of seeds if ``looks`` is empty."""
    max_seeds: int | None = None
    """Number of seeds at the last look; that of the looks if None."""
    minutes: float | None = None
    """Time after which each study with looks stops; the same request goes on from there. None for no limit."""
    preset: str = "small"
    """Key of a task's presets."""
    steps: int | None = None
    """Number of updates of every run; that of the preset if None."""
    out: Path | None = None
    """Folder of the studies; ``runs/<paper>`` if None."""
    workers: int | None = None
    """Number of processes; one per core if None."""
    device: str = "cpu"
    """Name of the device in torch."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Key of ``normscope.tasks.recipe.PRECISIONS``."""
    compile: bool = False
    """Whether the training loss is compiled."""
    norms_at: NormsAt = "all"
    """Which norms the arms replace: one of the paper's ``norms_at``."""
    tune: bool = True
    """Whether the learning rate of every arm is tuned, with equal budgets, and the initialization without norms chosen.

    Tuned studies have folders of their own, and take over the runs of untuned ones with the same seeds, without looks.
    """
    read_only: bool = False
    """Whether to judge existing runs only, without computing any."""
    gradients: Setting = field(default_factory=Setting)
    """Setting of the gradient figure, if the paper has one."""
    command: str = ""
    """Command that repeats the reproduction, shown on the page; a line of Python if empty."""

    @property
    def folder(self) -> Path:
        """Folder of the studies and results."""
        return Path("runs") / self.paper if self.out is None else Path(self.out)

    @property
    def setup(self) -> Setup:
        """Settings that all studies of the paper share."""
        return Setup(
            preset=self.preset,
            seeds=None if self.seeds is None else tuple(self.seeds),
            looks=tuple(self.looks),
            until_decided=self.until_decided,
            max_seeds=self.max_seeds,
            steps=self.steps,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            norms_at=self.norms_at,
            tune=self.tune,
        )


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Cells, tasks and figures that a request selects."""

    paper: Paper
    cells: tuple[Cell, ...]
    """Requested cells, or all."""
    counts: tuple[Count, ...]
    """Counts over any of these cells, in the requested tables."""
    tasks: tuple[str, ...]
    """Tasks of which a study is run, if possible."""
    figures: tuple[str, ...]
    """Requested figures of the paper."""
    probes: tuple[str, ...]
    """Requested probes of the paper."""


def missing(task: str) -> str:
    """Return why a task cannot be run without a download; empty if it can.

    Args:
        task: Name of a task, which may be unknown.
    """
    if task not in TASKS:
        return "this version has no such task"
    lacking = missing_packages(task)
    states = [(name, data.state(SETS[name])) for name in TASKS[task].datasets]
    absent = [f"data set {name} is {state.description}" for name, state in states if not state.ready]
    return "; ".join([lacking, *absent] if lacking else absent)


def missing_packages(task: str) -> str:
    """Return which required packages of a task are not installed; empty if all are.

    Args:
        task: Key of ``TASKS``.
    """
    absent = [name for name in getattr(TASKS[task], "packages", ()) if find_spec(name) is None]
    return f"it needs {' and '.join(absent)}: `pip install normscope[text]` brings them" if absent else ""


def choose(request: ReproductionRequest) -> Chosen:
    """Select the cells of a request, and the tasks to run.

    Without ``only``, a cell is run on the task of the paper if its data are available, else on the first stand-in whose
    data are. Tasks and tables together select the cells that both contain.

    Raises:
        LookupError: If there is no such paper, task, table or figure; the message suggests the nearest name.
        ValueError: If the studies of the paper cannot replace the requested norms.
    """
    paper = look_up("paper", PAPERS, request.paper)
    if request.norms_at not in paper.norms_at:
        raise ValueError(f"{paper.name} replaces norms at: {', '.join(paper.norms_at)}; got {request.norms_at!r}")
    names = {
        "task": paper.tasks,
        "table": paper.tables,
        "figure": tuple(paper.figures),
        "probe": tuple(paper.probes),
    }
    every = [name for group in names.values() for name in group]
    for name in request.only:
        if name not in every:
            near = get_close_matches(name, every, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise LookupError(f"{paper.name} has no task, table or figure {name!r}: {hint}There are {', '.join(every)}")
    tasks, tables, figures, probes = ([name for name in request.only if name in group] for group in names.values())
    if not request.only:
        figures, probes = list(paper.figures), list(paper.probes)
    if request.only and not tasks and not tables:
        return Chosen(paper=paper, cells=(), counts=(), tasks=(), figures=tuple(figures), probes=tuple(probes))
    cells = [cell for cell in paper.cells if not tables or set(cell.tables) & set(tables)]
    cells = [cell for cell in cells if not tasks or set(cell.places) & set(tasks)]
    if not tasks:
        absent = {task: missing(task) for task in paper.tasks}
        for cell in cells:
            able = [task for task in cell.places if not absent.get(task, "unknown")]
            tasks += able[:1] if not cell.never_run else []
    ids = {cell.id for cell in cells}
    counts = [each for each in paper.counts if set(each.cells) & ids and (not tables or set(each.tables) & set(tables))]
    return Chosen(
        paper=paper,
        cells=tuple(cells),
        counts=tuple(counts),
        tasks=tuple(dict.fromkeys(tasks)),
        figures=tuple(figures),
        probes=tuple(probes),
    )
