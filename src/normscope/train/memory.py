"""How much memory a run takes: the peak of a device or process, and what autograd keeps for backward."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn


def reset_peak(device: torch.device) -> None:
    """Start a new measurement of the peak. On CPUs only Linux can forget an earlier one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    forget = Path("/proc/self/clear_refs")
    if forget.exists():
        try:
            forget.write_text("5")
        except PermissionError:
            # Some containers forbid it: the peak is then that of the process's whole life, as it is on macOS.
            return


def peak_bytes(device: torch.device) -> int:
    """Measure the peak since :func:`reset_peak`: allocated device memory, or the process's resident memory on CPUs."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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
