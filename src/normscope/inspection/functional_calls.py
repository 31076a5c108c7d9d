"""Norms that no module stands for: calls of ``torch.nn.functional`` in somebody's forward."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from normscope.inspection.norms_in import NormIn, Unreached

_CALLS: dict[Callable[..., Any], str] = {
    F.layer_norm: "layer_norm",
    F.rms_norm: "rms_norm",
    F.batch_norm: "batch_norm",
    F.group_norm: "group_norm",
    F.instance_norm: "instance_norm",
    torch.layer_norm: "layer_norm",
    torch.rms_norm: "rms_norm",
    torch.batch_norm: "batch_norm",
    torch.group_norm: "group_norm",
}


class _Listening(TorchFunctionMode):
    """Notes the module whose forward calls a norm, unless a known norm does."""

    def __init__(self, names: dict[int, str], known: set[int], heard: dict[tuple[str, str], None]) -> None:
        super().__init__()
        self.names, self.known, self.heard = names, known, heard

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        called = _CALLS.get(func) if callable(func) else None
        if called is not None:
            owners = list(_callers(self.names))
            if not self.known.intersection(owners):
                owner = self.names[owners[0]] if owners else ""
                self.heard[owner, called] = None
        return func(*args, **(kwargs or {}))


@contextmanager
def listen_for_functional_norms(model: nn.Module, found: Sequence[NormIn]) -> Iterator[list[Unreached]]:
    """List the norms that forwards inside compute with torch's functions, without a module of their own.

    A compiled model is not listened to: the compiler would have to compile it anew.

    Args:
        model: Any module.
        found: Its norms that are known; what they call themselves is not listed.

    Yields:
        A list that is filled when the block ends: one entry for each module and function.
    """
    told: list[Unreached] = []
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        yield told
        return
    heard: dict[tuple[str, str], None] = {}
    names = {id(module): name for name, module in model.named_modules()}
    with _Listening(names, {id(norm.module) for norm in found}, heard):
        yield told
    why = "computed by its forward and not by a module: nothing can be hooked to it"
    told += [Unreached(name=owner, what=f"functional.{called}", why=why) for owner, called in heard]


def _callers(names: dict[int, str]) -> Iterator[int]:
    """Give the modules of a model whose methods are running, the innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        owner = id(frame.f_locals.get("self"))
        if owner in names:
            yield owner
        frame = frame.f_back
