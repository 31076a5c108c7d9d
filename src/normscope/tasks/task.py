"""The interface of a task, on which training and studies rely."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from normscope.registry import UnknownName
from normscope.tasks.batching import Draw
from normscope.tasks.recipe import Recipe

Splits = Literal["published", "resampled"]
"""Rule of a study: the data set's one split for all seeds, or a split of its own for every seed, equal in all arms."""

DEFAULT_VARIANT = "default"
"""Name of the task as it is, among its variants."""

Split = Literal["study", "tune", "resampled", "resampled_tune"]
"""Split of a run. ``"tune"`` splits the published training data only, so that tuning never uses a study's validation or
test data. ``"resampled"`` is the split of the run's seed, and ``"resampled_tune"`` the same without its test data."""

TESTED: tuple[Split, ...] = ("study", "resampled")
"""Splits of runs that are tested; the others serve to choose a learning rate."""

RESAMPLED: tuple[Split, ...] = ("resampled", "resampled_tune")
"""Splits that depend on the run's seed."""


def split_of(splits: Splits, *, tune: bool) -> Split:
    """Return the split of a run by the rule of its study."""
    if splits == "resampled":
        return "resampled_tune" if tune else "resampled"
    return "tune" if tune else "study"


Part = Literal["valid", "test"]
"""Part of the data on which a model is evaluated."""

DATA_SETS_KEPT = 2
"""Size of every cache of data sets in a process: enough for the two splits of a task."""

NormFactory = Callable[[int], nn.Module]

TrainCallback = Callable[[int, float], None]
"""Takes the number of updates made and the last training loss; raises an exception to end the run."""

TrainLoop = Callable[[nn.Module, TrainCallback, Recipe], None]
"""Trains a model in place and calls the callback every few updates."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score per example and its aggregation over a data set.

    Example:
        >>> from normscope import Metric
        >>> Metric(name="test error", unit="%", higher_is_better=False).aggregate
        'mean'
    """

    name: str
    """Display name, such as ``test error``."""
    unit: str
    """Unit, such as ``%``."""
    higher_is_better: bool
    """Direction of the metric."""
    aggregate: str = "mean"
    """Aggregation of the scores: key of ``normscope.results.aggregates.AGGREGATES``."""
    signature: str = ""
    """Settings of the scorer, such as sacreBLEU's signature; values with different signatures are never compared."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Published figures for a task, shown beside measured values."""

    source: str
    """Paper, table or figure."""
    rows: Mapping[str, float]
    """Norm, in command-line notation, to its figure, in the task's metric and unit."""
    note: str
    """Precision of the figures, and differences from the setting of the task."""
    signature: str = ""
    """Signature of the scorer as printed by the source; empty if the source omits it."""


class PlacementLike(Protocol):
    """The interface of a placement that tasks use; ``normscope.placement.Placement`` implements it."""

    def stack(
        self,
        branches: Sequence[tuple[str, nn.Module]],
        width: int,
        norm: NormFactory,
        *,
        part: Literal["only", "encoder", "decoder"] = "only",
        other_layers: int = 0,
    ) -> nn.Module:
        """Build a residual stream from branches, with its norms."""
        ...


class Order(Protocol):
    """The assignment of training examples to batches."""

    def batch(self, step: int) -> Tensor:
        """Return the example indices of batch ``step``, int64."""
        ...


