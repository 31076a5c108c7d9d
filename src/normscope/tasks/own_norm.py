"""The norm of a run as a user's function is given it: watched, and without a trace in what is drawn."""

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from normscope.tasks.task import NormFactory
from normscope.torch_internals import compiled_frames


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
    """Tell every module that is called inside, and what it gave, wherever it stands and whoever holds it."""

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
    return scripted + compiled_frames()
