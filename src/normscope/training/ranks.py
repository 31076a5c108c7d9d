r"""The processes that share every batch of a run: data-parallel training whose gradient is that of one process.

With :math:`N_r` terms (examples, tokens, points) in the part of process r, N terms in the batch and the loss
:math:`L_r` the mean over the terms of a part, the loss of the batch and its gradient are

.. math:: L = \sum_r \frac{N_r}{N} L_r, \quad \nabla L = \sum_r \nabla \left( \frac{N_r}{N} L_r \right)

so every process differentiates its loss times :math:`N_r / N`, and the gradients are added, not averaged.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from normscope.errors import NormscopeError
from normscope.tasks.batching import part_of_batch
from normscope.torch_internals import BatchNormBase

LONGEST = timedelta(days=7)
"""Longest wait for another process: the others wait while the first evaluates, which may take hours."""


class RankDied(NormscopeError, RuntimeError):
    """A process that shared the batches of a run has died; the run can be resumed."""


@dataclass(kw_only=True)
class Ranks:
    """The processes of a run, as one of them sees them; all of them call every method in the same order."""

    rank: int
    """Number of this process, from 0; process 0 evaluates and writes."""
    count: int
    """Number of processes."""
    is_counted: bool = True
    """Whether this process has examples of the batch; one example stands in for none."""

    def part(self, batch: Any) -> Any:
        """Return the examples of this process; if a batch is too small to have any for it, one of the last process.

        Raises:
            ValueError: As for :func:`normscope.tasks.batching.part_of_batch`.
        """
        part, examples = part_of_batch(batch, self.rank, self.count)
        self.is_counted = examples > 0
        return part if examples else part_of_batch(batch, self.count - 1, self.count)[0]

    def share(self, model: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> Callable[[Any], Tensor]:
        """Return the loss of a batch's part; its backward pass adds up the gradients of all processes.

        Weights, and at every step buffers, become those of process 0. Batch norms take moments over all processes.

        Args:
            model: The model, which stays the plain module that is evaluated and saved.
            loss: Function of the model and a part.
        """
        for module in model.modules():
            if getattr(module, "spans_processes", False):
                module.across = self.total  # pyright: ignore[reportArgumentType]
        shared = DistributedDataParallel(_Loss(model, loss), find_unused_parameters=True)
        shared.register_comm_hook(None, _add_up)
        return shared

    def weigh(self, loss: Tensor, terms: int) -> tuple[float, float]:
        """Return the loss of the whole batch, and the weight of this process in it.

        Args:
            loss: Mean over the terms of this process's part.
            terms: Number of these terms.
        """
        terms = terms if self.is_counted else 0
        sums = torch.tensor([loss.item() * terms if terms else 0.0, terms], dtype=torch.float64, device=loss.device)
        dist.all_reduce(sums)
        total, whole = sums.tolist()
        return total / whole, terms / whole

    def total(self, x: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes that have examples of the batch, with its gradient."""
        return _Sum.apply(x if self.is_counted else x * 0)  # pyright: ignore[reportReturnType]

    def wait(self) -> None:
        """Return when every process has called this."""
        dist.barrier()


@contextmanager
def joined(meeting: Path, rank: int, count: int, device: torch.device) -> Iterator[Ranks]:
    """Join the processes of a run in the block: by NCCL on CUDA devices, otherwise by gloo.

    Args:
        meeting: A file that does not exist, the same for all processes.
        rank: Number of this process.
        count: Number of processes.
        device: Device of the run; on CUDA each process uses the visible device of its number.

    Raises:
        RuntimeError: If this process is in a process group already.
    """
    if dist.is_initialized():
        raise RuntimeError(
            "this process is in a process group of torch.distributed: a run on several devices makes its own"
        )
    if device.type == "cuda":
        torch.cuda.set_device(rank)
    method, hook = meeting.absolute().as_uri(), sys.excepthook
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=method, rank=rank, world_size=count, timeout=LONGEST)
    try:
        yield Ranks(rank=rank, count=count)
    finally:
        dist.destroy_process_group()
        # torch has put the rank in front of every traceback of this process.
        sys.excepthook = hook


def check_norms(model: nn.Module, devices: int) -> None:
    """Check that processes that share a batch can compute the norms of a model as one process does.

    Raises:
        ValueError: If a norm takes statistics over the batch and cannot take them over processes.
    """
    if devices == 1:
        return
    for name, module in model.named_modules():
        traits = getattr(module, "traits", None)
        is_of_batch = isinstance(module, BatchNormBase) or getattr(traits, "statistics", None) == "batch"
        spans = getattr(module, "spans_processes", False) or isinstance(module, nn.SyncBatchNorm)
        if (is_of_batch and not spans) or getattr(traits, "holds_size", False):
            raise ValueError(
                f"{type(module).__name__} at {name!r} depends on all rows of a batch, and cannot add them up over the "
                f"{devices} devices of a run: use normscope.BatchNorm, torch's SyncBatchNorm, or a norm of rows"
            )


class _Loss(nn.Module):
    """The loss as a module, since gradients are added up for calls of a module's forward pass only."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> Tensor:
        """Compute the loss."""
        return self.loss(self.model, batch)


class _Sum(torch.autograd.Function):
    """The sum over processes; every process's loss depends on it, so its gradient is a sum, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Add up x."""
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Add up the gradient."""
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def _add_up(
    state: None,
    bucket: dist.GradBucket,  # pyright: ignore[reportPrivateImportUsage]
) -> torch.futures.Future[Tensor]:
    """Add up gradients; without a hook, DistributedDataParallel averages them."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda future: future.value()[0])
