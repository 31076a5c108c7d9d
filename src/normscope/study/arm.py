"""What is compared: a norm with its arguments, and where it stands."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal, get_args, get_origin

from normscope.catalogue import NORMS, PARAMETRIZATIONS
from normscope.names import (
    canonical_placement,
    parse_norm,
    resolve_norm,
    resolve_placement,
    split_places,
    write_call,
)

_NOT_ASKED = ("device", "dtype")
"""What the network decides, not the arm, beside the width, which comes first."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is compared. Arguments that equal the norm's defaults are left out: they make no other arm."""

    norm: str
    """Key of ``NORMS`` or ``PARAMETRIZATIONS``, or several with their places: :mod:`normscope.names`."""
    placement: str
    """Key of ``PLACEMENTS``, with arguments, or several with their places."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the norm, beside its width."""
    learning_rate: float | None = None
    """Its own learning rate where it was tuned or is compared; None for the task's."""
    warmup: int | None = None
    """Its own number of warm-up updates where that is compared; None for the task's."""

    def __post_init__(self) -> None:
        resolve_norm(self.norm, {})
        resolve_placement(self.placement)
        arguments = _checked(self.norm, self.arguments)
        object.__setattr__(self, "norm", _canonical(self.norm))
        object.__setattr__(self, "placement", canonical_placement(self.placement))
        object.__setattr__(self, "arguments", arguments)


def _checked(norm: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Give the arguments in the type of the norm's defaults, without those that equal them.

    Raises:
        TypeError: If one has another type.
        ValueError: If the norm takes no argument of that name, or not this value.
    """
    if norm in PARAMETRIZATIONS or "+" in norm:
        if arguments:
            raise ValueError(f"{norm} takes no arguments, got {dict(arguments)}")
        return {}
    _, *parameters = inspect.signature(NORMS[norm]).parameters.items()
    known = {name: entry for name, entry in parameters if name not in _NOT_ASKED}
    strange = [name for name in arguments if name not in known]
    if strange:
        takes = ", ".join(f"{name}={entry.default!r}" for name, entry in known.items()) or "no arguments"
        raise ValueError(f"{norm} has no argument {strange[0]!r}; it takes {takes}")
    given = {name: _typed(f"{norm}: {name}", value, known[name]) for name, value in arguments.items()}
    try:
        made = NORMS[norm](8, **given)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{norm}: {error}") from error
    if "eps" in given and not hasattr(made, "eps"):
        raise ValueError(f"{norm} has no eps in its equation: an arm with eps={given['eps']} would be no other arm")
    return {name: value for name, value in given.items() if value != known[name].default}


def _canonical(norm: str) -> str:
    """Write a norm in one way; of several, each without arguments that equal their defaults."""
    rest, *chosen = split_places(norm)
    if not chosen:
        return norm
    parts = [(rest, "")] + [(call, f":{where}") for call, _, where in (part.rpartition(":") for part in chosen)]
    named = [(*parse_norm(call), where) for call, where in parts]
    return "+".join(write_call(name, _checked(name, arguments)) + where for name, arguments, where in named)


def _typed(what: str, value: Any, parameter: inspect.Parameter) -> Any:
    choices = get_args(parameter.annotation)
    if value is None and type(None) in choices:
        return None
    if isinstance(parameter.default, bool):
        wanted, fits = "True or False", isinstance(value, bool)
    elif isinstance(parameter.default, str) or any(get_origin(choice) is Literal for choice in choices):
        wanted, fits = "a word", isinstance(value, str)
    elif type(parameter.default) is int:
        wanted, fits = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    else:
        wanted, fits = "a number", False
    if not fits:
        raise TypeError(f"{what} must be {wanted}, got {value!r}")
    return value
