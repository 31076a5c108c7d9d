"""Norms that are no modules: calls inside forward, found by reading the source."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

_CALLS = {
    "layer_norm",
    "rms_norm",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "local_response_norm",
    "native_layer_norm",
    "normalize",
    "fused_layer_norm",
    "fused_rms_norm",
    "layer_norm_fn",
    "rms_norm_fn",
    "fused_add_rms_norm",
}
"""Functions that normalize, wherever they are from."""
_ROOTS = {"sqrt", "rsqrt", "std"}
_ABOUT = {"dtype", "device"}
"""What may be asked of a parameter without computing with it."""
_NOT_READ = ("torch", "normscope", "functools", "contextlib")


@dataclass(frozen=True, kw_only=True)
class Call:
    """One place in a source file."""

    text: str
    """The code there, or what it reads."""
    where: str
    """File and line."""


def functional_norms(module: nn.Module) -> list[Call]:
    """Find calls that normalize in a module's forward, and in what that calls of the same library.

    Methods of torch's own modules are not read. What cannot be read, for there is no source, is left out.

    Args:
        module: Any module.

    Returns:
        Functions such as ``F.layer_norm``, and powers or variances whose root is taken in the same function.
    """
    found = {}
    for function in _functions(type(module)):
        tree, line, file = _parsed(function)
        if tree is None:
            continue
        rooted = any(_called(node) in _ROOTS or _is_half_power(node) for node in ast.walk(tree))
        for node in ast.walk(tree):
            name = _called(node)
            is_call = name in _CALLS and not _is_method(node, function)
            if isinstance(node, ast.Call) and (is_call or (rooted and _is_moment(node))):
                where = f"{file}:{line + node.lineno - 1}"
                found.setdefault(where, Call(text=_short(ast.unparse(node)), where=where))
    return list(found.values())


def parameter_reads(module: nn.Module) -> dict[tuple[str, str], tuple[str, bool]]:
    """Find where a module's code reads something of a child directly, instead of calling the child.

    Args:
        module: The parent.

    Returns:
        From the child's and the attribute's name, as in ``self.norm1.weight``, to file and line, and whether it is the
        value that is read, not only its dtype or device.
    """
    reads: dict[tuple[str, str], tuple[str, bool]] = {}
    for function in _functions(type(module)):
        tree, line, file = _parsed(function)
        if tree is None:
            continue
        about = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in _ABOUT}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                child, value = node.value, id(node) not in about
                if isinstance(child.value, ast.Name) and child.value.id == "self":
                    key = child.attr, node.attr
                    if key not in reads or (value and not reads[key][1]):
                        reads[key] = f"{file}:{line + node.lineno - 1}", value
    return reads


def _functions(kind: type[nn.Module]) -> Iterator[FunctionType]:
    """Give a class's forward, and the functions and methods of the same library that are called from it."""
    waiting: list[Any] = [getattr(kind, "forward", None)]
    seen = set()
    while waiting:
        function = inspect.unwrap(waiting.pop(0)) if callable(waiting[0]) else waiting.pop(0)
        if not isinstance(function, FunctionType) or function.__code__ in seen:
            continue
        library = function.__module__.split(".")[0]
        if library in _NOT_READ:
            continue
        seen.add(function.__code__)
        yield function
        tree, _, _ = _parsed(function)
        for node in ast.walk(tree) if tree is not None else ():
            if not isinstance(node, ast.Call):
                continue
            callee = node.func
            if isinstance(callee, ast.Name):
                other = function.__globals__.get(callee.id)
            elif isinstance(callee, ast.Attribute) and isinstance(callee.value, ast.Name) and callee.value.id == "self":
                other = getattr(kind, callee.attr, None)
            else:
                continue
            if isinstance(other, FunctionType) and other.__module__.split(".")[0] == library:
                waiting.append(other)


_PARSED: dict[Any, tuple[ast.AST | None, int, str]] = {}


def _parsed(function: Callable[..., Any]) -> tuple[ast.AST | None, int, str]:
    """Parse a function once: its tree, its first line and its file."""
    code = getattr(function, "__code__", function)
    if code not in _PARSED:
        try:
            lines, first = inspect.getsourcelines(function)
            tree: ast.AST | None = ast.parse(textwrap.dedent("".join(lines)))
            _PARSED[code] = tree, first, inspect.getsourcefile(function) or "?"
        except (OSError, TypeError, SyntaxError):
            _PARSED[code] = None, 0, "?"
    return _PARSED[code]


def _called(node: ast.AST) -> str | None:
    """Return the last name of what is called."""
    if not isinstance(node, ast.Call):
        return None
    return getattr(node.func, "attr", getattr(node.func, "id", None))


def _is_method(node: ast.AST, function: FunctionType) -> bool:
    """Tell whether a call is one of an object, as ``self.layer_norm(x)``, and not of a module of functions."""
    root = node.func if isinstance(node, ast.Call) else node
    while isinstance(root, ast.Attribute):
        root = root.value
    if not isinstance(root, ast.Name):
        return True
    known = function.__globals__.get(root.id)
    return not (isinstance(known, ModuleType) or (isinstance(node, ast.Call) and node.func is root and callable(known)))


def _is_moment(node: ast.Call) -> bool:
    """Tell whether a call is a variance, or the mean of a square."""
    name = _called(node)
    if name in {"var", "std", "var_mean", "std_mean"}:
        return True
    return name == "mean" and any(_is_square(inner) for inner in ast.walk(node) if inner is not node)


def _is_square(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return isinstance(node.right, ast.Constant) and node.right.value == 2
    if _called(node) == "pow" and isinstance(node, ast.Call):
        return any(isinstance(value, ast.Constant) and value.value == 2 for value in node.args)
    return _called(node) == "square"


def _is_half_power(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Pow)
        and isinstance(node.right, ast.Constant | ast.UnaryOp)
        and ast.unparse(node.right) in {"0.5", "-0.5"}
    )


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
