"""Published cells as data: what a paper prints, where, and how it can be compared with our runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from normscope.studies.spec import StudySpec
from normscope.tasks.task import Metric

NormsAt = Literal["all", "final"]
"""Which norms of a network the arms replace: all, or those at the ends of its streams."""


@dataclass(frozen=True, kw_only=True)
class PaperArm:
    """An arm of a paper, in the numbers of the paper; None for what it does not vary."""

    norm: str
    """A norm, as on the command line."""
    variant: str | None = None
    """Variant of the task."""
    placement: str | None = None
    """Key of ``PLACEMENTS``."""
    warmup: int | None = None
    """Number of warm-up updates."""
    learning_rate: float | None = None
    """Peak learning rate."""


@dataclass(frozen=True, kw_only=True)
class Epsilon:
    """Largest distance from the published figure that counts as agreement."""

    value: float
    """Distance in the metric's unit."""
    reason: str
    """Reason for the value."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One published result: a figure, a difference, a run that diverged, or a faster one."""

    id: str
    """Unique in its paper, such as ``rt/ada_norm-layer_norm``."""
    tables: tuple[str, ...]
    """Tables in which it is printed, as on the command line: ``table1``."""
    source: str
    """Source for readers, and how the figure was read."""
    kind: Literal["value", "difference", "diverges", "faster"]
    """A figure; arm minus baseline; the claim that the arm does not train where the baseline does; or the ratio of the
    updates that the arm needs for the baseline's best validation value to those of the baseline."""
    says: str
    """Claim in words."""
    task: str
    """Key of ``TASKS`` for the data set of the paper."""
    stand_ins: tuple[str, ...] = ()
    """Tasks that may be run if the data of the paper are missing; results always name the stand-in."""
    metric: Metric
    """Name, unit, direction; the signature is empty if the paper does not print the settings of its scorer."""
    measure: str = ""
    """Name of the figure among the ``measures`` of a run or the columns of its scores; empty for the task's metric."""
    chance: float | None = None
    """What a network reaches that has learned nothing; None if :mod:`normscope.papers.judging.agreement` knows it."""
    arm: PaperArm
    """Arm of the paper."""
    baseline: PaperArm | None = None
    """Arm that it is compared with; for ``diverges`` the arm that trains. None for a ``value``."""
    published: float | None = None
    """Figure or difference in the metric's unit, or ratio; None if only words are printed: better, or faster."""
    printed: tuple[float, ...] = ()
    """Printed figures of arm and baseline, if any."""
    examples: int | None = None
    """Size of the test set in units that the metric counts; None if unknown."""
    examples_note: str = ""
    """Source of the size."""
    epsilon: Epsilon | None = None
    """Epsilon, if it is not the larger of our margin and the published standard error."""
    differs: str
    """Differences of our setting, and what the paper does not print."""
    never_run: str = ""
    """Reason why it cannot be run; empty if it can."""

    def __post_init__(self) -> None:
        if (self.kind == "value") != (self.baseline is None):
            raise ValueError(f"{self.id}: a cell has a baseline unless it is a value, got {self.baseline}")
        if self.kind == "value" and self.published is None:
            raise ValueError(f"{self.id}: a {self.kind} needs its published number")
        if self.kind == "faster" and not (self.published is None or self.published > 0):
            raise ValueError(f"{self.id}: a ratio of updates is positive, got {self.published}")
        if (
            self.kind == "difference"
            and len(self.printed) == 2
            and abs(self.printed[0] - self.printed[1] - (self.published or 0.0)) > 1e-9
        ):
            raise ValueError(f"{self.id}: {self.printed[0]} - {self.printed[1]} is not {self.published}")

    @property
    def places(self) -> tuple[str, ...]:
        """Task of the paper and its stand-ins."""
        return (self.task, *self.stand_ins)

    @property
    def direction(self) -> int:
        """Sign of the published difference; if only words are printed, that of an arm that is better."""
        if self.published is None:
            return 1 if self.metric.higher_is_better else -1
        return (self.published > 0) - (self.published < 0)


@dataclass(frozen=True, kw_only=True)
class Count:
    """A claim over data sets: the arm is better, worse, or not worse on a number of them."""

    id: str
    """Unique in its paper."""
    tables: tuple[str, ...]
    """Tables in which it can be counted."""
    source: str
    """Source of the claim."""
    says: str
    """Claim in words."""
    cells: tuple[str, ...]
    """Ids of the cells that it counts, one per data set."""
    wanted: tuple[Literal[1, -1, 0], ...]
    """Outcomes that count: 1 better, -1 worse, 0 equal within the margin."""
    published: int
    """Published number of data sets."""
    ties: int = 0
    """Number of data sets that the paper prints as equal."""


