"""Choice of the backend that computes norms on a device."""

import os
from functools import cache
from types import ModuleType
from typing import Literal, get_args

import torch

from normscope.errors import NormscopeError
from normscope.kernels.backends import build

Backend = Literal["eager", "cpu", "triton"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

_AT: dict[str, Backend] = {"cpu": "cpu", "cuda": "triton"}
"""Backend with kernels for a type of device."""


class BackendUnavailable(NormscopeError, RuntimeError):
    """Raised if a backend requested by name cannot be used; the message gives the reason."""


def check_backend(name: str | None) -> Backend | None:
    """Return ``name`` if it is the name of a backend, or None, which stands for the choice by device.

    Raises:
        ValueError: If ``name`` is neither ``eager``, ``cpu``, ``triton`` nor None.
    """
    if name is not None and name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, or None for the best one, got {name!r}")
    return name


@cache
def requested_backend() -> Backend | None:
    """Return the backend that NORMSCOPE_BACKEND requests; the variable is read once per process.

    Raises:
        ValueError: If its value is not the name of a backend.
    """
    try:
        return check_backend(os.environ.get("NORMSCOPE_BACKEND") or None)
    except ValueError as error:
        raise ValueError(f"NORMSCOPE_BACKEND: {error}") from None


def choose(device: torch.device, name: Backend | None = None) -> ModuleType | None:
    """Return the module that computes norms on a device, or None for PyTorch's operations.

    Args:
        device: Device of the tensors.
        name: Requested backend; None for that of NORMSCOPE_BACKEND, or else the best for the device.

    Raises:
        BackendUnavailable: If the requested backend is for another type of device or cannot run here.
        ValueError: If NORMSCOPE_BACKEND is not the name of a backend.
    """
    requested = name or requested_backend()
    if requested == "eager":
        return None
    best = _AT.get(device.type)
    if requested and requested != best:
        kind = next(kind for kind, backend in _AT.items() if backend == requested)
        raise BackendUnavailable(f"the backend {requested} computes on {kind} tensors, got one on {device.type}")
    if best is None:
        return None
    module, description = _load(best)
    if module is None and requested:
        raise BackendUnavailable(f"the backend {requested} cannot run here: {description}")
    return module


def kernels_of(device: torch.device) -> ModuleType:
    """Return the module with the kernels of a device, whatever NORMSCOPE_BACKEND requests.

    Raises:
        BackendUnavailable: If there are none for this type of device, or they cannot run here.
    """
    module = choose(device, _AT.get(device.type, "triton"))
    assert module is not None
    return module


def describe(device: torch.device) -> str:
    """Return a description of the backend for a device: ``cpu: avx2 vector code under a C++ autograd function``."""
    if requested_backend() == "eager":
        return "eager: requested by NORMSCOPE_BACKEND"
    best = _AT.get(device.type)
    if best is None:
        return f"eager: no kernels for {device.type}"
    module, description = _load(best)
    return f"{best}: {description}" if module else f"eager: {description}"


@cache
def _load(name: Backend) -> tuple[ModuleType | None, str]:
    """Load a backend and return it with its description, or None with the reason, which is also printed."""
    if name == "cpu":
        from normscope.kernels.backends import cpu

        try:
            return cpu, cpu.load().description
        except build.CannotBuild as error:
            reason = f"the CPU kernels cannot be used: {error}"
    else:
        try:
            from normscope.kernels.backends import triton

            return triton, "Triton"
        except ImportError as error:
            reason = f"the GPU kernels need Triton: {error}"
    build.say(f"normscope: norms run on PyTorch's operations; {reason}")
    return None, reason
