"""Which back end computes a norm here, and why."""

import os
import sys
from functools import cache
from types import ModuleType
from typing import Literal, get_args

import torch

Backend = Literal["eager", "cpu", "triton"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

_HOME = {"cpu": "cpu", "triton": "cuda"}
"""The device that a back end's tensors are on."""


class BackendUnavailable(RuntimeError):
    """A back end was asked for by name and cannot compute this here: the message says why."""


def check_backend(name: str | None) -> Backend | None:
    """Return the name of a back end, or None for the choice by device.

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
        ValueError: If it is no back end's name.
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
    if asked and device.type != _HOME[asked]:
        raise BackendUnavailable(f"the back end {asked} computes on {_HOME[asked]} tensors, got one on {device.type}")
    for candidate, home in _HOME.items():
        if device.type == home:
            module, words = _load(candidate)
            if module is None and asked:
                raise BackendUnavailable(f"the back end {asked} cannot run here: {words}")
            return module
    return None


def describe(device: torch.device) -> str:
    """Say in a line what computes norms on a device, for a run's record: ``cpu: vector code avx2, ...``."""
    if wish() == "eager":
        return "eager: asked for by NORMSCOPE_BACKEND"
    for candidate, home in _HOME.items():
        if device.type == home:
            module, words = _load(candidate)
            return f"{candidate}: {words}" if module else f"eager: {words}"
    return f"eager: no kernels for {device.type}"


@cache
def _load(name: str) -> tuple[ModuleType | None, str]:
    """Load a back end, once; where it cannot run, say so, once."""
    if name == "cpu":
        from normscope.kernels import build, cpu

        try:
            return cpu, cpu.load().words
        except (build.CannotBuild, OSError) as error:
            words = f"the CPU kernels cannot be built: {error}"
            print(f"normscope: norms run on PyTorch's own operations; {words}", file=sys.stderr, flush=True)
            return None, words
    try:
        from normscope.kernels import triton
    except ImportError as error:
        words = f"the GPU kernels need Triton: {error}"
        print(f"normscope: norms run on PyTorch's own operations; {words}", file=sys.stderr, flush=True)
        return None, words
    return triton, "Triton"
