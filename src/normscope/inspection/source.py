"""The source code of a module's forward, and of what it calls in the same library."""

import ast
import inspect
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

from torch import nn

_NOT_READ = ("torch", "normscope", "functools", "contextlib")
"""Libraries whose code is not read."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """The source of a function."""

    tree: ast.AST
    line: int
    """Number of the first line."""
    file: str
    globals: Mapping[str, Any]
    """The names of its file."""
    self_name: str | None
    """The name of a method's first argument, usually ``self``; None for a function that is not a method."""


def code_of(kind: type[nn.Module]) -> Iterator[Code]:
    """Yield the code of a class's forward, and of the functions and methods of the same library called from it.

    Args:
        kind: Any class of modules.

    Yields:
        Every function whose source can be read, once.
    """
    waiting: list[tuple[Any, bool]] = [(getattr(kind, "forward", None), True)]
    seen = set()
    while waiting:
        candidate, is_method = waiting.pop(0)
        function = _innermost(candidate)
        if function is None or function.__code__ in seen:
            continue
        library = _library(function)
        parsed = None if library in _NOT_READ else _parsed(function.__code__)
        if parsed is None:
            continue
        seen.add(function.__code__)
        self_name = function.__code__.co_varnames[0] if is_method and function.__code__.co_argcount else None
        tree, line, file = parsed
        code = Code(tree=tree, line=line, file=file, globals=function.__globals__, self_name=self_name)
        yield code
        for node in ast.walk(code.tree):
            if not isinstance(node, ast.Call):
                continue
            callee, method = node.func, False
            if isinstance(callee, ast.Name):
                other = function.__globals__.get(callee.id)
            elif (
                isinstance(callee, ast.Attribute)
                and isinstance(callee.value, ast.Name)
                and callee.value.id == self_name
            ):
                other = inspect.getattr_static(kind, callee.attr, None)
                method = not isinstance(other, staticmethod)
                other = getattr(other, "__func__", other)
            else:
                continue
            if isinstance(other, FunctionType) and _library(other) == library:
                waiting.append((other, method))


def called_name(node: ast.AST) -> str | None:
    """Return the last name of the function that a call calls; None if the node is not a call."""
    if not isinstance(node, ast.Call):
        return None
    return getattr(node.func, "attr", getattr(node.func, "id", None))


def _innermost(function: Any) -> FunctionType | None:
    """Follow decorators to the innermost function, or to the last one before they form a cycle."""
    seen = set()
    while isinstance(function, FunctionType) and id(function) not in seen:
        seen.add(id(function))
        within = vars(function).get("__wrapped__")
        if not isinstance(within, FunctionType):
            break
        function = within
    return function if isinstance(function, FunctionType) else None


def _library(function: FunctionType) -> str:
    """Return the top-level package of a function; generated code may have none."""
    return str(function.__module__ or "").split(".")[0]


@lru_cache(maxsize=1024)
def _parsed(code: CodeType) -> tuple[ast.AST, int, str] | None:
    """Parse a function: its tree, its first line and its file; None if it has no source that can be read."""
    try:
        lines, first = inspect.getsourcelines(code)
        return ast.parse(textwrap.dedent("".join(lines))), first, inspect.getsourcefile(code) or "?"
    except (OSError, TypeError, SyntaxError, ValueError, IndexError, RecursionError, tokenize.TokenError):
        return None
