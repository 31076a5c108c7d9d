"""Checks of arguments by their annotations, where a public function is entered: what was wanted, what was got."""

import inspect
import os
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def check_arguments(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Check the arguments of every call of a function against its annotations.

    Annotations in quotes are not checked, and nor are the items of iterators, which can be read only once.

    Raises:
        TypeError: In a call, if an argument has another type; the message names it.
        ValueError: In a call, if an argument is none of the values that ``Literal`` lists.
    """
    signature = inspect.signature(function)
    hints = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and not isinstance(parameter.annotation, str)
        and parameter.annotation is not parameter.empty
    }

    @wraps(function)
    def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in hints:
                check_argument(name, value, hints[name])
        return function(*args, **kwargs)

    return checked


def check_argument(name: str, value: Any, hint: Any) -> None:
    """Check one argument against an annotation.

    Raises:
        TypeError: If it has another type.
        ValueError: If it is none of the values that ``Literal`` lists.
    """
    if _fits(value, hint):
        return
    literal = all(typing.get_origin(each) is typing.Literal or each is type(None) for each in _choices(hint))
    kind = ValueError if literal and isinstance(value, str) else TypeError
    raise kind(f"{name} must be {_describe(hint)}, got {_describe_value(value)}{_way_out(value, hint)}")


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if len(_choices(hint)) > 1:
        return any(_fits(value, each) for each in _choices(hint))
    if origin is typing.Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin is type:
        return isinstance(value, type) and issubclass(value, inner[0])
    if origin is tuple and inner[-1] is not ...:
        return _is_sequence(value) and len(value) == len(inner) and all(map(_fits, value, inner))
    if origin in (Sequence, tuple):
        return _is_sequence(value) and all(_fits(each, inner[0]) for each in value)
    if origin is Iterable:
        items = value if _is_sequence(value) else ()
        is_text = isinstance(value, str | bytes | type)
        return isinstance(value, Iterable) and not is_text and all(_fits(each, inner[0]) for each in items)
    if origin is Callable:
        return callable(value) and _may_return(value, inner[-1])
    return hint is Any or _is_instance(value, origin or hint)


def _may_return(value: Callable[..., Any], kind: Any) -> bool:
    """Return whether a callable may return a kind: a class returns its instances, and a module returns no module."""
    if kind is Any or not isinstance(kind, type):
        return True
    return issubclass(value, kind) if isinstance(value, type) else not isinstance(value, kind)


def _is_instance(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if kind in (int, float):
        # Numbers of numpy, too; True is one only by its class.
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind is Path:
        return isinstance(value, str | os.PathLike)
    if getattr(kind, "_is_protocol", False):
        return not isinstance(value, type) and all(hasattr(value, name) for name in vars(kind) if name[0] != "_")
    return not isinstance(kind, type) or isinstance(value, kind)


def _is_sequence(value: Any) -> bool:
    """Return whether a value has a length and an order; arrays and tensors have, text and mappings have not."""
    is_text = isinstance(value, str | bytes | type | Mapping)
    return not is_text and all(hasattr(value, name) for name in ("__len__", "__getitem__", "__iter__"))


_TORCH = {
    "Module": "torch.nn.Module",
    "Optimizer": "torch.optim.Optimizer",
    "Tensor": "torch.Tensor",
    "Generator": "torch.Generator",
    "dtype": "torch.dtype",
}
"""Public names of torch's classes."""

_NAMES: dict[Any, tuple[str, str]] = {
    str: ("a string", "strings"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "booleans"),
    Path: ("a path", "paths"),
    Callable: ("a function", "functions"),
    Mapping: ("a mapping", "mappings"),
    dict: ("a dictionary", "dictionaries"),
    type(None): ("None", "None"),
    None: ("None", "None"),
}


def _describe(hint: Any, *, several: bool = False) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if len(_choices(hint)) > 1:
        return " or ".join(_describe(each, several=several) for each in _choices(hint))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, inner))
    if origin is tuple and inner[-1] is not ...:
        return f"{len(inner)} {_describe(inner[0], several=True)}"
    if origin in (Sequence, Iterable, tuple):
        return f"a sequence of {_describe(inner[0], several=True)}"
    if origin is type:
        return f"a subclass of {_TORCH.get(inner[0].__name__, inner[0].__name__)}"
    if (origin or hint) in _NAMES:
        return _NAMES[origin or hint][several]
    name = getattr(hint, "__name__", str(hint))
    name = _TORCH.get(name, name)
    return f"{name}s" if several else f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _describe_value(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, Iterator):
        return f"a {type(value).__name__}, which can be read only once"
    return f"{reprlib.repr(value)} of type {type(value).__name__}"


def _way_out(value: Any, hint: Any) -> str:
    items: Any = value
    if isinstance(value, type) and any(isinstance(each, type) and issubclass(value, each) for each in _choices(hint)):
        return f": build it first, {value.__name__}(...)"
    if isinstance(value, str) and any(_fits([value], each) for each in _choices(hint)):
        return f": write [{value!r}]"
    if hint == Sequence[str] and _is_sequence(value) and any(map(callable, items)):
        return ": write names; a class or function gets one from an entry point, see docs/guides/custom.md"
    return ""
