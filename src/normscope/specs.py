"""What a person writes for a norm, a placement or a task, parsed once and carried as an object.

A norm is ``ada_norm`` or ``ada_norm(scale=2.0)``; a placement ``pre`` or ``mix(share=0.5)``. Different layers take
different ones: ``layer_norm+ada_norm:final`` is layer norm everywhere but for AdaNorm at the end of each stream, and
``pre+post:1-2`` is Pre-LN but for Post-LN in the first two layers. After the colon stand layers, ``stem``, ``final``,
or a kind of branch: ``attention``, ``cross_attention``, ``feed_forward``. ``layer_norm+rms_norm:qk`` adds QK-norm: RMS
norm of every head's queries and keys. A task is a name, or a function of a user's file: ``my_file.py:make``.
"""

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from torch import nn

from normscope.arguments import check_argument, check_arguments
from normscope.norms import NORMS, PARAMETRIZATIONS, NormTraits
from normscope.norms.checks import example_width
from normscope.placement import PLACEMENTS, LayeredNorm, NormFactory, Placement, Where, per_layer
from normscope.registry import UnknownName, look_up

if TYPE_CHECKING:
    from normscope.tasks import CustomTask, Task, UserFile

_NORM = ("norm", "ada_norm(scale=2.0)")
_NORM_AT = ("norm", "layer_norm+ada_norm:final")
_PLACEMENT = ("placement", "mix(share=0.25)")
_PLACEMENT_AT = ("placement", "pre+post:1-2")
_NOT_ARGUMENTS = ("device", "dtype")
"""Parameters that the network decides, not the arm; so is the width, the first one."""


@dataclass(frozen=True)
class NormSpec:
    """One norm with its arguments, or several norms with their places; valid, and written in one canonical way.

    Arguments that equal the norm's defaults are left out.

    Args:
        name: Key of ``NORMS`` or ``PARAMETRIZATIONS``, or several with their places, each with its arguments.
        arguments: Keyword arguments of a single norm, beside its width.

    Raises:
        UnknownName: If a name is not registered.
        TypeError: If an argument has another type than the norm's default.
        ValueError: If the text has another form, or the norm takes no such argument or not this value.

    Example:
        >>> from normscope import NormSpec
        >>> spec = NormSpec.parse("ada_norm(scale=2.0, k=0.1)")  # k has this value anyway
        >>> spec.name, spec.arguments
        ('ada_norm', {'scale': 2.0})
        >>> spec.build(64)
        AdaNorm((64,), eps=1e-05, scale=2.0, k=0.1, convention='paper', detach=True, backend=None)
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_argument("name", self.name, str)
        check_argument("arguments", self.arguments, Mapping[str, Any])
        rest, *chosen = split_places(self.name)
        if not chosen:
            if self.name not in PARAMETRIZATIONS and self.name not in NORMS:
                raise UnknownName("norm", [*NORMS, *PARAMETRIZATIONS], self.name)
            object.__setattr__(self, "arguments", _check_arguments(self.name, self.arguments))
            return
        if self.arguments:
            raise ValueError(f"{self.name} takes no arguments, got {dict(self.arguments)}")
        parts = [
            (rest, ""),
            *((call, f":{where.text}") for call, where in (_split_place(one, _NORM_AT) for one in chosen)),
        ]
        written = []
        for call, where in parts:
            name, arguments = parse_call(call, *_NORM)
            if name in PARAMETRIZATIONS:
                raise ValueError(f"{name} acts on all weights of a network and cannot stand at a place")
            written.append(str(NormSpec(name, arguments)) + where)
        object.__setattr__(self, "name", "+".join(written))
        object.__setattr__(self, "arguments", {})

    @classmethod
    def parse(cls, text: str) -> "NormSpec":
        """Parse a norm as the command line writes it, such as ``ada_norm(scale=2.0,k=0.1)``.

        Raises:
            UnknownName: If a name is not registered.
            TypeError: If an argument has another type than the norm's default.
            ValueError: If the text has another form, or the norm takes no such argument or not this value.
        """
        check_argument("text", text, str)
        return cls(text.replace(" ", "")) if len(split_places(text)) > 1 else cls(*parse_call(text, *_NORM))

    def __str__(self) -> str:
        """Return the text that :meth:`parse` reads."""
        return write_call(self.name, self.arguments)

    @property
    def label(self) -> str:
        """The text for tables, with a space after each comma."""
        inside = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        return f"{self.name}({inside})" if inside else self.name

    @property
    def parts(self) -> tuple[str, ...]:
        """Each norm as it is written, the one for the rest of the network first."""
        return tuple(split_places(self.name))

    @property
    def parametrization(self) -> Callable[[nn.Module], int] | None:
        """The weight parametrization that it names; None for norms."""
        return PARAMETRIZATIONS.get(self.name)

    @property
    def factory(self) -> NormFactory:
        """A function ``width -> module``; for a weight parametrization, the factory of ``none``."""
        rest, *chosen = self.parts
        if not chosen:
            return NORMS["none"] if self.parametrization else partial(_build, self.name, dict(self.arguments))
        parts = [_split_place(part, _NORM_AT) for part in chosen]
        return LayeredNorm(
            rest=NormSpec.parse(rest).factory,
            chosen=tuple((where, NormSpec.parse(text).factory) for text, where in parts),
        )

    def build(self, width: int) -> nn.Module:
        """Build the norm of a width.

        Raises:
            TypeError: If the norm of another package takes no width or no such arguments, or is no module.
        """
        return self.factory(width)


@dataclass(frozen=True)
class PlacementSpec:
    """One placement with its arguments, or several with their layers; valid, and written in one canonical way.

    Args:
        text: As the command line writes it; spaces and arguments that equal their defaults are removed.

    Raises:
        UnknownName: If a name is not registered.
        TypeError: If an argument has another type.
        ValueError: If the text has another form, or the placement takes no such argument.

    Example:
        >>> from normscope import PlacementSpec
        >>> spec = PlacementSpec("pre + post:1-2")
        >>> str(spec)
        'pre+post:1-2'
        >>> spec.names
        ('pre', 'post')
    """

    text: str

    def __post_init__(self) -> None:
        check_argument("text", self.text, str)
        _resolve(self.text)
        written = []
        for part in split_places(self.text):
            call, colon, where = part.rpartition(":") if ":" in part else (part, "", "")
            name, arguments = parse_call(call, *_PLACEMENT)
            entry = PLACEMENTS[name]
            given = entry.with_arguments(**arguments).arguments
            changed = {key: value for key, value in given.items() if value != entry.arguments[key]}
            written.append(write_call(name, changed) + colon + where)
        object.__setattr__(self, "text", "+".join(written))

    def __str__(self) -> str:
        """Return the canonical text."""
        return self.text

    @property
    def names(self) -> tuple[str, ...]:
        """The keys of ``PLACEMENTS`` that it names."""
        return tuple(parse_call(part.partition(":")[0], *_PLACEMENT)[0] for part in split_places(self.text))

    @property
    def has_norms(self) -> bool:
        """Whether it places any norm."""
        return self.text == "preactivation" or self.build().has_norms

    def build(self) -> Placement:
        """Build the placement; each call builds a new one, which counts where it is used."""
        return _resolve(self.text)


_CUSTOM: "dict[UserFile, CustomTask]" = {}
"""Tasks in users' files, as this process has read them."""


