"""Calls of a user's own code: its errors are shown as theirs, and what it changes for everybody is put back."""

import contextlib
import os
import random
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from normscope.data import DataDamaged, DataNotFound
from normscope.tasks.task import NormFactory

__tracebackhide__ = True
"""Frames of a module with this mark call or check a user's code; tracebacks shown to the user leave them out."""


class UserCodeError(RuntimeError):
    """The user's code failed; the message has their part of the traceback."""

    reason: str
    """The same in one line."""

    def __init__(self, name: str, error: BaseException) -> None:
        told = traceback.TracebackException.from_exception(error)
        _leave_ours_out(told)
        super().__init__(f"{name} failed:\n{''.join(told.format()).rstrip()}")
        last = told.stack[-1] if told.stack else None
        where = f" ({Path(last.filename).name}, line {last.lineno})" if last is not None else ""
        self.reason = f"{type(error).__name__}: {error}".partition("\n")[0] + where


@contextlib.contextmanager
def theirs(name: str) -> Iterator[None]:
    """Turn an error of the user's code into one that shows their frames; what the machine lacks passes as it is.

    Args:
        name: Of the file and its function, for the message.

    Raises:
        MemoryError: As it is.
        OutOfMemoryError: As it is.
        DataNotFound: As it is.
        DataDamaged: As it is.
        UserCodeError: If the code inside failed otherwise, or tried to end the process.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, DataNotFound, DataDamaged):
        raise
    except (Exception, SystemExit) as error:
        raise UserCodeError(name, error) from error


def _leave_ours_out(told: traceback.TracebackException | None) -> None:
    """Drop the frames of the modules marked ``__tracebackhide__`` from an error and from its causes."""
    if told is not None:
        hidden = _hidden_files()
        told.stack = traceback.StackSummary.from_list(
            [frame for frame in told.stack if frame.filename not in hidden and not _is_machinery(frame)]
        )
        _leave_ours_out(told.__cause__)
        _leave_ours_out(told.__context__)


def _hidden_files() -> set[str | None]:
    """Return the files of all imported modules with the mark, and of ``contextlib``, which calls ours."""
    marked = [module for module in list(sys.modules.values()) if getattr(module, "__tracebackhide__", False) is True]
    return {getattr(module, "__file__", None) for module in marked} | {contextlib.__file__}


def _is_machinery(frame: traceback.FrameSummary) -> bool:
    """Whether a frame is of Python's import system, or of the ``__init__`` that it writes for a dataclass."""
    return frame.filename.startswith("<frozen importlib") or (frame.filename, frame.name) == ("<string>", "__init__")


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a line of anybody's code can change for the whole process, and a run must not hand on to the next."""

    dtype: torch.dtype
    device: torch.device
    gradients: bool
    deterministic: bool
    threads: int
    folder: Path
    path: tuple[str, ...]

    @staticmethod
    def now() -> "Surroundings":
        """Look around."""
        return Surroundings(
            dtype=torch.get_default_dtype(),
            device=torch.get_default_device(),
            gradients=torch.is_grad_enabled(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
            threads=torch.get_num_threads(),
            folder=Path.cwd(),
            path=tuple(sys.path),
        )

    def since(self, before: "Surroundings") -> dict[str, Any]:
        """Give what has changed."""
        return {name: value for name, value in vars(self).items() if value != getattr(before, name)}

    def set(self) -> None:
        """Make it so; what is so already is not touched."""
        here = Surroundings.now()
        if here.dtype != self.dtype:
            torch.set_default_dtype(self.dtype)
        if here.device != self.device:
            # A default device, even the CPU, costs every operation a look; None is the way to have none.
            torch.set_default_device(None if self.device == torch.device("cpu") else self.device)
        torch.set_grad_enabled(self.gradients)
        if here.deterministic != self.deterministic:
            torch.use_deterministic_algorithms(self.deterministic)
        if here.threads != self.threads:
            torch.set_num_threads(self.threads)
        if here.folder != self.folder:
            os.chdir(self.folder)
        sys.path[:] = self.path


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Put back at the end what may change inside: :class:`Surroundings`, and what torch, NumPy and Python draw from.

    What is printed inside goes to standard error: standard output is for results.
    """
    before, numbers, numpys = Surroundings.now(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        before.set()
        random.setstate(numbers)
        np.random.set_state(numpys)  # noqa: NPY002


def seed_others() -> None:
    """Seed the global generators of NumPy and Python from torch's seed: one seed decides what all three draw."""
    seed = torch.initial_seed()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


class WatchedNorm:
    """Makes norms, and remembers of which types: whoever is given them may leave them out.

    Args:
        norm: Makes them. One that stands for different norms at different sites has ``at`` and ``named``, and so has
            this one.
    """

    def __init__(self, norm: NormFactory) -> None:
        self.norm = norm
        self.types: set[type[nn.Module]] = set()
        self.parts: dict[int, WatchedNorm] = {}
        """Those for single sites, by the identity of what makes them."""
        if hasattr(norm, "at"):
            self.at = lambda site: self._part(norm.at(site))  # pyright: ignore[reportFunctionMemberAccess]
        if hasattr(norm, "named"):
            self.named = lambda site: self._part(norm.named(site))  # pyright: ignore[reportFunctionMemberAccess]

    def __call__(self, width: int) -> nn.Module:
        """Make the norm of a width; what it draws with NumPy or Python is drawn again by what comes after it."""
        numbers, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            made = self.norm(width)
        finally:
            random.setstate(numbers)
            np.random.set_state(numpys)  # noqa: NPY002
        self.types.add(type(made))
        return made

    def unused(self, called: set[type]) -> list[type[nn.Module]]:
        """List what was made and is not among the types that were called, a type for each norm of the arm."""
        makers = [self, *self.parts.values()]
        return [
            min(one.types, key=lambda kind: kind.__name__) for one in makers if one.types and not one.types & called
        ]

    def _part(self, norm: NormFactory | None) -> "WatchedNorm | None":
        return None if norm is None else self.parts.setdefault(id(norm), WatchedNorm(norm))


@contextmanager
def watch_calls(notice: Callable[[nn.Module, Any], None]) -> Iterator[None]:
    """List every module that is called inside, and what it gave, wherever it stands and whoever holds it."""

    def hook(module: nn.Module, given: Any, made: Any) -> None:
        # What is compiled would compile this, too.
        if not torch.compiler.is_compiling():
            notice(module, made)

    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        with warnings.catch_warnings():
            # What is compiled inside is called once more than it would be, which nobody counts here.
            warnings.filterwarnings("ignore", message=r"Using `torch\.compile")
            yield
    finally:
        handle.remove()


def unseen_calls(model: nn.Module) -> int:
    """Count what calls modules without being seen: scripted modules, and what was compiled in this process so far."""
    scripted = sum(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    compiler = sys.modules.get("torch._dynamo.utils")
    return scripted + (compiler.counters["frames"]["total"] if compiler is not None else 0)
