"""What a task is: the interface that training and studies rest on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

NormFactory = Callable[[int], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a run is judged by: the mean over test examples of one score each."""

    name: str
    """In words, such as ``test error``."""
    unit: str
    """Such as ``%``."""
    higher_is_better: bool
    """Its direction."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Figures that somebody printed for this task, to stand beside ours."""

    source: str
    """Paper, table or figure."""
    rows: Mapping[str, float]
    """From a norm, as the command line writes it, to its figure, in the task's metric and unit."""
    note: str
    """How exact they are and what differs from our setting."""


class PlacementLike(Protocol):
    """What a task needs to know of a placement; ``normscope.placement.Placement`` is one."""

    @property
    def block(self) -> Callable[[nn.Module, int, NormFactory], nn.Module] | None:
        """Makes a residual block from (branch, width, norm)."""
        ...

    @property
    def normalize_stem(self) -> bool:
        """Whether a norm stands before the first block."""
        ...

    @property
    def normalize_final(self) -> bool:
        """Whether a norm stands after the last block."""
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

    def batch(self, indices: Tensor) -> Any:
        """Give the training examples of ``indices``, ``[B]`` int64, in the form that the task's loss takes."""
        ...


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
    def dataset(self) -> str:
        """Key of the data set it reads."""
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
    def steps(self) -> int:
        """Updates of the default preset."""
        ...

    @property
    def full_steps(self) -> int:
        """Updates of the full preset."""
        ...

    @property
    def batch_size(self) -> int:
        """Examples an update."""
        ...

    @property
    def learning_rate(self) -> float:
        """Adam's first learning rate."""
        ...

    @property
    def regime(self) -> str:
        """What claims are limited to: network, data, optimizer, depth."""
        ...

    @property
    def published(self) -> tuple[Published, ...]:
        """What others printed for it."""
        ...

    def network(self, norm: NormFactory, placement: PlacementLike) -> nn.Module:
        """Build the network with any weights."""
        ...

    def load(self, device: torch.device, split: str) -> TaskData:
        """Read the data onto a device; ``split`` is ``"study"`` or ``"tune"``."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Compute the training loss of a batch, a scalar."""
        ...

    def evaluate(self, model: nn.Module, data: Any, part: str) -> tuple[float, np.ndarray]:
        """Give the mean loss and the score of every example, ``[examples]`` float32, of ``"valid"`` or ``"test"``."""
        ...
