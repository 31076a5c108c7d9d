"""Another norm in somebody else's model, in place, with a report and a way back."""

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from normscope.swapping.channels_first import ChannelsFirst
from normscope.swapping.choose import What, Where, choose, label
from normscope.swapping.find import find_norms
from normscope.swapping.parameter_groups import check_optimizer
from normscope.swapping.place import put
from normscope.swapping.refuse import check_open
from normscope.swapping.replacement import Built, build, check_numbers, check_preserved
from normscope.swapping.report import Replaced, SwapReport
from normscope.swapping.target import Maker, read_target
from normscope.swapping.unreachable import in_code, in_lists, stand_in


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
