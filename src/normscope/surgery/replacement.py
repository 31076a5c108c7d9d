"""The module that replaces a norm: built, fitted with what the old norm has, and compared with it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from normscope.inspection.norm_in_model import (
    ModuleInModel,
    NormInModel,
    kind_of,
    known_base,
    numeric_eps,
    traits_of,
)
from normscope.norms import NORMS, NormTraits
from normscope.norms.checks import example_width
from normscope.specs import parse_call
from normscope.surgery.difference import TOLERANCE, OutputDifference, measure
from normscope.surgery.guards import share_hooks
from normscope.surgery.orientation import oriented
from normscope.surgery.transfer import Ties, affine_of, constant_of, transfer
from normscope.torch_internals import buffers_of, is_lazy_norm

Maker = Callable[[Any], nn.Module]
"""From a width, or the sizes of several axes, to a module of ``[..., D]``."""

_WITH_MOMENTS = {"batch_norm", "instance_norm"}
"""Kinds that may have running moments."""
_FROM_MODEL = {"normalized_shape", "device", "dtype"}
"""Arguments that the model decides."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What replaces the norms."""

    label: str
    """The text or the name of the function that was given."""
    make: Maker
    """The entry of ``NORMS``, or the function that was given."""
    key: str | None = None
    """The key of ``NORMS``, if one was given."""
    arguments: Mapping[str, Any]
    """Arguments given with the key."""
    traits: NormTraits | None = None
    """What the norm of the key declares."""

    def build(self, norm: NormInModel, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """Build a fresh replacement of one norm, for features on the last axis.

        Args:
            norm: The norm. Its eps is kept if eps means the same in the new equation; a weight or a bias that it does
                not have is left out of the replacement if its constructor has that choice.
            device: Device of the parameters.
            dtype: Dtype of the parameters.

        Returns:
            A module of ``[..., *norm.shape]``.

        Raises:
            TypeError: If ``make`` returns something else than a module.
            ValueError: If the module is lazy.
        """
        (*_, last) = norm.shape
        width = norm.shape if len(norm.shape) > 1 else last
        arguments = {} if self.key is None else {**self._from_old(norm, dtype), **self.arguments}
        accepted = inspect.signature(self.make).parameters if self.key is not None else {}
        placed = {"device": device, "dtype": dtype} if {"device", "dtype"} <= set(accepted) else {}
        made = self.make(width, **arguments, **placed)
        if not isinstance(made, nn.Module):
            raise TypeError(f"{self.label} must give a torch.nn.Module, got {made!r} for the width {width}")
        if is_lazy_norm(made) or any(is_lazy(p) for p in made.parameters()):
            raise ValueError(
                f"{self.label} gave a lazy {type(made).__name__} for the width {width}: give a module that has its size"
            )
        return made if placed else made.to(device=device, dtype=dtype)

    def keeps_eps(self, norm: NormInModel) -> bool:
        """Return whether the old eps means the same in the new equation."""
        place = None if self.traits is None else self.traits.eps_place
        if place is None or place != norm.traits.eps_place:
            return False
        return place == "variance" or norm.kind == self.key

    def _from_old(self, norm: NormInModel, dtype: torch.dtype) -> dict[str, Any]:
        """Return the constructor arguments that the old norm decides."""
        arguments: dict[str, Any] = {}
        if self.traits is None:
            return arguments
        if self.keeps_eps(norm):
            machine = norm.eps is None and self.key != "rms_norm"
            arguments["eps"] = torch.finfo(dtype).eps if machine else norm.eps
        weight, bias = (
            name is not None or constant_of(norm.holder, role) is not None
            for name, role in ((norm.weight_name, "weight"), (norm.bias_name, "bias"))
        )
        if norm.traits.has_weight and not weight:
            arguments |= self.traits.without_weight
        if norm.traits.has_bias and not bias:
            arguments |= self.traits.without_bias
        if self.key != norm.kind:
            return arguments
        old: Any = norm.holder
        if norm.kind in _WITH_MOMENTS:
            # Torch's instance norm without a momentum does not move its moments.
            arguments["momentum"] = old.momentum if norm.kind == "batch_norm" else old.momentum or 0.0
            arguments["track_running_stats"] = old.running_mean is not None
        if norm.kind == "group_norm":
            arguments["num_groups"] = old.num_groups
        return arguments


def read_target(to: str | Maker) -> Target:
    """Parse what is to replace the norms.

    Args:
        to: A key of ``NORMS``, a key with arguments such as ``ada_norm(scale=2.0)``, or a function of the width.

    Raises:
        LookupError: If there is no such key.
        TypeError: If it is neither a text nor a function, or the norm has no such argument.
        ValueError: If the text cannot be parsed, or the value of an argument is invalid.
    """
    if not isinstance(to, str):
        if not callable(to) or isinstance(to, nn.Module):
            raise TypeError(f"to must be a key of NORMS or a function from a width to a module, got {to!r}")
        return Target(label=getattr(to, "__name__", repr(to)), make=to, arguments={})
    key, arguments = parse_call(to, "norm", "ada_norm(scale=2.0)")
    entry = NORMS[key]
    if strange := _FROM_MODEL & set(arguments):
        raise ValueError(f"{to!r}: the model decides {', '.join(sorted(strange))}, not the swap")
    try:
        example = entry(example_width(arguments), **arguments)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{to!r}: {error}") from error
    traits = traits_of(example) if isinstance(example, nn.Module) else None
    return Target(label=to, make=entry, key=key, arguments=arguments, traits=traits)


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """A module that can replace a norm or a recurrent layer, not yet installed."""

    old: ModuleInModel
    module: nn.Module
    kept: tuple[str, ...]
    """What the old module has and the new one takes over."""
    lost: tuple[str, ...]
    """What the old module has and the new one does not."""
    difference: OutputDifference = field(default_factory=OutputDifference)
    """How far the outputs of the two are apart; NaN if that was not measured."""
    forced: tuple[str, ...] = ()
    """Why it would not have been put in without ``force``."""


def build(
    model: nn.Module, norms: Sequence[NormInModel], target: Target, *, preserve: bool = False, force: bool = False
) -> list[Replacement]:
    """Build the replacements of norms. Neither the norms nor the model are changed.

    A parameter that fits is taken over as the same object: ties, hooks, gradients and an optimizer's state stay. A
    parameter that several norms share is converted once for all of them.

    Args:
        model: The model. For a norm without parameters the device and dtype of the model's first parameter are used,
            and new parameters are trained unless the whole model is frozen.
        norms: Norms of the model.
        target: What replaces them.
        preserve: Whether new parameters are set so that the function stays the same, where possible.
        force: Whether a module is taken that does not run on a sample or changes its shape, or has its features on
            another axis.

    Returns:
        One replacement per norm.

    Raises:
        TypeError: If ``target`` builds something else than a module.
        ValueError: If a function gives one module for two places, or one that does not fit and ``force`` is not set.
    """
    first = next((p for p in model.parameters() if p.dtype.is_floating_point), None)
    usual = (torch.get_default_device(), torch.get_default_dtype()) if first is None else (first.device, first.dtype)
    frozen = first is not None and not any(p.requires_grad for p in model.parameters())
    made = [target.build(norm, *_device_and_dtype(norm, usual)) for norm in norms]
    check_new(model, target.label, norms, made)
    ties = Ties.of(model, norms)
    return [
        _fitted(norm, inner, target, ties, preserve=preserve, frozen=frozen, force=force)
        for norm, inner in zip(norms, made, strict=True)
    ]


def check_new(model: nn.Module, label: str, old: Sequence[ModuleInModel], made: Sequence[nn.Module]) -> None:
    """Refuse one module for two places, or one that the model has.

    Args:
        model: The model.
        label: What made the modules, for the message.
        old: What they replace.
        made: A module for each.

    Raises:
        ValueError: If a module is not new.
    """
    known = {id(module): name or "the model itself" for name, module in model.named_modules()}
    for one, new in zip(old, made, strict=True):
        if id(new) in known:
            raise ValueError(
                f"{label} gave for {one.name} the very module of {known[id(new)]}: it must make a new one for "
                "every place"
            )
        known[id(new)] = one.name


def _device_and_dtype(norm: NormInModel, usual: tuple[torch.device, torch.dtype]) -> tuple[torch.device, torch.dtype]:
    """Return device and dtype of a norm's parameters or of the constants in their place."""
    constants = (constant_of(norm.holder, name) for name in ("weight", "bias"))
    tensors = [*norm.holder.parameters(recurse=False), *(constant for constant in constants if constant is not None)]
    return (tensors[0].device, tensors[0].dtype) if tensors else usual


def _fitted(
    norm: NormInModel, made: nn.Module, target: Target, ties: Ties, *, preserve: bool, frozen: bool, force: bool
) -> Replacement:
    """Transfer everything of the old norm that fits into a new module.

    Raises:
        ValueError: If the module does not fit and ``force`` is not set.
    """
    old = norm.holder
    inner, module, forced = oriented(norm, made, target.label, force=force)
    kept, lost = transfer(norm, inner, affine_of(inner, norm.shape), ties, preserve=preserve, frozen=frozen)
    kept = [*_eps(norm, target, inner, lost), *kept]
    base = known_base(inner)
    if norm.kind in _WITH_MOMENTS and base is not None and kind_of(base) == norm.kind:
        for name, buffer in buffers_of(old).items():
            if name not in {"weight", "bias"} and buffer is not None and buffers_of(inner).get(name) is not None:
                buffers_of(inner)[name] = buffer
                kept.append(name)
    elif buffers_of(old).get("running_mean") is not None:
        lost.append("running moments")
    if isinstance(old, nn.SyncBatchNorm) and not isinstance(inner, nn.SyncBatchNorm):
        lost.append("moments over all processes")
    module.train(norm.module.training)
    shared, unshared = share_hooks(norm.module, module)
    measured = measure(norm.module, module, norm, _tolerance(module) if preserve else None)
    if measured.trouble and not force:
        raise ValueError(f"{measured.trouble}. Nothing was changed; force=True puts it in all the same")
    return Replacement(
        old=norm,
        module=module,
        kept=(*kept, *shared),
        lost=(*lost, *unshared),
        difference=measured,
        forced=tuple(note for note in (forced, measured.trouble) if note),
    )


def check_has_values(norms: Sequence[ModuleInModel]) -> None:
    """Refuse to preserve the function of modules on the meta device.

    Args:
        norms: The norms or recurrent layers whose function is to be preserved.

    Raises:
        ValueError: If a parameter is on the meta device.
    """
    empty = [norm.name for norm in norms if any(p.is_meta for p in norm.module.parameters())]
    if empty:
        raise ValueError(
            f"preserve=True compares numbers, and {len(empty)} modules have no numbers, for they are on "
            f"the meta device "
            f"({', '.join(empty[:4])}): give the model its numbers first. Nothing was changed"
        )


def check_preserved(replacements: Sequence[Replacement]) -> None:
    """Refuse replacements that compute another function.

    Args:
        replacements: The replacements. Parameters in a narrow dtype may differ by a rounding.

    Raises:
        ValueError: If one computes another function; the message names the first few, with their differences.
    """
    other = [
        one
        for one in replacements
        if not max(one.difference.usual, one.difference.by_feature) <= _tolerance(one.module)
    ]
    if other:
        few = "; ".join(
            f"{one.old.name}: {one.difference.usual:.2g} of the largest output, {one.difference.by_feature:.2g} of "
            "the largest in a feature"
            for one in other[:4]
        )
        raise ValueError(
            f"preserve=True wants the same function at the start, and {len(other)} of {len(replacements)} replacements "
            f"are another one on random rows ({few}). Nothing was changed"
            f"{'. For LayerNorm to RMSNorm see to_rms_norm' if isinstance(other[0].old, NormInModel) else ''}"
        )


def difference_in_small_rows(replacements: Sequence[Replacement]) -> list[str]:
    """Describe where replacements with the same function on usual rows have another one on small rows.

    Args:
        replacements: Replacements that were built with ``preserve``.
    """
    notes: dict[str, list[str]] = {}
    for one in replacements:
        measured = one.difference
        if measured.same_from > 0:
            words = (
                f"the same function on rows of a root mean square of {measured.same_from:.2g} and more, not on smaller "
                f"ones: where eps counts as much as the row ({measured.small_size:.2g}) it differs by "
                f"{measured.small:.2g} of the largest output. Compare the model's outputs if rows may be that small"
            )
            notes.setdefault(words, []).append(one.old.name)
    return [f"{', '.join(names[:3])}{', ...' if names[3:] else ''}: {words}" for words, names in notes.items()]


def _tolerance(module: nn.Module) -> float:
    return max([TOLERANCE, *(torch.finfo(p.dtype).eps for p in module.parameters() if p.dtype.is_floating_point)])


def _eps(norm: NormInModel, target: Target, inner: nn.Module, lost: list[str]) -> list[str]:
    """Return ``eps`` if it is kept; append to ``lost`` otherwise."""
    old, new = norm.eps, numeric_eps(inner)
    if old is None and norm.kind != "rms_norm":
        return []
    if target.key is None:
        same = norm.traits.eps_place == "variance" and new is not None and new == old
    else:
        same = target.keeps_eps(norm) and ("eps" not in target.arguments or new == old)
    if same:
        return ["eps"]
    place = norm.traits.eps_place or ""
    outside = {"deviation": " (outside the root)", "length": " (the smallest length)"}.get(place, "")
    lost.append(f"eps {'of the dtype' if old is None else f'{old:g}'}{outside}")
    if norm.traits.unbiased:
        lost.append("the divisor n - 1")
    return []
