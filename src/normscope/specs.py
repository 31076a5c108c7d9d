"""How a person writes a norm or a placement, and what it stands for.

A norm is ``ada_norm`` or ``ada_norm(scale=2.0)``; a placement ``pre`` or ``mix(share=0.5)``. Different layers take
different ones: ``layer_norm+ada_norm:final`` is layer norm everywhere but for AdaNorm at the end of each stream, and
``pre+post:1-2`` is Pre-LN but for Post-LN in the first two layers. After the colon stand layers, ``stem``, ``final``,
or a kind of branch: ``attention``, ``cross_attention``, ``feed_forward``. ``layer_norm+rms_norm:qk`` adds QK-norm: RMS
norm of every head's queries and keys.
"""

import ast
import inspect
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from normscope.placement import LayeredNorm, NormFactory, Placement, Where, per_layer
from normscope.registry import NORMS, ORIGINS, PARAMETRIZATIONS, PLACEMENTS, look_up


def parse_norm(text: str) -> tuple[str, dict[str, Any]]:
    """Read a norm as the command line writes it: ``ada_norm`` or ``ada_norm(scale=2.0,k=0.1)``.

    Different norms for different layers are one name, as they are written, and no arguments.

    Raises:
        ValueError: If the text has another form.
    """
    if len(split_places(text)) > 1:
        return text.replace(" ", ""), {}
    return parse_call(text, "norm", "ada_norm(scale=2.0)")


def parse_call(text: str, kind: str, example: str) -> tuple[str, dict[str, Any]]:
    """Read a name with arguments in parentheses, every one written as name=value.

    Args:
        text: What a person wrote.
        kind: What it should be, for the message.
        example: One that is right, for the message.

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
        raise ValueError(f"every argument may be given once, got {text!r}")
    return name, arguments


def resolve_norm(name: str, arguments: Mapping[str, Any]) -> NormFactory:
    """Give what makes the norm of a width; ``none`` for a parametrization, which acts on the weights.

    Raises:
        LookupError: If a name is not in the catalogue.
        ValueError: If the text has another form.
    """
    rest, *chosen = split_places(name)
    if not chosen:
        look_up("norm", {**NORMS, **PARAMETRIZATIONS}, name)
        return NORMS["none"] if name in PARAMETRIZATIONS else partial(_make, name, dict(arguments))
    parts = [_at_a_place(part, "norm", "layer_norm+ada_norm:final") for part in chosen]
    return LayeredNorm(rest=_one_norm(rest), chosen=tuple((where, _one_norm(text)) for text, where in parts))


def resolve_placement(text: str) -> Placement:
    """Give the placement that a text stands for.

    Raises:
        LookupError: If a name is not in the catalogue.
        TypeError: If an argument has another type.
        ValueError: If the text has another form, or the placement no such argument.
    """
    rest, *chosen = split_places(text)
    parts = [_at_a_place(part, "placement", "pre+post:1-2") for part in chosen]
    placement = _one_placement(rest)
    return per_layer(placement, *((where, _one_placement(name)) for name, where in parts)) if parts else placement


def canonical_placement(text: str) -> str:
    """Write a placement in one way: without spaces, and without arguments that equal their defaults."""
    parts = []
    for part in split_places(text):
        call, colon, where = part.rpartition(":") if ":" in part else (part, "", "")
        name, arguments = parse_call(call, "placement", "mix(share=0.25)")
        entry = look_up("placement", PLACEMENTS, name)
        given = entry.with_arguments(**arguments).arguments
        parts.append(write_call(name, {k: v for k, v in given.items() if v != entry.arguments[k]}) + colon + where)
    return "+".join(parts)


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Write what :func:`parse_call` reads."""
    inside = ",".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"{name}({inside})" if inside else name


def split_places(text: str) -> list[str]:
    """Split at every ``+`` that stands outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "+" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def placements_in(text: str) -> list[str]:
    """List the keys of ``PLACEMENTS`` that a text names."""
    return [parse_call(part.partition(":")[0], "placement", "mix(share=0.25)")[0] for part in split_places(text)]


def _at_a_place(text: str, kind: str, example: str) -> tuple[str, Where]:
    name, colon, where = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} does not say where it stands: expected a {kind} such as {example!r}")
    return name, Where(text=where)


def _one_norm(text: str) -> NormFactory:
    name, arguments = parse_call(text, "norm", "ada_norm(scale=2.0)")
    if name in PARAMETRIZATIONS:
        raise ValueError(f"{name} acts on all weights of a network and cannot stand at a place")
    look_up("norm", NORMS, name)
    return partial(_make, name, arguments)


def _make(name: str, arguments: Mapping[str, Any], width: int) -> nn.Module:
    """Make a norm of a width.

    Raises:
        TypeError: If the norm of another package takes no width or no such arguments, or is no module.
    """
    entry = look_up("norm", NORMS, name)
    package = ORIGINS.get(("norms", name))
    if package is None:
        return entry(width, **arguments)
    try:
        signature = inspect.signature(entry)
    except ValueError:
        # Compiled code may have none.
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
        raise TypeError(f"norm {name!r} of {package} must give a torch module for a width, got {made!r}")
    return made


def _one_placement(text: str) -> Placement:
    name, arguments = parse_call(text, "placement", "mix(share=0.25)")
    return look_up("placement", PLACEMENTS, name).with_arguments(**arguments)
