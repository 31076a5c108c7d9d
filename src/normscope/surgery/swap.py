"""Norms or recurrent layers of a model replaced by others, in place, with a report and an undo."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from normscope.arguments import check_arguments
from normscope.inspection.find import find_norms, held_in_lists
from normscope.inspection.functional_calls import norms_in_code
from normscope.inspection.norm_in_model import ModuleInModel, Unreachable, kinds, unwrapped
from normscope.norms import ChannelsFirst
from normscope.surgery.guards import check_replaceable
from normscope.surgery.install import install
from normscope.surgery.optimizer import check_optimizer
from normscope.surgery.recurrent import RECURRENT, build_recurrent, find_recurrent, is_recurrent, read_recurrent_target
from normscope.surgery.replacement import (
    Maker,
    Replacement,
    build,
    check_has_values,
    check_preserved,
    difference_in_small_rows,
    read_target,
)
from normscope.surgery.report import Replaced, SwapReport
from normscope.surgery.transfer import add_read_constants

What = str | type[nn.Module] | Sequence[str | type[nn.Module]]
Where = str | Callable[[str, nn.Module], bool]
Found = TypeVar("Found", bound=ModuleInModel)


def choose(
    model: nn.Module, found: Sequence[Found], unreachable: Sequence[Unreachable], what: What, where: Where | None
) -> tuple[list[Found], list[Found]]:
    """Select norms or recurrent layers by their kind and their place.

    Args:
        model: The model, for error messages.
        found: Its norms or recurrent layers.
        unreachable: Those that cannot be replaced, for error messages.
        what: A key, a class, or several.
        where: A pattern of names, or a function of name and module; None for all.

    Returns:
        Those selected, and those of the right kind that ``where`` excludes.

    Raises:
        TypeError: If ``what`` or ``where`` is of another type.
        ValueError: If there is no such key or no such module, or ``where`` excludes them all.
    """
    wanted = _wanted(what)
    noun = "recurrent layer" if is_recurrent(wanted[0]) else "norm"
    if where is not None and not isinstance(where, str) and (isinstance(where, nn.Module) or not callable(where)):
        raise TypeError(
            f"where must be a pattern of names such as 'encoder.*' or a function of name and module, got {where!r}"
        )
    right = [one for one in found if _is_wanted(one, wanted)]
    if not right:
        raise ValueError(f"{type(model).__name__} has no {label(what)} to replace; {_listed(found, unreachable, noun)}")
    chosen = [one for one in right if _is_chosen(one, where)]
    if not chosen:
        names = ", ".join(one.name for one in right)
        raise ValueError(f"where={where!r} leaves none of the {len(right)} {label(what)}: {names}")
    if chosen[0].name == "":
        raise ValueError(f"the model itself is the {noun}, a {type(model).__name__}: there is no place to put another")
    return chosen, [one for one in right if one not in chosen]


def label(what: Any) -> str:
    """Return the text for ``what`` in reports and error messages."""
    given = [what] if isinstance(what, str | type) else list(what)
    return " + ".join(one if isinstance(one, str) else one.__name__ for one in given)


def _wanted(what: Any) -> list[str | type[nn.Module]]:
    expected = "a key of NORMS or a class of modules, or several of these"
    if not isinstance(what, str | type) and not (isinstance(what, Iterable) and not isinstance(what, nn.Module)):
        raise TypeError(f"what must be {expected}, got {what!r}")
    given: list[Any] = [what] if isinstance(what, str | type) else list(what)
    if not given:
        raise ValueError(f"what must be {expected}, got an empty sequence: {what!r}")
    for one in given:
        if isinstance(one, str) and one not in (*kinds(), *RECURRENT):
            raise ValueError(f"what must be a class or one of {', '.join((*kinds(), *RECURRENT))}, got {one!r}")
        if not isinstance(one, str) and not (isinstance(one, type) and issubclass(one, nn.Module)):
            raise TypeError(f"what must be a key of NORMS or a class of modules, got {one!r}")
    if len({is_recurrent(one) for one in given}) == 2:
        raise ValueError(f"norms and recurrent layers are swapped one after the other, got {label(what)}")
    # Our recurrent classes are derived from torch's, and each class means itself.
    keys: dict[Any, Any] = {kind: key for key, kind in RECURRENT.items()}
    return [keys.get(one, one) for one in given]


def _is_wanted(one: ModuleInModel, wanted: Sequence[str | type[nn.Module]]) -> bool:
    module = unwrapped(one.module)
    return any(one.kind == each if isinstance(each, str) else isinstance(module, each) for each in wanted)


def _is_chosen(one: ModuleInModel, where: Where | None) -> bool:
    if where is None:
        return True
    if isinstance(where, str):
        return any(fnmatchcase(name, where) for name in one.names)
    return any(where(name, one.module) for name in one.names)


def _listed(found: Sequence[ModuleInModel], unreachable: Sequence[Unreachable], noun: str) -> str:
    """Return a sentence that lists the norms or recurrent layers of a model."""
    by_kind: dict[str, list[ModuleInModel]] = {}
    for one in found:
        by_kind.setdefault(one.kind, []).append(one)
    words = [
        f"{len(alike)} {kind} ({', '.join(dict.fromkeys(type(one.module).__name__ for one in alike))}: {alike[0].name}"
        f"{', ...' if len(alike) > 1 else ''})"
        for kind, alike in by_kind.items()
    ]
    words += [f"{one.name} ({one.what}), out of reach: {one.why}" for one in unreachable]
    return f"it has {'; '.join(words)}" if words else f"it has no {noun} at all that is a module"


@check_arguments
def swap(
    model: nn.Module,
    what: What,
    to: str | Maker,
    *,
    where: Where | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    preserve: bool = False,
    force: bool = False,
) -> SwapReport:
    """Replace norms or recurrent layers of a model by others, in place; other instances and classes do not change.

    Registered norms and torch's are known by their class; any other RMS norm or layer norm (Hugging Face, timm, your
    own) by what it computes on random rows. Features on axis 1 stay there: a new norm of the last axis is wrapped in a
    ``ChannelsFirst``, and one with its features on axis 1, as torch's batch, group and instance norms, is taken as it
    is. Where features are on the last axis, these three become ours.

    Kept are, as far as the new norm has them: eps if it means the same, weight and bias as the same parameters, dtype,
    device, ``requires_grad``, hooks, tied modules, and the mode. A weight or bias that was switched off stays off if
    the new norm has that option. A weight of another convention, such as 1 + w, is converted. If a norm is called by
    keyword, the new norm's forward must have that argument.

    ``swap(model, "lstm", "ln_lstm")`` puts :class:`normscope.LSTM` where ``torch.nn.LSTM`` stood, with the same
    parameters, and ``swap(model, "ln_lstm", "lstm")`` puts torch's back, without the norms; so do ``rnn``, ``gru``,
    ``rnn_cell``, ``lstm_cell`` and ``gru_cell``. Subclasses are left alone and reported.

    Args:
        model: Any module. Its classes, its configuration and other instances are not changed.
        what: A key of ``NORMS``, ``group_norm``, ``instance_norm``, a class of norms, or several of these; or a
            recurrent layer such as ``lstm`` or ``ln_gru``, its class, or several.
        to: A key of ``NORMS``, a key with arguments such as ``group_norm(num_groups=8)``, or a class or function from
            a width to a module, a new one every time, that maps ``[..., D]`` to ``[..., D]`` or has its features on
            axis 1 as torch's batch norms. For a recurrent layer ``ln_lstm``, with arguments
            ``ln_lstm(norm='rms_norm', places='kiros')``, or a class or function with the arguments of torch's
            constructor; ``forget_bias`` sets the biases of the forget gates in a copy of the old biases.
        where: Which of them: a pattern of names such as ``encoder.*``, or a function of name and module.
        optimizer: An optimizer of torch's, in whose groups the new parameters replace the old ones; the state of those
            that stay is kept. Not LBFGS, which has one history for all parameters.
        preserve: Require the same function at the start, to 1e-5 or a rounding of the parameters' dtype; new parameters
            are set accordingly if possible (``scale_norm``). That is measured on rows of a size of about one; a note
            says from which size on it holds, if eps changes smaller rows.
        force: Put in a replacement that does not run on a small random input, changes its shape, or has its features
            on axis 1 where they are on the last. A note says so.

    Returns:
        What was replaced, kept and lost, which norms are unreachable and why, and ``undo()``.

    Raises:
        LookupError: If there is no norm or recurrent layer of the name ``to``.
        TypeError: If an argument is of another type.
        ValueError: If there is no such module (the message lists those of the model), ``where`` excludes them all, or
            the model itself is the norm; if ``to`` is of another kind than what it replaces; if the model is compiled,
            wrapped, sharded or lazy (the message says what to do instead); if ``to`` returns one module twice; if a
            replacement does not run on a small input, changes its shape or has its features on another axis, unless
            ``force``; if ``optimizer`` is LBFGS or has no parameter of the model; if ``preserve`` cannot be satisfied.
            Nothing is changed then.

    Example:
        >>> import torch
        >>> import normscope
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))
        >>> report = normscope.swap(model, "layer_norm", "rms_norm")
        >>> [(one.name, one.new) for one in report.replaced]
        [('1', 'RMSNorm')]
        >>> report.undo()
        >>> type(model[1]).__name__
        'LayerNorm'
    """
    check_replaceable(model)
    if optimizer is not None:
        check_optimizer(optimizer)
    family = _RECURRENT if is_recurrent(_wanted(what)[0]) else _NORMS
    if family is _NORMS and isinstance(to, str) and is_recurrent(to.partition("(")[0].strip()):
        raise ValueError(f"{to} is a recurrent layer and {label(what)} is not: it takes the place of a recurrent layer")
    target = family.read_target(to)
    found, unreachable = family.find(model)
    chosen, skipped = choose(model, found, unreachable, what, where)
    if preserve:
        check_has_values(chosen)
    built = family.build(model, chosen, target, preserve=preserve, force=force)
    if preserve:
        check_preserved(built)
    reads = family.add_constants(model, [(one.old, one.module) for one in built])
    # Reading source code may fail, so the model is changed last.
    unreachable = (*unreachable, *family.in_code(model, found, unreachable), *held_in_lists(model, chosen))
    replaced = tuple(_reported(one) for one in built)
    before = _count(model)
    undo, notes = install(model, built, optimizer)
    after = _count(model)
    if optimizer is None and any(_parameters(one.old.module) != _parameters(one.module) for one in built):
        notes.append("parameters came or went: give an optimizer made before as optimizer=, or make it again")
    if any(getattr(module, "brings_activation", False) for one in built for module in one.module.modules()):
        notes.append("the new norm includes a nonlinearity: remove the one that follows it")
    if any(is_lazy(p) for p in model.parameters()):
        notes.append("the model has lazy parameters, which have no size yet and are not counted")
    return SwapReport(
        what=label(what),
        to=target.label,
        model=type(model).__name__,
        replaced=replaced,
        skipped=tuple(one.name for one in skipped),
        unreachable=unreachable,
        notes=(
            *notes,
            *reads,
            *difference_in_small_rows(built),
            *(note for one in built for note in one.forced),
        ),
        parameters_before=before,
        parameters_after=after,
        _undo=undo,
    )


class _Family(NamedTuple):
    """A family of modules that a swap replaces: how they are read, found and built."""

    read_target: Callable[[str | Maker], Any]
    find: Callable[[nn.Module], tuple[Sequence[Any], Sequence[Unreachable]]]
    build: Callable[..., Sequence[Replacement]]
    in_code: Callable[..., Sequence[Unreachable]]
    """What forwards compute by a function instead of a module."""
    add_constants: Callable[..., Sequence[str]]
    """Constants for code that reads what a replacement does not have."""


_NORMS = _Family(read_target, partial(find_norms, for_replacement=True), build, norms_in_code, add_read_constants)
_RECURRENT = _Family(read_recurrent_target, find_recurrent, build_recurrent, lambda *_: (), lambda *_: ())


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if not is_lazy(p))


def _parameters(module: nn.Module) -> set[int]:
    return {id(p) for p in module.parameters()}


def _reported(one: Replacement) -> Replaced:
    return Replaced(
        name=one.old.name,
        tied=one.old.names[1:],
        old=_class(one.old.module),
        new=_class(one.module),
        parameters_before=_count(one.old.module),
        parameters_after=_count(one.module),
        kept=one.kept,
        lost=one.lost,
        difference=one.difference.usual,
        difference_when_small=one.difference.small,
        module=one.module,
    )


def _class(module: nn.Module) -> str:
    name = type(module).__name__
    if is_recurrent(type(module)):
        # Ours have the names of torch's.
        package = type(module).__module__.partition(".")[0]
        return f"{'nn' if package == 'torch' else package}.{name}"
    return f"{name}({type(module.norm).__name__})" if isinstance(module, ChannelsFirst) else name
