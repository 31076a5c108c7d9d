"""Norms that are no modules: calls inside forward, found by reading the source."""

import ast
import inspect
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
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
_NOT_READ = ("torch", "normscope", "functools", "contextlib")


@dataclass(frozen=True, kw_only=True)
class SourceCall:
    """One place in a source file."""

    text: str
    """The code there, or what it reads."""
    where: str
    """File and line."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """The source of a function."""

    tree: ast.AST
    line: int
    """The first one."""
    file: str
    known: Mapping[str, Any]
    """The names of its file."""
    own: str | None
    """What a method calls its module: ``self``; None in a function that is no method."""


def functional_norms(module: nn.Module) -> list[SourceCall]:
    """Find calls that normalize in a module's forward, and in what that calls of the same library.

    Methods of torch's own modules are not read. What cannot be read, for there is no source or it is generated code, is
    left out: reading raises nothing.

    Args:
        module: Any module.

    Returns:
        Functions such as ``F.layer_norm``, and powers or variances whose root is taken in the same function.
    """
    found = {}
    for code in code_of(type(module)):
        rooted = any(_called(node) in _ROOTS or _is_half_power(node) for node in ast.walk(code.tree))
        for node in ast.walk(code.tree):
            name = _called(node)
            is_call = name in _CALLS and not _is_method(node, code.known)
            if isinstance(node, ast.Call) and (is_call or (rooted and _is_moment(node))):
                where = f"{code.file}:{code.line + node.lineno - 1}"
                found.setdefault(where, SourceCall(text=_short(ast.unparse(node)), where=where))
    return list(found.values())


def code_of(kind: type[nn.Module]) -> Iterator[Code]:
    """Give the code of a class's forward, and of the functions and methods of the same library called from it.

    Args:
        kind: Any class of modules.

    Yields:
        Every function that has a source, once.
    """
    waiting: list[tuple[Any, bool]] = [(getattr(kind, "forward", None), True)]
    seen = set()
    while waiting:
        candidate, is_method = waiting.pop(0)
        function = _innermost(candidate)
        if function is None or function.__code__ in seen:
            continue
        library = _library(function)
        parsed = None if library in _NOT_READ else _parsed(function)
        if parsed is None:
            continue
        seen.add(function.__code__)
        own = function.__code__.co_varnames[0] if is_method and function.__code__.co_argcount else None
        tree, line, file = parsed
        code = Code(tree=tree, line=line, file=file, known=function.__globals__, own=own)
        yield code
        for node in ast.walk(code.tree):
            if not isinstance(node, ast.Call):
                continue
            callee, method = node.func, False
            if isinstance(callee, ast.Name):
                other = function.__globals__.get(callee.id)
            elif isinstance(callee, ast.Attribute) and isinstance(callee.value, ast.Name) and callee.value.id == own:
                other = inspect.getattr_static(kind, callee.attr, None)
                method = not isinstance(other, staticmethod)
                other = getattr(other, "__func__", other)
            else:
                continue
            if isinstance(other, FunctionType) and _library(other) == library:
                waiting.append((other, method))


def _innermost(function: Any) -> FunctionType | None:
    """Follow decorators to the function within; the last one of them where they go in a circle."""
    seen = set()
    while isinstance(function, FunctionType) and id(function) not in seen:
        seen.add(id(function))
        within = vars(function).get("__wrapped__")
        if not isinstance(within, FunctionType):
            break
        function = within
    return function if isinstance(function, FunctionType) else None


def _library(function: FunctionType) -> str:
    """Return the first part of the name of the module a function is from; generated code may have none."""
    return str(function.__module__ or "").split(".")[0]


_PARSED: dict[Any, tuple[ast.AST, int, str] | None] = {}


def _parsed(function: FunctionType) -> tuple[ast.AST, int, str] | None:
    """Parse a function once: its tree, its first line and its file; None where it has no source that can be read."""
    code = function.__code__
    if code not in _PARSED:
        try:
            lines, first = inspect.getsourcelines(code)
            tree = ast.parse(textwrap.dedent("".join(lines)))
            _PARSED[code] = tree, first, inspect.getsourcefile(code) or "?"
        except (OSError, TypeError, SyntaxError, ValueError, IndexError, RecursionError, tokenize.TokenError):
            _PARSED[code] = None
    return _PARSED[code]


def _called(node: ast.AST) -> str | None:
    """Return the last name of what is called."""
    if not isinstance(node, ast.Call):
        return None
    return getattr(node.func, "attr", getattr(node.func, "id", None))


def _is_method(node: ast.AST, known: Mapping[str, Any]) -> bool:
    """Return whether a call is one of an object, as ``self.layer_norm(x)``, and not of a module of functions."""
    root = node.func if isinstance(node, ast.Call) else node
    while isinstance(root, ast.Attribute):
        root = root.value
    if not isinstance(root, ast.Name):
        return True
    there = known.get(root.id)
    return not (isinstance(there, ModuleType) or (isinstance(node, ast.Call) and node.func is root and callable(there)))


def _is_moment(node: ast.Call) -> bool:
    """Return whether a call is a variance, or the mean of a square."""
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