@dataclass(frozen=True, kw_only=True)
class PaperStudy:
    """A study that reproduces cells, and which of its arms corresponds to which arm of the paper."""

    name: str
    """Name of its folder."""
    spec: StudySpec
    """Specification of the study."""
    labels: Mapping[PaperArm, str]
    """Label of our arm by arm of the paper."""
    plain: Mapping[PaperArm, str] = field(default_factory=dict)
    """The same with the task's placement for the network without norms, if ``labels`` has another; else empty."""
    norms_at: NormsAt = "all"
    """Which norms the arms replace."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Settings that all studies of a paper share."""

    preset: str
    """Key of a task's presets."""
    seeds: tuple[int, ...] | None
    """One run per arm and seed, paired by seed; if None, the first ten, or as many as the looks need."""
    looks: tuple[int, ...] = ()
    """Numbers of seeds after which undecided arms are tested; empty to test once."""
    until_decided: bool = False
    """Whether there are looks at the default numbers of seeds if ``looks`` is empty."""
    max_seeds: int | None = None
    """Number of seeds at the last look; that of the looks if None."""
    steps: int | None = None
    """Number of updates of every run; that of the preset if None."""
    device: str = "cpu"
    """Name of the device in torch."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Key of ``normscope.tasks.recipe.PRECISIONS``."""
    compile: bool = False
    """Whether the training loss is compiled."""
    norms_at: NormsAt = "all"
    """With ``final``, tasks that support it replace only the final norms and keep layer norm elsewhere."""
    tune: bool = False
    """Whether the learning rate of every arm is tuned, if the paper does not prescribe it."""
    without_norms: str = ""
    """Placement of the network without norms; the task's if empty."""


class MakeStudies(Protocol):
    """Builds the studies of a paper on one task."""

    def __call__(self, task: str, setup: Setup) -> tuple[PaperStudy, ...]:
        """Return the studies of a task."""
        ...


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A printed statement about an equation beside what a computation in float64 says; no data, no training."""

    says: str
    """Statement in words."""
    published: str
    """What the paper prints."""
    ours: str
    """What was measured."""
    verdict: Literal["reproduced", "not reproduced"]
    """Whether the two agree."""
    because: str
    """Reason, with the deviation."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A table or section of statements about equations."""

    what: str
    """Description in a line."""
    source: str
    """Where the statements are printed."""
    run: Callable[[], tuple[Statement, ...]]
    """Computes all statements, in a second or two."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper: its results, and the studies that reproduce them."""

    name: str
    """Name on the command line."""
    title: str
    """Authors, year, title, number."""
    cells: tuple[Cell, ...]
    """All printed results that could be read."""
    counts: tuple[Count, ...]
    """Claims over data sets."""
    studies: MakeStudies
    """Builds the studies of a task."""
    stand_ins: Mapping[str, str]
    """Difference of every stand-in from the data set of the paper."""
    figures: Mapping[str, str]
    """Figures that can be reproduced, with a description."""
    probes: Mapping[str, "Probe"] = field(default_factory=dict)
    """Statements about equations, by the name of their table or section."""
    norms_at: tuple[NormsAt, ...] = ("all",)
    """Supported values of :attr:`Setup.norms_at`."""

    def __post_init__(self) -> None:
        ids = [cell.id for cell in self.cells] + [count.id for count in self.counts]
        twice = sorted({each for each in ids if ids.count(each) > 1})
        if twice:
            raise ValueError(f"{self.name}: every cell needs a unique id, {twice} occur twice")
        unknown = sorted({each for count in self.counts for each in count.cells} - set(ids))
        if unknown:
            raise ValueError(f"{self.name}: there are no cells {unknown} to be counted")

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks of cells that can be run, stand-ins included, in the order of the cells."""
        return tuple(dict.fromkeys(task for cell in self.cells if not cell.never_run for task in cell.places))

    @property
    def tables(self) -> tuple[str, ...]:
        """All tables that cells and counts name."""
        return tuple(dict.fromkeys(table for claim in (*self.cells, *self.counts) for table in claim.tables))