class TaskData(Protocol):
    """A data set in memory, divided into training, validation and test data."""

    @property
    def train_examples(self) -> int:
        """Number of training examples."""
        ...

    @property
    def hashes(self) -> Mapping[str, str]:
        """SHA-256 of every source file."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """Numbers of examples excluded from training, by reason; recorded with every run."""
        ...

    def order(self, batch_size: int, draw: Draw) -> Order:
        """Return the assignment of examples to batches; ``draw`` returns the random generator of an epoch."""
        ...

    def batch(self, indices: Tensor) -> Any:
        """Return the training examples of ``indices``, ``[B]`` int64, in the form that :meth:`Task.loss` takes."""
        ...


@runtime_checkable
class Task(Protocol):
    """A data set with its network, loss, metric and recipe.

    Example:
        >>> from normscope import Task, find_task
        >>> task = find_task("digits")
        >>> isinstance(task, Task), task.datasets
        (True, ('digits',))
    """

    @property
    def name(self) -> str:
        """Key in ``TASKS``."""
        ...

    @property
    def revision(self) -> int:
        """Incremented whenever the numbers of a run change, so that old runs are not mistaken for new ones."""
        ...

    @property
    def description(self) -> str:
        """One-line description for ``normscope list tasks``."""
        ...

    @property
    def datasets(self) -> tuple[str, ...]:
        """Keys of its data sets."""
        ...

    @property
    def placements(self) -> tuple[str, ...]:
        """Placements the network supports, default first."""
        ...

    @property
    def metric(self) -> Metric:
        """Metric of the test data."""
        ...

    @property
    def margin(self) -> float:
        """Smallest relevant difference, in the metric's unit."""
        ...

    @property
    def valid_metric(self) -> Metric:
        """Metric of the validation data; differs from :attr:`metric` if that takes too long to compute."""
        ...

    @property
    def presets(self) -> Mapping[str, Recipe]:
        """Training settings: ``small`` for a laptop, ``full`` at the paper's scale or until convergence."""
        ...

    @property
    def batch_unit(self) -> str:
        """Unit of a recipe's batch size, such as ``examples`` or ``padded tokens``."""
        ...

    @property
    def regime(self) -> str:
        """Scope of the claims: network, data, optimizer, depth."""
        ...

    @property
    def splits(self) -> Mapping[Splits, str]:
        """What a claim generalizes over, such as ``over seeds``, by each rule of splits that the task supports.

        The first is the default.
        """
        ...

    @property
    def variants(self) -> Mapping[str, str]:
        """Other settings of the task that arms may have, by name, such as an initialization, each with a description.

        They change the network, the loss or the recipe, never the data, the metric or the split.
        """
        ...

    @property
    def published(self) -> tuple[Published, ...]:
        """Published figures for the task."""
        ...

    @property
    def location(self) -> str:
        """``path/my_file.py:make`` if the task is defined in a user's file, else empty."""
        ...

    @property
    def brings_weights(self) -> bool:
        """Whether :meth:`network` returns the initial weights of a run; if not, they are drawn from the run's seed."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether every operation must have a deterministic implementation; if not, torch only warns."""
        ...

    @property
    def train(self) -> TrainLoop | None:
        """The task's training loop; None if :mod:`normscope.training` trains the model."""
        ...

    def varied(self, variant: str) -> "Task":
        """Return the task with a setting of :attr:`variants`; :func:`in_variant` checks the name."""
        ...

    def for_run(self, seed: int, split: Split) -> "Task":
        """Return the task for a single run, without mutable state shared with other runs."""
        ...

    def context(self) -> AbstractContextManager[None]:
        """Return the context in which every other method is called during a run."""
        ...

    def check(self, recipe: Recipe, *, tune: bool) -> None:
        """Check that the task follows a recipe.

        Raises:
            ValueError: If a setting of the recipe, or tuning, would have no effect.
        """
        ...

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> nn.Module:
        """Build the network of a preset, with arbitrary weights unless :attr:`brings_weights`."""
        ...

    def load(self, device: torch.device, split: Split, preset: str) -> TaskData:
        """Read the data of a split onto a device."""
        ...

    def loss(self, model: Any, batch: Any) -> Tensor:
        """Compute the training loss of a batch, a scalar."""
        ...

    def evaluate(self, model: Any, data: Any, part: Part) -> tuple[float, np.ndarray]:
        """Return the mean loss and the score of every example, ``[E]`` or ``[E, K]`` float32, of a part of the data.

        The number of columns K is determined by the aggregate of the part's metric.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class BaseTask:
    """Common fields of tasks that :mod:`normscope.training` trains, and defaults of the :class:`Task` protocol."""

    name: str
    """Key in ``TASKS``."""
    description: str
    """One-line description for ``normscope list tasks``."""
    margin: float
    """Smallest relevant difference, in the metric's unit."""
    regime: str
    """Scope of the claims: network, data, optimizer, depth."""
    published: tuple[Published, ...] = ()
    """Published figures for the task."""
    revision: int = 1
    """Incremented whenever the numbers of a run change."""
    splits: Mapping[Splits, str] = field(default_factory=lambda: {"published": "over seeds, and over test examples"})
    """What a claim generalizes over, by each rule of splits that the task supports, default first."""
    split_seed: int | None = None
    """Seed whose split the task has, set by :meth:`for_run`; None for the published split."""

    batch_unit = "examples"
    location = ""
    brings_weights = False
    deterministic = True
    train = None

    @property
    def variants(self) -> Mapping[str, str]:
        """Other settings of the task that arms may have: none, unless a subclass has any."""
        return {}

    def varied(self, variant: str) -> Self:
        """Return the task with a setting of :attr:`variants`.

        Raises:
            NotImplementedError: If the subclass has variants and does not define this.
        """
        raise NotImplementedError

    @property
    def metric(self) -> Metric:
        """Metric of the test data.

        Raises:
            NotImplementedError: If the subclass does not define it.
        """
        raise NotImplementedError

    @property
    def valid_metric(self) -> Metric:
        """Metric of the validation data: that of the test data."""
        return self.metric

    def for_run(self, seed: int, split: Split) -> Self:
        """Return the task with the split of a seed if that is resampled, else the task itself; neither is mutable."""
        return replace(self, split_seed=seed) if split in RESAMPLED else self

    def context(self) -> AbstractContextManager[None]:
        """Return a context without effect."""
        return nullcontext()

    def check(self, recipe: Recipe, *, tune: bool) -> None:
        """Accept every recipe."""