@check_arguments
def find_task(name: str, *, anew: bool = False, revision: int | None = None) -> "Task":
    """Return a task by its key, or the task that a user's file defines, ``my_file.py:make``.

    A file is read once per process: a study keeps what it began with while the file is edited.

    Args:
        name: What a person wrote.
        anew: Whether to read a file again that has been edited.
        revision: Expected hash of the file, checked if it has not been read yet.

    Raises:
        UnknownName: If no task has this name; the message suggests the nearest one.
        UserCodeError: If the user's file or function fails.
        UserFileChanged: If the file does not have the revision.
        TypeError: If the object in the file is not a function of norm, placement and seed.
        ValueError: If a file is named without its function.

    Example:
        >>> from normscope import find_task
        >>> task = find_task("digits")
        >>> task.metric.name, task.metric.unit, task.placements
        ('test error', '%', ('pre', 'post', 'output', 'peri'))
    """
    from normscope.tasks import TASKS, CustomTask, UserFile

    if not name.rpartition(":")[0].endswith(".py") and not name.endswith(".py"):
        if ":" in name:
            raise ValueError(f"expected a file and a function in it, such as my_file.py:make, got {name!r}")
        return TASKS[name]
    file = UserFile.named(name)
    if file not in _CUSTOM or (anew and _CUSTOM[file].hashes != file.hashes()):
        if revision is not None:
            file.expect(revision)
        _CUSTOM[file] = CustomTask(file, norm=NORMS["layer_norm"], placement=PLACEMENTS["pre"])
    return _CUSTOM[file]


