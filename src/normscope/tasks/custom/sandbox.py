"""Isolation of a user's code: tracebacks without internal frames, process-wide settings restored, calls recorded."""

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
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from normscope.data import DataDamaged, DataNotFound
from normscope.errors import NormscopeError
from normscope.tasks.task import NormFactory
from normscope.torch_internals import global_forward_hook

__tracebackhide__ = True
"""Mark of modules that call or check a user's code: their frames are removed from tracebacks shown to the user."""


class UserCodeError(NormscopeError, RuntimeError):
    """The user's code failed; the message contains its part of the traceback."""

    reason: str
    """The error in one line."""

    def __init__(self, name: str, error: BaseException) -> None:
        shown = traceback.TracebackException.from_exception(error)
        _drop_hidden_frames(shown)
        super().__init__(f"{name} failed:\n{''.join(shown.format()).rstrip()}")
        last = shown.stack[-1] if shown.stack else None
        where = f" ({Path(last.filename).name}, line {last.lineno})" if last is not None else ""
        if isinstance(error, SystemExit):
            self.args = (
                f"{self}\nThe file is read as a module, without the arguments of the command line: put parse_args() "
                'and all that belongs to running it as a script under `if __name__ == "__main__":`',
            )
        self.reason = f"{type(error).__name__}: {error}".partition("\n")[0] + where


@contextlib.contextmanager
def user_code(name: str) -> Iterator[None]:
    """Convert exceptions of the user's code in the block to :class:`UserCodeError`.

    Args:
        name: Name of the file and its function, for the message.

    Raises:
        MemoryError: If the machine has too little memory.
        OutOfMemoryError: If the device has too little memory.
        DataNotFound: If a data set is missing.
        DataDamaged: If a data set is damaged.
        UserCodeError: If the block raises any other exception, or calls ``sys.exit``.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, DataNotFound, DataDamaged):
        raise
    except (Exception, SystemExit) as error:
        raise UserCodeError(name, error) from error


def _drop_hidden_frames(shown: traceback.TracebackException | None) -> None:
    """Remove the frames of modules marked ``__tracebackhide__`` from an exception and from its causes."""
    if shown is not None:
        hidden = _hidden_files()
        shown.stack = traceback.StackSummary.from_list(
            [frame for frame in shown.stack if frame.filename not in hidden and not _is_machinery(frame)]
        )
        _drop_hidden_frames(shown.__cause__)
        _drop_hidden_frames(shown.__context__)


def _hidden_files() -> set[str | None]:
    """Return the files of all imported modules with the mark, and of ``contextlib``, through which they are called."""
    # The dictionary, not getattr: a lazy module answers any name by importing, and torch's then warn.
    tables = [getattr(module, "__dict__", {}) for module in list(sys.modules.values())]
    marked = [table for table in tables if table.get("__tracebackhide__") is True]
    return {table.get("__file__") for table in marked} | {contextlib.__file__}


def _is_machinery(frame: traceback.FrameSummary) -> bool:
    """Return whether a frame belongs to the import system or to the generated ``__init__`` of a dataclass."""
    return frame.filename.startswith("<frozen importlib") or (frame.filename, frame.name) == ("<string>", "__init__")


@dataclass(frozen=True, kw_only=True)
class ProcessState:
    """Process-wide settings that user code can change and a run must not pass on to the next."""

    dtype: torch.dtype
    device: torch.device
    gradients: bool
    deterministic: bool
    threads: int
    folder: Path
    path: tuple[str, ...]
    arguments: tuple[str, ...]
    matmul_precision: str
    warning_filters: tuple[Any, ...]

    @staticmethod
    def now() -> "ProcessState":
        """Return the current settings."""
        return ProcessState(
            dtype=torch.get_default_dtype(),
            device=torch.get_default_device(),
            gradients=torch.is_grad_enabled(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
            threads=torch.get_num_threads(),
            folder=Path.cwd(),
            path=tuple(sys.path),
            arguments=tuple(sys.argv),
            matmul_precision=torch.get_float32_matmul_precision(),
            warning_filters=tuple(warnings.filters),
        )

    def since(self, before: "ProcessState") -> dict[str, Any]:
        """Return the settings that differ from ``before``."""
        return {name: value for name, value in vars(self).items() if value != getattr(before, name)}

    def set(self) -> None:
        """Apply the settings; those that hold already are not touched."""
        here = ProcessState.now()
        if here.dtype != self.dtype:
            torch.set_default_dtype(self.dtype)
        if here.device != self.device:
            # Any default device, even the CPU, slows down every operation; None removes it.
            torch.set_default_device(None if self.device == torch.device("cpu") else self.device)
        torch.set_grad_enabled(self.gradients)
        if here.deterministic != self.deterministic:
            torch.use_deterministic_algorithms(self.deterministic)
        if here.threads != self.threads:
            torch.set_num_threads(self.threads)
        if here.folder != self.folder:
            os.chdir(self.folder)
        sys.path[:] = self.path
        if here.arguments != self.arguments:
            sys.argv = list(self.arguments)
        if here.matmul_precision != self.matmul_precision:
            torch.set_float32_matmul_precision(self.matmul_precision)
        if here.warning_filters != self.warning_filters:
            cast("list[Any]", warnings.filters)[:] = self.warning_filters
            # Leaving this block tells Python that the filters have changed.
            with warnings.catch_warnings():
                pass


@contextlib.contextmanager
def preserve_process_state() -> Iterator[None]:
    """Restore the :class:`ProcessState` and the random generators of torch, NumPy and Python on exit.

    Standard output is redirected to standard error in the block: standard output is for results.
    """
    before, python_state, numpy_state = ProcessState.now(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        before.set()
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def seed_numpy_and_python() -> None:
    """Seed the global generators of NumPy and Python with torch's seed."""
    seed = torch.initial_seed()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


