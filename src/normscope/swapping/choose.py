"""Which of a model's norms a call means."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from normscope.swapping.channels_first import ChannelsFirst
from normscope.swapping.find import Unreached
from normscope.swapping.kinds import KINDS, Norm

What = str | type[nn.Module] | Sequence[str | type[nn.Module]]
Where = str | Callable[[str, nn.Module], bool]


def choose(
    model: nn.Module, found: Sequence[Norm], unreached: Sequence[Unreached], what: What, where: Where | None
) -> tuple[list[Norm], list[Norm]]:
    """Pick norms by their kind and their place.

    Args:
        model: Where they were found, for the words of an error.
        found: All norms.
        unreached: Those that cannot be replaced, for the words of an error.
        what: A key, a class, or several.
        where: A pattern of names, or a function of name and module; None for all.

    Returns:
        Those that are meant, and those of the right kind that ``where`` leaves out.

    Raises:
        TypeError: If ``what`` or ``where`` is of another type.
        ValueError: If there is no such key or no such norm, or ``where`` leaves none.
    """
    wanted = _wanted(what)
    if where is not None and not isinstance(where, str) and (isinstance(where, nn.Module) or not callable(where)):
        raise TypeError(
            f"where must be a pattern of names such as 'encoder.*' or a function of name and module, got {where!r}"
        )
    right = [norm for norm in found if _is_wanted(norm, wanted)]
    if not right:
        raise ValueError(f"{type(model).__name__} has no {label(what)} to replace; {_there(found, unreached)}")
    chosen = [norm for norm in right if _is_chosen(norm, where)]
    if not chosen:
        names = ", ".join(norm.name for norm in right)
        raise ValueError(f"where={where!r} leaves none of the {len(right)} {label(what)}: {names}")
    if chosen[0].name == "":
        raise ValueError(f"the model itself is the norm, a {type(model).__name__}: there is no place to put another")
    return chosen, [norm for norm in right if norm not in chosen]


def label(what: Any) -> str:
    """Write what was asked for in a word."""
    given = [what] if isinstance(what, str | type) else list(what)
    return " + ".join(one if isinstance(one, str) else one.__name__ for one in given)


def _wanted(what: Any) -> list[str | type[nn.Module]]:
    kinds = "a key of NORMS or a class of modules, or several of these"
    if not isinstance(what, str | type) and not (isinstance(what, Iterable) and not isinstance(what, nn.Module)):
        raise TypeError(f"what must be {kinds}, got {what!r}")
    given: list[Any] = [what] if isinstance(what, str | type) else list(what)
    if not given:
        raise ValueError(f"what must be {kinds}, got none: {what!r}")
    for one in given:
        if isinstance(one, str) and one not in KINDS:
            raise ValueError(f"what must be a class or one of {', '.join(KINDS)}, got {one!r}")
        if not isinstance(one, str) and not (isinstance(one, type) and issubclass(one, nn.Module)):
            raise TypeError(f"what must be a key of NORMS or a class of modules, got {one!r}")
    return given


def _is_wanted(norm: Norm, wanted: Sequence[str | type[nn.Module]]) -> bool:
    module = norm.holder if isinstance(norm.module, ChannelsFirst) else norm.module
    return any(norm.kind == one if isinstance(one, str) else isinstance(module, one) for one in wanted)


def _is_chosen(norm: Norm, where: Where | None) -> bool:
    if where is None:
        return True
    if isinstance(where, str):
        return any(fnmatchcase(name, where) for name in norm.names)
    return any(where(name, norm.module) for name in norm.names)


def _there(found: Sequence[Norm], unreached: Sequence[Unreached]) -> str:
    """Say which norms there are."""
    kinds: dict[str, list[Norm]] = {}
    for norm in found:
        kinds.setdefault(norm.kind, []).append(norm)
    words = [
        f"{len(norms)} {kind} ({', '.join(dict.fromkeys(type(n.module).__name__ for n in norms))}: {norms[0].name}"
        f"{', ...' if len(norms) > 1 else ''})"
        for kind, norms in kinds.items()
    ]
    words += [f"{one.name} ({one.what}), out of reach: {one.why}" for one in unreached]
    return f"it has {'; '.join(words)}" if words else "it has no norm at all that is a module"
