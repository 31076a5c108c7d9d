"""How much memory a run takes: the peak of an accelerator, and what autograd keeps for backward anywhere."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def reset_peak(device: torch.device) -> None:
    """Start a new measurement of the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Give the most memory that was allocated on a device since :func:`reset_peak`; None on CPUs.

    What an operating system tells of a process is no measurement of a run: the heap of a worker does not shrink, so a
    run would be charged with the runs before it.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


@contextmanager
def count_saved(model: nn.Module) -> Iterator[list[int]]:
    """Count the bytes that the operations inside keep for backward; parameters and shared storage count once at most.

    Yields:
        A list of one number, the bytes so far; parameters and buffers of ``model`` are not in it.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    total = [0]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total
