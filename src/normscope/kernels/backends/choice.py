"""Which backend computes a norm here, and why."""

import os
import sys
from functools import cache
from types import ModuleType
from typing import Literal, get_args

import torch

Backend = Literal["eager", "cpu", "triton"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

_AT: dict[str, Backend] = {"cpu": "cpu", "cuda": "triton"}
"""The backend for a type of device."""


class BackendUnavailable(RuntimeError):
    """A backend was asked for by name and cannot compute this here: the message says why."""


def check_backend(name: str | None) -> Backend | None:
    """Return the name of a backend, or None for the choice by device.

    Args:
        name: ``eager``, ``cpu``, ``triton`` or None.

    Raises:
        ValueError: If it is anything else.
    """
    if name is not None and name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, or None for the best one, got {name!r}")
    return name


@cache
def wish() -> Backend | None:
    """Give what NORMSCOPE_BACKEND asks for, read once.

    Raises:
        ValueError: If it is no backend's name.
    """
    try:
        return check_backend(os.environ.get("NORMSCOPE_BACKEND") or None)
    except ValueError as error:
        raise ValueError(f"NORMSCOPE_BACKEND: {error}") from None


def choose(device: torch.device, name: Backend | None = None) -> ModuleType | None:
    """Give the module that computes norms on a device, or None for PyTorch's own operations.

    Args:
        device: Where the tensors are.
        name: What is asked for; None is NORMSCOPE_BACKEND, and without it the best one for the device.

    Raises:
        BackendUnavailable: If it is asked for by name and is not for this device or cannot run here.
    """
    asked = name or wish()
    if asked == "eager":
        return None
    best = _AT.get(device.type)
    if asked and asked != best:
        home = next(kind for kind, backend in _AT.items() if backend == asked)
        raise BackendUnavailable(f"the backend {asked} computes on {home} tensors, got one on {device.type}")
    if best is None:
        return None
    module, words = _load(best)
    if module is None and asked:
        raise BackendUnavailable(f"the backend {asked} cannot run here: {words}")
    return module


def describe(device: torch.device) -> str:
    """Say in a line what computes norms on a device, for a run's record: ``cpu: vector code avx2, ...``."""
    if wish() == "eager":
        return "eager: asked for by NORMSCOPE_BACKEND"
    best = _AT.get(device.type)
    if best is None:
        return f"eager: no kernels for {device.type}"
    module, words = _load(best)
    return f"{best}: {words}" if module else f"eager: {words}"


@cache
def _load(name: Backend) -> tuple[ModuleType | None, str]:
    """Load a backend, once; where it cannot run, say so, once."""
    if name == "cpu":
        from normscope.kernels.backends import build, cpu

        try:
            return cpu, cpu.load().words
        except (build.CannotBuild, OSError) as error:
            words = f"the CPU kernels cannot be built: {error}"
    else:
        try:
            from normscope.kernels.backends import triton

            return triton, "Triton"
        except ImportError as error:
            words = f"the GPU kernels need Triton: {error}"
    print(f"normscope: norms run on PyTorch's own operations; {words}", file=sys.stderr, flush=True)
    return None, words