def parse_call(text: str, kind: str, example: str) -> tuple[str, dict[str, Any]]:
    """Parse a name with arguments in parentheses, each written as name=value.

    Args:
        text: What a person wrote.
        kind: What it should be, for the message.
        example: A valid text, for the message.

    Raises:
        ValueError: If the text has another form.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text)
    plain = example.partition("(")[0]
    wanted = f"expected a {kind} such as {plain!r} or {example!r}, its arguments written as name=value, got {text!r}"
    if match is None:
        raise ValueError(wanted)
    name, inside = match.groups()
    try:
        call = ast.parse(f"f({inside or ''})", mode="eval").body
        simple = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
        if not isinstance(call, ast.Call) or not simple or any(word.arg is None for word in call.keywords):
            raise ValueError(wanted)
        arguments = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(wanted) from error
    if len(arguments) < len(call.keywords):
        raise ValueError(f"each argument may be given once, got {text!r}")
    return name, arguments


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Write what :func:`parse_call` parses."""
    inside = ",".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"{name}({inside})" if inside else name


def split_places(text: str) -> list[str]:
    """Split a text at every ``+`` outside parentheses."""
    return split_outside_parentheses(text, "+")


def split_outside_parentheses(text: str, separator: str) -> list[str]:
    """Split a text at every separator, one character, outside parentheses."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _split_place(text: str, form: tuple[str, str]) -> tuple[str, Where]:
    name, colon, where = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} does not say where it stands: expected a {form[0]} such as {form[1]!r}")
    return name, Where(text=where)


def _check_arguments(norm: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments in the types of the norm's defaults, without those that equal the defaults.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If the norm takes no argument of that name, or not this value.
    """
    if norm in PARAMETRIZATIONS:
        if arguments:
            raise ValueError(f"{norm} takes no arguments, got {dict(arguments)}")
        return {}
    if not arguments:
        return {}
    _, *parameters = inspect.signature(NORMS[norm]).parameters.items()
    known = {name: entry for name, entry in parameters if name not in _NOT_ARGUMENTS}
    strange = [name for name in arguments if name not in known]
    if strange:
        takes = ", ".join(f"{name}={entry.default!r}" for name, entry in known.items()) or "no arguments"
        raise ValueError(f"{norm} has no argument {strange[0]!r}; it takes {takes}")
    given = {name: _in_type(f"{norm}: {name}", value, known[name]) for name, value in arguments.items()}
    try:
        made = NORMS[norm](example_width(given), **given)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{norm}: {error}") from error
    traits = getattr(made, "traits", None)
    has_eps = traits.eps_place is not None if isinstance(traits, NormTraits) else hasattr(made, "eps")
    if "eps" in given and not has_eps:
        raise ValueError(f"{norm} has no eps in its equation: an arm with eps={given['eps']} would not differ")
    return {name: value for name, value in given.items() if value != known[name].default}


def _in_type(what: str, value: Any, parameter: inspect.Parameter) -> Any:
    choices = get_args(parameter.annotation)
    if value is None and type(None) in choices:
        return None
    if isinstance(parameter.default, bool):
        wanted, fits = "True or False", isinstance(value, bool)
    elif isinstance(parameter.default, str) or any(get_origin(choice) is Literal for choice in choices):
        wanted, fits = "a string", isinstance(value, str)
    elif type(parameter.default) is int or (int in choices and float not in choices):
        wanted, fits = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    else:
        wanted, fits = "a number", False
    if not fits:
        raise TypeError(f"{what} must be {wanted}, got {value!r}")
    return value


def _build(name: str, arguments: Mapping[str, Any], width: int) -> nn.Module:
    """Build a norm of a width.

    Raises:
        TypeError: If the norm of another package takes no width or no such arguments, or is no module.
    """
    entry = NORMS[name]
    package = NORMS.origin(name)
    if package is None:
        return entry(width, **arguments)
    try:
        signature = inspect.signature(entry)
    except ValueError:
        # Compiled code may have no signature.
        signature = None
    try:
        if signature is not None:
            signature.bind(width, **arguments)
    except TypeError as error:
        raise TypeError(
            f"norm {name!r} of {package} cannot be made: expected a class or function of a width, with keyword "
            f"arguments that have defaults; given {', '.join(['a width', *arguments])}: {error}"
        ) from error
    made = entry(width, **arguments)
    if not isinstance(made, nn.Module):
        raise TypeError(f"norm {name!r} of {package} must return a torch module for a width, got {made!r}")
    return made


def _resolve(text: str) -> Placement:
    rest, *chosen = split_places(text)
    parts = [_split_place(part, _PLACEMENT_AT) for part in chosen]
    placement = _resolve_one(rest)
    return per_layer(placement, *((where, _resolve_one(name)) for name, where in parts)) if parts else placement


def _resolve_one(text: str) -> Placement:
    name, arguments = parse_call(text, *_PLACEMENT)
    return look_up("placement", PLACEMENTS, name).with_arguments(**arguments)
