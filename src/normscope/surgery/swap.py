"""Another norm in somebody else's model, in place, with a report and a way back."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from normscope.inspection.attribute_reads import ChannelsFirst
from normscope.inspection.find import Unreached, find_norms
from normscope.inspection.kinds import KINDS, Norm
from normscope.surgery.guards import check_open
from normscope.surgery.install import put
from normscope.surgery.optimizer import check_optimizer
from normscope.surgery.replacement import Built, Maker, build, check_numbers, check_preserved, read_target
from normscope.surgery.report import Replaced, SwapReport
from normscope.surgery.unreachable import in_code, in_lists, stand_in

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


def swap(
    model: nn.Module,
    what: What,
    to: str | Maker,
    *,
    where: Where | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    preserve: bool = False,
) -> SwapReport:
    """Put another norm in the place of a model's norms, in this instance, in place.

    torch's and our own norms are known by their class; a foreign RMS norm or layer norm (Hugging Face, timm, your own)
    by what it computes on random rows. Features on axis 1 stay there: the new norm stands in a ``ChannelsFirst``.
    What the new norm has, too, is kept: eps where it means the same, gain and bias as the same parameters, dtype,
    device, ``requires_grad``, hooks, tied modules, training or evaluation. A gain or bias that was switched off stays
    off where the new norm has that switch. A gain of another convention, such as 1 + w, is converted. Norms that are
    called by keyword want a new norm whose forward has that argument.

    Args:
        model: Any module. Its classes, its configuration and other instances are not touched.
        what: A key of ``NORMS``, ``group_norm``, ``instance_norm``, a class of norms, or several of these.
        to: A key of ``NORMS``, a key with arguments such as ``ada_norm(scale=2.0)``, or a function from a width to a
            module that maps ``[..., D]`` to ``[..., D]``, a new one every time.
        where: Which of them: a pattern of names such as ``encoder.*``, or a function of name and module.
        optimizer: Its groups then lose the parameters that go and gain those that come; state of what stays is kept.
            Any of torch's but LBFGS, which keeps one history of all parameters.
        preserve: Insist on the same function at the start, to 1e-5 or a rounding of the parameters' dtype, and set what
            is new so where it can be (``scale_norm``).

    Returns:
        What was replaced, kept and lost, what is out of reach and where, and ``undo()``.

    Raises:
        LookupError: If ``to`` is no key.
        TypeError: If an argument is of another type.
        ValueError: If there is no such norm (the message lists those there are), ``where`` leaves none, the model
            itself is the norm, or the model is compiled, wrapped, sharded or lazy (the message has the way out); if
            ``to`` gives one module twice or one of another width; if ``optimizer`` is LBFGS or holds no parameter of
            the model; if ``preserve`` is asked for and is not to be had. Nothing is changed then.
    """
    check_open(model)
    target = read_target(to)
    if optimizer is not None:
        check_optimizer(optimizer)
    found, unreached = find_norms(model)
    chosen, skipped = choose(model, found, unreached, what, where)
    if preserve:
        check_numbers(chosen)
    built = build(model, chosen, target, preserve=preserve)
    if preserve:
        check_preserved(built)
    reads = stand_in(model, built)
    # What reads source may fail: the model is changed last.
    unreached = (*unreached, *in_code(model, found, unreached), *in_lists(model, chosen))
    replaced = tuple(_told(one) for one in built)
    before = _count(model)
    undo, notes = put(model, built, optimizer)
    after = _count(model)
    if optimizer is None and any(_parameters(one.norm.module) != _parameters(one.module) for one in built):
        notes.append("parameters came or went: give an optimizer made before as optimizer=, or make it again")
    if any(getattr(module, "brings_activation", False) for one in built for module in one.module.modules()):
        notes.append("the new norm brings a non-linearity of its own: the one behind it is to be left out")
    if any(is_lazy(p) for p in model.parameters()):
        notes.append("the model has lazy parameters, which have no number yet and are not counted")
    return SwapReport(
        what=label(what),
        to=target.label,
        model=type(model).__name__,
        replaced=replaced,
        skipped=tuple(norm.name for norm in skipped),
        unreached=unreached,
        notes=(*notes, *reads, *dict.fromkeys(one.trouble for one in built if one.trouble)),
        parameters_before=before,
        parameters_after=after,
        _undo=undo,
    )


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if not is_lazy(p))


def _parameters(module: nn.Module) -> set[int]:
    return {id(p) for p in module.parameters()}


def _told(one: Built) -> Replaced:
    return Replaced(
        name=one.norm.name,
        tied=one.norm.names[1:],
        old=_class(one.norm.module),
        new=_class(one.module),
        parameters_before=_count(one.norm.module),
        parameters_after=_count(one.module),
        kept=one.kept,
        lost=one.lost,
        difference=one.difference,
        module=one.module,
    )


def _class(module: nn.Module) -> str:
    name = type(module).__name__
    return f"{name}({type(module.norm).__name__})" if isinstance(module, ChannelsFirst) else name
