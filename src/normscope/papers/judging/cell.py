"""A published cell: what a paper prints, where, and what of it can be held against ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from normscope.studies.spec import StudySpec
from normscope.tasks.task import Metric


@dataclass(frozen=True, kw_only=True)
class PaperArm:
    """What a paper trained, in the paper's own numbers; None for what it does not vary."""

    norm: str
    """Key of ``NORMS``."""
    placement: str | None = None
    """Key of ``PLACEMENTS``."""
    warmup: int | None = None
    """Updates of warm-up."""
    learning_rate: float | None = None
    """The largest one."""


@dataclass(frozen=True, kw_only=True)
class Epsilon:
    """How far ours may lie from the published figure and still be called the same."""

    value: float
    """In the metric's unit."""
    reason: str
    """Why so much."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One thing that a paper says, as a figure, a difference, or a run that broke."""

    id: str
    """Unique in its paper, such as ``rt/ada_norm-layer_norm``."""
    tables: tuple[str, ...]
    """Where it is printed, as the command line names it: ``table1``."""
    source: str
    """The same for people, with how it was read."""
    kind: Literal["value", "difference", "diverges"]
    """A figure by itself, arm minus baseline, or that the arm does not train where the baseline does."""
    says: str
    """In words."""
    task: str
    """Key of ``TASKS``, of the paper's own data set."""
    stand_ins: tuple[str, ...] = ()
    """Tasks that may be run where the paper's data are not here; never named as the set itself."""
    metric: Metric
    """Name, unit, direction; its signature is empty where the scorer has choices that the paper does not print."""
    arm: PaperArm
    """What it is about."""
    baseline: PaperArm | None = None
    """What that is compared with; of ``diverges`` what trains where the arm does not. A ``value`` has none."""
    published: float | None = None
    """The figure or the difference, in the metric's unit; None where only words are printed."""
    printed: tuple[float, ...] = ()
    """The figures of arm and baseline as they are printed, where they are."""
    examples: int | None = None
    """Size of the test set, in what the metric counts; None where nobody says."""
    examples_note: str = ""
    """Where the size is from."""
    epsilon: Epsilon | None = None
    """Where it is not the larger of our margin and the published test-set error."""
    differs: str
    """What our setting has otherwise, and what the paper does not print."""
    never_run: str = ""
    """Why nothing here can run it; empty where something can."""

    def __post_init__(self) -> None:
        if (self.kind == "value") != (self.baseline is None):
            raise ValueError(f"{self.id}: everything but a value has a baseline, and a value none, got {self.baseline}")
        if self.kind != "diverges" and self.published is None:
            raise ValueError(f"{self.id}: a {self.kind} needs its published number")
        if len(self.printed) == 2 and abs(self.printed[0] - self.printed[1] - (self.published or 0.0)) > 1e-9:
            raise ValueError(f"{self.id}: {self.printed[0]} - {self.printed[1]} is not {self.published}")

    @property
    def places(self) -> tuple[str, ...]:
        """The paper's own task and its stand-ins."""
        return (self.task, *self.stand_ins)


@dataclass(frozen=True, kw_only=True)
class Count:
    """A claim over data sets: the arm is better, worse, or not worse on so many of them."""

    id: str
    """Unique in its paper."""
    tables: tuple[str, ...]
    """Where it can be counted."""
    source: str
    """Where it is said."""
    says: str
    """In words."""
    cells: tuple[str, ...]
    """Ids of the cells that it counts, one a data set."""
    wanted: tuple[int, ...]
    """What counts: 1 better, -1 worse, 0 equal within the margin."""
    published: int
    """How many of them it says."""
    ties: int = 0
    """How many of them the paper prints as equal."""


@dataclass(frozen=True, kw_only=True)
class PaperStudy:
    """A card that reproduces cells, and which of its arms stands for which of the paper's."""

    name: str
    """Of its folder."""
    card: StudySpec
    """The question."""
    labels: Mapping[PaperArm, str]
    """From what the paper trained to the label of our arm."""
    norms_at: str = "all"
    """Which norms of the network the arms replace: ``all``, or ``final``, those at the ends of its streams."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How the studies of a paper are run, the same for all of them."""

    preset: str
    """Key of a task's presets."""
    seeds: tuple[int, ...]
    """One run an arm and seed."""
    steps: int | None = None
    """Updates of every run; the preset's where None."""
    device: str = "cpu"
    """As torch names it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Key of ``normscope.tasks.recipe.PRECISIONS``."""
    compile: bool = False
    """Whether the training loss is compiled."""
    norms_at: str = "all"
    """``final``: arms of the tasks that say so replace the final norms alone, and layer norm stands elsewhere."""


class MakeStudies(Protocol):
    """Writes the cards of a paper on one task."""

    def __call__(self, task: str, setup: Setup) -> tuple[PaperStudy, ...]:
        """Give the studies of a task."""
        ...


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper: what it says, and how to try it."""

    name: str
    """As the command line has it."""
    title: str
    """Authors, year, title, number."""
    cells: tuple[Cell, ...]
    """Everything printed that we could read."""
    counts: tuple[Count, ...]
    """Claims over data sets."""
    studies: MakeStudies
    """Writes the cards for a task."""
    stand_ins: Mapping[str, str]
    """What every stand-in has otherwise than the paper's set."""
    figures: Mapping[str, str]
    """What can be asked for beside tasks and tables, and what it is."""
    norms_at: tuple[str, ...] = ("all",)
    """What its studies can replace: values of :attr:`Setup.norms_at`."""

    def __post_init__(self) -> None:
        ids = [cell.id for cell in self.cells] + [count.id for count in self.counts]
        twice = sorted({each for each in ids if ids.count(each) > 1})
        if twice:
            raise ValueError(f"{self.name}: every cell needs an id of its own, {twice} occur twice")
        unknown = sorted({each for count in self.counts for each in count.cells} - set(ids))
        if unknown:
            raise ValueError(f"{self.name}: there are no cells {unknown} to be counted")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task that a cell names, own sets and stand-ins, in the cells' order; those of cells never run not."""
        return tuple(dict.fromkeys(task for cell in self.cells if not cell.never_run for task in cell.places))

    @property
    def tables(self) -> tuple[str, ...]:
        """Every table that a cell names."""
        return tuple(dict.fromkeys(table for one in (*self.cells, *self.counts) for table in one.tables))
