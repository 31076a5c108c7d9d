"""Memory of a run: its peak, and the tensors saved by autograd for the backward pass."""

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn


def reset_peak(device: torch.device) -> None:
    """Reset the peak memory of a device."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Return the peak memory allocated on a device since :func:`reset_peak`; None on CPUs.

    The resident memory of the process is not a measurement of a run: the heap of a worker does not shrink after earlier
    runs. :func:`watch_update` counts tensors instead.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


@contextmanager
def watch_update(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[list[int]]:
    """Measure the peak memory of the tensors of an update on a CPU: model, optimizer and temporary tensors.

    The peak is the size of parameters, buffers and optimizer state, which must already exist, plus the maximum of the
    net allocations in the block. Gradients of the previous update are freed first. The data set is not counted. The
    allocations are recorded by torch's profiler, which takes some ten milliseconds.

    Yields:
        A list that contains the number of bytes after the block.
    """
    from torch.profiler import ProfilerActivity, profile

    found: list[int] = []
    optimizer.zero_grad(set_to_none=True)
    standing = _bytes_of([*model.parameters(), *model.buffers(), *_tensors_in(optimizer.state_dict())])
    # The profiler reads its log level once per process; silence it unless it was configured earlier.
    quiet = "KINETO_LOG_LEVEL" not in os.environ
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    try:
        with ExitStack() as stack:
            with warnings.catch_warnings():
                # torch 2.11 warns when any profiler starts that events of an earlier cycle are lost; there is none.
                warnings.filterwarnings("ignore", "Warning: Profiler clears events", UserWarning)
                profiler = stack.enter_context(profile(activities=[ProfilerActivity.CPU], profile_memory=True))
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
    """Count the bytes saved for the backward pass in the block; every storage is counted once.

    Yields:
        A list with the number of bytes so far, without parameters and buffers of ``model``.
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
