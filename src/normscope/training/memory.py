"""How much memory a run takes: its peak, and what autograd keeps for backward."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn


def reset_peak(device: torch.device) -> None:
    """Start a new measurement of the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Return the most memory that was allocated on a device since :func:`reset_peak`; None on CPUs.

    What an operating system tells of a process is no measurement of a run: the heap of a worker does not shrink, so a
    run would be charged with the runs before it. :func:`watch_update` counts tensors instead.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


@contextmanager
def watch_update(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[list[int]]:
    """Count the most bytes of tensors that one update on a CPU takes: the model, the optimizer, what comes and goes.

    Parameters, buffers and the optimizer's state, which must be there already, are counted as they are; on top comes
    the highest sum of what torch's allocator gave out and took back inside. Gradients of the update before are let go
    first. The data set is not counted. torch's profiler watches the allocator: some ten milliseconds. It reads once in
    a process how much it tells about itself: nothing where this is its first use, else what it told before.

    Yields:
        A list that has the number when the block ends.
    """
    from torch.profiler import ProfilerActivity, profile

    found: list[int] = []
    optimizer.zero_grad(set_to_none=True)
    standing = _bytes_of([*model.parameters(), *model.buffers(), *_tensors_in(optimizer.state_dict())])
    # The profiler's own messages would stand among a user's.
    quiet = "KINETO_LOG_LEVEL" not in os.environ
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False) as profiler:
            yield found
    finally:
        if quiet:
            del os.environ["KINETO_LOG_LEVEL"]
    results: Any = profiler.profiler.kineto_results if profiler.profiler is not None else None
    events = results.events() if results is not None else ()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    found.append(standing + max(accumulate(change for _, change in changes), default=0))


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _tensors_in(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for entry in content.values() if isinstance(content, dict) else content:
            yield from _tensors_in(entry)


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