class WatchedNorm:
    """A norm factory that records the types of the norms it makes, to find those that are never called.

    Args:
        norm: The factory. If it selects norms by site, with ``at`` and ``named``, so does this one.
    """

    def __init__(self, norm: NormFactory) -> None:
        self.norm = norm
        self.types: set[type[nn.Module]] = set()
        self.parts: dict[int, WatchedNorm] = {}
        """Recording factories of single sites, by the ``id`` of the factory."""
        if hasattr(norm, "at"):
            self.at = lambda site: self._part(norm.at(site))  # pyright: ignore[reportFunctionMemberAccess]
        if hasattr(norm, "named"):
            self.named = lambda site: self._part(norm.named(site))  # pyright: ignore[reportFunctionMemberAccess]

    def __call__(self, width: int) -> nn.Module:
        """Make the norm of a width; the generators of NumPy and Python are restored, so that all arms draw the same."""
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            made = self.norm(width)
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
        self.types.add(type(made))
        return made

    def unused(self, called: set[type]) -> list[type[nn.Module]]:
        """Return one type for each norm of the arm that was made and never called."""
        makers = [self, *self.parts.values()]
        return [
            min(maker.types, key=lambda kind: kind.__name__)
            for maker in makers
            if maker.types and not maker.types & called
        ]

    def _part(self, norm: NormFactory | None) -> "WatchedNorm | None":
        return None if norm is None else self.parts.setdefault(id(norm), WatchedNorm(norm))


@contextmanager
def watch_calls(notice: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    """Call ``notice(module, inputs, output)`` after every forward pass of any module in the block."""

    def hook(module: nn.Module, given: Any, named: Any, made: Any) -> None:
        # A compiled module would trace this hook, too.
        if not torch.compiler.is_compiling():
            notice(module, (given, named), made)

    with global_forward_hook(hook), warnings.catch_warnings():
        # torch warns that a hook may run more than once in compiled code; duplicates are harmless here.
        warnings.filterwarnings("ignore", message=r"Using `torch\.compile")
        yield


def unseen_calls(model: nn.Module) -> int:
    """Count calls that hooks cannot see: scripted modules in the model, and frames compiled in this process."""
    scripted = sum(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    compiler = sys.modules.get("torch._dynamo.utils")
    return scripted + (compiler.counters["frames"]["total"] if compiler is not None else 0)
