"""Calls of a user's own code: its errors are shown as theirs, and what it changes for everybody is put back."""

import contextlib
import os
import random
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normscope.data import DataDamaged, DataNotFound

_HERE = Path(__file__).parent
_OURS = (
    *(str(_HERE / name) for name in ("own", "trial.py", "recipe.py")),
    str(_HERE.parent / "train" / "driven.py"),
    str(_HERE.parent / "study"),
    contextlib.__file__,
    "<frozen importlib",
)
"""How the names of files begin whose frames say nothing to a user: the callers of their code, and what checks it."""


class OwnCodeError(RuntimeError):
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
        OwnCodeError: If the code inside failed otherwise, or tried to end the process.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, DataNotFound, DataDamaged):
        raise
    except (Exception, SystemExit) as error:
        raise OwnCodeError(name, error) from error


def _leave_ours_out(told: traceback.TracebackException | None) -> None:
    """Drop the frames of those who call their code, from an error and from those it came of."""
    if told is not None:
        told.stack = traceback.StackSummary.from_list(
            [frame for frame in told.stack if not (frame.filename.startswith(_OURS) or _is_dataclass(frame))]
        )
        _leave_ours_out(told.__cause__)
        _leave_ours_out(told.__context__)


def _is_dataclass(frame: traceback.FrameSummary) -> bool:
    """Whether a frame is of the text that Python writes for a dataclass: ours check what they are given."""
    return (frame.filename, frame.name) == ("<string>", "__init__")


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
