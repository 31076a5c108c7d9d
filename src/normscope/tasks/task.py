"""What a task is: the interface that training and studies rest on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from normscope.tasks.batching import Draw
from normscope.tasks.recipe import Recipe

NormFactory = Callable[[int], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a run is judged by: its test examples' scores, put together."""

    name: str
    """In words, such as ``test error``."""
    unit: str
    """Such as ``%``."""
    higher_is_better: bool
    """Its direction."""
    aggregate: str = "mean"
    """How the scores of examples become one value: key of ``normscope.results.aggregates.AGGREGATES``."""
    signature: str = ""
    """How a scorer that leaves choices open was set; figures of different signatures are never compared."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Figures that somebody printed for this task, to stand beside ours."""

    source: str
    """Paper, table or figure."""
    rows: Mapping[str, float]
    """From a norm, as the command line writes it, to its figure, in the task's metric and unit."""
    note: str
    """How exact they are and what differs from our setting."""
    signature: str = ""
    """Of its scorer, as the source prints it; empty where it has choices that the source does not print."""


class PlacementLike(Protocol):
    """What a task needs to know of a placement; ``normscope.placement.Placement`` is one."""

    def stack(
        self,
        branches: Sequence[tuple[str, nn.Module]],
        width: int,
        norm: NormFactory,
        *,
        part: str = "only",
        other_layers: int = 0,
    ) -> nn.Module:
        """Build the residual stream of these branches with its norms."""
        ...


class Order(Protocol):
    """Which training examples make which batch."""

    def batch(self, step: int) -> Tensor:
        """Give the indices of batch ``step``, int64."""
        ...


class TaskData(Protocol):
    """A data set in memory, split."""

    @property
    def train_examples(self) -> int:
        """Size of the training set."""
        ...

    @property
    def hashes(self) -> Mapping[str, str]:
        """SHA-256 of every file it was read from."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """How many examples were left out of training, by reason; recorded with every run."""
        ...

    def order(self, batch_size: int, draw: Draw) -> Order:
        """Say which examples make which batch; ``draw`` gives the random source of every pass."""
        ...

    def batch(self, indices: Tensor) -> Any:
        """Give the training examples of ``indices``, ``[B]`` int64, in the form that the task's loss takes."""
        ...


@runtime_checkable
class Task(Protocol):
    """A data set with its network, loss, metric and recipe."""

    @property
    def name(self) -> str:
        """Key in the catalogue."""
        ...

    @property
    def revision(self) -> int:
        """Raised whenever numbers change, so that old runs are not taken for new ones."""
        ...

    @property
    def description(self) -> str:
        """One line for ``normscope list tasks``."""
        ...

    @property
    def datasets(self) -> tuple[str, ...]:
        """Keys of the data sets it reads."""
        ...

    @property
    def placements(self) -> tuple[str, ...]:
        """Placements that its network can take, its default first."""
        ...

    @property
    def metric(self) -> Metric:
        """What a run is judged by."""
        ...

    @property
    def margin(self) -> float:
        """Smallest difference worth having, in the metric's unit."""
        ...

    @property
    def valid_metric(self) -> Metric:
        """What the validation set is judged by, where testing as such would take too long; else the same."""
        ...

    @property
    def presets(self) -> Mapping[str, Recipe]:
        """How it is trained: ``small`` on a laptop, ``full`` at the paper's scale or until figures stop improving."""
        ...

    @property
    def batch_unit(self) -> str:
        """What a recipe's batch size counts: ``examples``, ``padded tokens``."""
        ...

    @property
    def regime(self) -> str:
        """What claims are limited to: network, data, optimizer, depth."""
        ...

    @property
    def published(self) -> tuple[Published, ...]:
        """What others printed for it."""
        ...

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> nn.Module:
        """Build the network of a preset with any weights."""
        ...

    def load(self, device: torch.device, split: str, preset: str) -> TaskData:
        """Read the data onto a device; ``split`` is ``"study"`` or ``"tune"``."""
        ...

    def loss(self, model: Any, batch: Any) -> Tensor:
        """Compute the training loss of a batch, a scalar."""
        ...

    def evaluate(self, model: Any, data: Any, part: str) -> tuple[float, np.ndarray]:
        """Give the mean loss and every example's score, ``[E]`` or ``[E, K]`` float32, of ``"valid"`` or ``"test"``.

        K is what the aggregate of the part's metric takes.
        """
        ...


def check_blind(model: nn.Module, task: str) -> None:
    """Refuse a norm that takes its statistics over a sequence, in testing, too; it says so by ``mixes_positions``.

    It would see the words that are to be predicted, and the pads: a sentence's score would depend on its batch.

    Raises:
        ValueError: If a norm of the network does.
    """
    seeing = next((module for module in model.modules() if getattr(module, "mixes_positions", False)), None)
    if seeing is not None:
        raise ValueError(
            f"{type(seeing).__name__} takes its statistics over all positions of a sequence, so in {task} it would see "
            "pads, and words that are to be predicted"
        )
