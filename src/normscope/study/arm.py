"""What is compared: a norm with its arguments, and where it stands."""

import ast
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal, get_args, get_origin

from normscope.catalogue import NORMS, PARAMETRIZATIONS, PLACEMENTS, look_up

_NOT_ASKED = ("normalized_shape", "device", "dtype")
"""What the network decides, not the arm."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is compared. Arguments that equal the norm's defaults are left out: they make no other arm."""

    norm: str
    """Key of ``NORMS`` or ``PARAMETRIZATIONS``."""
    placement: str
    """Key of ``PLACEMENTS``."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the norm, beside its width."""
    learning_rate: float | None = None
    """Its own learning rate where it was tuned; None for the task's."""

    def __post_init__(self) -> None:
        look_up("norm", {**NORMS, **PARAMETRIZATIONS}, self.norm)
        look_up("placement", PLACEMENTS, self.placement)
        object.__setattr__(self, "arguments", _checked(self.norm, self.arguments))


def parse_norm(text: str) -> tuple[str, dict[str, Any]]:
    """Read a norm as the command line writes it: ``ada_norm`` or ``ada_norm(scale=2.0,k=0.1)``.

    Raises:
        ValueError: If the text has another form.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text)
    wanted = (
        "expected a norm such as 'ada_norm' or 'ada_norm(scale=2.0)', its arguments written as name=value, "
        f"got {text!r}"
    )
    if match is None:
        raise ValueError(wanted)
    name, inside = match.groups()
    try:
        call = ast.parse(f"f({inside or ''})", mode="eval").body
        plain = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
        if not isinstance(call, ast.Call) or not plain or any(word.arg is None for word in call.keywords):
            raise ValueError(wanted)
        arguments = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(wanted) from error
    if len(arguments) < len(call.keywords):
        raise ValueError(f"every argument may be given once, got {text!r}")
    return name, arguments


def _checked(norm: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Give the arguments in the type of the norm's defaults, without those that equal them.

    Raises:
        TypeError: If one has another type.
        ValueError: If the norm takes no argument of that name, or not this value.
    """
    if norm in PARAMETRIZATIONS:
        if arguments:
            raise ValueError(f"{norm} takes no arguments, got {dict(arguments)}")
        return {}
    parameters = inspect.signature(NORMS[norm]).parameters
    known = {name: entry for name, entry in parameters.items() if name not in _NOT_ASKED}
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


def _typed(what: str, value: Any, parameter: inspect.Parameter) -> Any:
    choices = get_args(parameter.annotation)
    if value is None and type(None) in choices:
        return None
    if isinstance(parameter.default, bool):
        wanted, fits = "True or False", isinstance(value, bool)
    elif isinstance(parameter.default, str) or any(get_origin(choice) is Literal for choice in choices):
        wanted, fits = "a word", isinstance(value, str)
    elif isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    else:
        wanted, fits = "a number", False
    if not fits:
        raise TypeError(f"{what} must be {wanted}, got {value!r}")
    return value