def in_variant(task: Task, variant: str | None) -> Task:
    """Return a task in one of its variants; None for the task as it is.

    Raises:
        UnknownName: If it has no such variant.
        ValueError: If it has no variants at all.
    """
    if variant is None:
        return task
    if not task.variants:
        raise ValueError(f"task {task.name} has no variants, got {variant!r}")
    if variant not in task.variants:
        raise UnknownName(f"variant of {task.name}", [DEFAULT_VARIANT, *task.variants], variant)
    return task.varied(variant)


def check_split(split: str, seed: int | None = None) -> None:
    """Check the name of a split, and that it is that of a seed if it is resampled.

    Args:
        split: Name of the split.
        seed: Seed whose split the task has, by :meth:`Task.for_run`; None for the published split.

    Raises:
        ValueError: If it is not one of :data:`Split`, or the seed is missing or not used.
    """
    known = [name for name in get_args(Split) if (name in RESAMPLED) == (seed is not None)]
    if split not in known:
        how = "" if split not in get_args(Split) else ": for_run(seed, split) gives the task of a run"
        raise ValueError(f"split must be {' or '.join(map(repr, known))}, got {split!r}{how}")


def check_blind(model: nn.Module, task: str) -> None:
    """Check that no norm computes statistics over the positions of a sequence (``mixes_positions``).

    Such a norm would see the words to be predicted, and the padding: a sentence's score would depend on its batch.

    Raises:
        ValueError: If a norm of the network mixes positions.
    """
    mixing = next((module for module in model.modules() if getattr(module, "mixes_positions", False)), None)
    if mixing is not None:
        raise ValueError(
            f"{type(mixing).__name__} takes its statistics over all positions of a sequence, so in {task} it would see "
            "padding, and words that are to be predicted"
        )
