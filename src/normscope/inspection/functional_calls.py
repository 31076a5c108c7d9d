"""Norms that are function calls and not modules: read in the source of a forward, or observed while it runs."""

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from normscope.inspection.norm_in_model import NormInModel, Unreachable
from normscope.inspection.source import called_name, code_of
from normscope.norms import ChannelsFirst

FUNCTIONAL_NORMS: Mapping[str, tuple[Callable[..., Any], ...]] = {
    "layer_norm": (F.layer_norm, torch.layer_norm),
    "rms_norm": (F.rms_norm, torch.rms_norm),
    "batch_norm": (F.batch_norm, torch.batch_norm),
    "group_norm": (F.group_norm, torch.group_norm),
    "instance_norm": (F.instance_norm,),
    "local_response_norm": (),
    "native_layer_norm": (),
    "normalize": (),
    "fused_layer_norm": (),
    "fused_rms_norm": (),
    "layer_norm_fn": (),
    "rms_norm_fn": (),
    "fused_add_rms_norm": (),
}
"""From the names of functions that normalize, whichever library they are from, to torch's that are observed."""

_OBSERVED = {function: name for name, functions in FUNCTIONAL_NORMS.items() for function in functions}
_ROOTS = {"sqrt", "rsqrt", "std"}


@dataclass(frozen=True, kw_only=True)
class SourceCall:
    """A call in a source file."""

    text: str
    """The code of the call, shortened."""
    where: str
    """File and line."""


def functional_norms(module: nn.Module) -> list[SourceCall]:
    """Find the calls that normalize in a module's forward, and in what it calls in the same library.

    Methods of torch's own modules are not read, nor is code without a readable source.

    Args:
        module: Any module.

    Returns:
        Calls of functions such as ``F.layer_norm``, and powers or variances whose root is taken in the same function.
    """
    found = {}
    for code in code_of(type(module)):
        rooted = any(called_name(node) in _ROOTS or _is_half_power(node) for node in ast.walk(code.tree))
        for node in ast.walk(code.tree):
            is_call = called_name(node) in FUNCTIONAL_NORMS and not _is_method(node, code.globals)
            if isinstance(node, ast.Call) and (is_call or (rooted and _is_moment(node))):
                where = f"{code.file}:{code.line + node.lineno - 1}"
                found.setdefault(where, SourceCall(text=_short(ast.unparse(node)), where=where))
    return list(found.values())


def norms_in_code(
    model: nn.Module, norms: Sequence[NormInModel], unreachable: Sequence[Unreachable]
) -> list[Unreachable]:
    """List the calls that normalize in the code of modules that are not norms themselves.

    Args:
        model: Any module.
        norms: Its norms.
        unreachable: Its norms that are unreachable.
    """
    known = {id(norm.module) for norm in norms} | {id(model.get_submodule(norm.name)) for norm in unreachable}
    kinds: dict[type[nn.Module], list[str]] = {}
    for name, module in model.named_modules():
        if id(module) not in known and not isinstance(module, ChannelsFirst):
            kinds.setdefault(type(module), []).append(name)
    found: dict[str, Unreachable] = {}
    for kind, names in kinds.items():
        for call in functional_norms(model.get_submodule(names[0])):
            more = f" and {len(names) - 1} more {kind.__name__}" if len(names) > 1 else ""
            why = f"normalizes by a call, `{call.text}`, in the code of {kind.__name__}{more}"
            found.setdefault(call.where, Unreachable(name=names[0], what="code", why=why, where=call.where))
    return list(found.values())


@contextmanager
def observed_functional_norms(model: nn.Module, norms: Sequence[NormInModel]) -> Iterator[list[Unreachable]]:
    """List the norms that forwards inside the block compute with torch's functions, without a norm module.

    A compiled model is not observed, as it would be compiled again.

    Args:
        model: Any module.
        norms: Its norms; functions that they call themselves are not listed.

    Yields:
        A list that is filled when the block ends: one entry per module and function.
    """
    unreachable: list[Unreachable] = []
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        yield unreachable
        return
    calls: dict[tuple[str, str], None] = {}
    names = {id(module): name for name, module in model.named_modules()}
    with _Observing(names, {id(norm.module) for norm in norms}, calls):
        yield unreachable
    why = "computed by its forward and not by a module: nothing can be hooked to it"
    unreachable += [Unreachable(name=owner, what=f"functional.{called}", why=why) for owner, called in calls]


class _Observing(TorchFunctionMode):
    """Records the module whose forward calls a functional norm, unless a norm module does."""

    def __init__(self, names: dict[int, str], norms: set[int], calls: dict[tuple[str, str], None]) -> None:
        super().__init__()
        self.names, self.norms, self.calls = names, norms, calls

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        called = _OBSERVED.get(func) if callable(func) else None
        if called is not None:
            owners = list(_callers(self.names))
            if not self.norms.intersection(owners):
                self.calls[self.names[owners[0]] if owners else "", called] = None
        return func(*args, **(kwargs or {}))


def _callers(names: dict[int, str]) -> Iterator[int]:
    """Yield the identities of the modules whose methods are running, the innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        owner = id(frame.f_locals.get("self"))
        if owner in names:
            yield owner
        frame = frame.f_back


def _is_method(node: ast.AST, names: Mapping[str, Any]) -> bool:
    """Return whether a call is a method call, as in ``self.layer_norm(x)``, and not a call of a function."""
    root = node.func if isinstance(node, ast.Call) else node
    while isinstance(root, ast.Attribute):
        root = root.value
    if not isinstance(root, ast.Name):
        return True
    there = names.get(root.id)
    return not (isinstance(there, ModuleType) or (isinstance(node, ast.Call) and node.func is root and callable(there)))


def _is_moment(node: ast.Call) -> bool:
    """Return whether a call is a variance, or the mean of a square."""
    name = called_name(node)
    if name in {"var", "std", "var_mean", "std_mean"}:
        return True
    return name == "mean" and any(_is_square(inner) for inner in ast.walk(node) if inner is not node)


def _is_square(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return isinstance(node.right, ast.Constant) and node.right.value == 2
    if called_name(node) == "pow" and isinstance(node, ast.Call):
        return any(isinstance(value, ast.Constant) and value.value == 2 for value in node.args)
    return called_name(node) == "square"


def _is_half_power(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Pow)
        and isinstance(node.right, ast.Constant | ast.UnaryOp)
        and ast.unparse(node.right) in {"0.5", "-0.5"}
    )


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
