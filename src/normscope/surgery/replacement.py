"""The module that replaces a norm: built, fitted with what the old norm has, and compared with it."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from normscope.inspection.norm_in_model import NormInModel, numeric_eps, traits_of
from normscope.inspection.preserve_state import copy_of
from normscope.norms import NORMS, ChannelsFirst, NormTraits
from normscope.norms.checks import example_width
from normscope.specs import parse_call
from normscope.surgery.guards import share_hooks
from normscope.surgery.transfer import Ties, affine_of, constant_of, transfer
from normscope.torch_internals import buffers_of

Maker = Callable[[Any], nn.Module]
"""From a width, or the sizes of several axes, to a module of ``[..., D]``."""

_FROM_MODEL = {"normalized_shape", "device", "dtype"}
"""Arguments that the model decides."""
_TOLERANCE = 1e-5
"""Relative: the effect of an eps of the usual size that changes its place, on rows of the usual size."""


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
        """
        (*_, last) = norm.shape
        width = norm.shape if len(norm.shape) > 1 else last
        arguments = {} if self.key is None else {**self._from_old(norm, dtype), **self.arguments}
        accepted = inspect.signature(self.make).parameters if self.key is not None else {}
        placed = {"device": device, "dtype": dtype} if {"device", "dtype"} <= set(accepted) else {}
        made = self.make(width, **arguments, **placed)
        if not isinstance(made, nn.Module):
            raise TypeError(f"{self.label} must give a torch.nn.Module, got {made!r} for the width {width}")
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
        if self.key == norm.kind == "batch_norm":
            arguments["momentum"] = norm.holder.momentum
            arguments["track_running_stats"] = norm.holder.running_mean is not None
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
    """A module that can replace a norm, not yet installed."""

    norm: NormInModel
    module: nn.Module
    kept: tuple[str, ...]
    """What the old norm has and the new one takes over."""
    lost: tuple[str, ...]
    """What the old norm has and the new one does not."""
    difference: float
    """The largest difference of the outputs on random rows, over the largest output of the old one, in float64."""
    trouble: str = ""
    """Why the difference could not be measured."""


def build(
    model: nn.Module, norms: Sequence[NormInModel], target: Target, *, preserve: bool = False
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

    Returns:
        One replacement per norm.

    Raises:
        TypeError: If ``target`` builds something else than a module.
        ValueError: If a function gives one module for two places, or one that does not fit.
    """
    first = next((p for p in model.parameters() if p.dtype.is_floating_point), None)
    usual = (torch.get_default_device(), torch.get_default_dtype()) if first is None else (first.device, first.dtype)
    frozen = first is not None and not any(p.requires_grad for p in model.parameters())
    made = [target.build(norm, *_device_and_dtype(norm, usual)) for norm in norms]
    known = {id(module): name or "the model itself" for name, module in model.named_modules()}
    for norm, inner in zip(norms, made, strict=True):
        if id(inner) in known:
            raise ValueError(
                f"{target.label} gave for {norm.name} the very module of {known[id(inner)]}: it must make a new one "
                "for every norm"
            )
        known[id(inner)] = norm.name
    ties = Ties.of(model, norms)
    return [
        _fitted(norm, inner, target, ties, preserve=preserve, frozen=frozen)
        for norm, inner in zip(norms, made, strict=True)
    ]


def _device_and_dtype(norm: NormInModel, usual: tuple[torch.device, torch.dtype]) -> tuple[torch.device, torch.dtype]:
    """Return device and dtype of a norm's parameters or of the constants in their place."""
    constants = (constant_of(norm.holder, name) for name in ("weight", "bias"))
    tensors = [*norm.holder.parameters(recurse=False), *(constant for constant in constants if constant is not None)]
    return (tensors[0].device, tensors[0].dtype) if tensors else usual


def _fitted(
    norm: NormInModel, inner: nn.Module, target: Target, ties: Ties, *, preserve: bool, frozen: bool
) -> Replacement:
    """Transfer everything of the old norm that fits into a new module."""
    old = norm.holder
    kept, lost = transfer(norm, inner, affine_of(inner, norm.shape), ties, preserve=preserve, frozen=frozen)
    kept = [*_eps(norm, target, inner, lost), *kept]
    if target.key == norm.kind == "batch_norm":
        for name, buffer in buffers_of(old).items():
            if name not in {"weight", "bias"} and buffer is not None and buffers_of(inner).get(name) is not None:
                buffers_of(inner)[name] = buffer
                kept.append(name)
    elif buffers_of(old).get("running_mean") is not None:
        lost.append("running moments")
    if isinstance(old, nn.SyncBatchNorm):
        lost.append("moments over all processes")
    module = ChannelsFirst(inner, contiguous=norm.kind == "instance_norm") if norm.channels_first else inner
    module.train(norm.module.training)
    shared, unshared = share_hooks(norm.module, module)
    measured, trouble = difference(norm.module, module, norm)
    return Replacement(
        norm=norm,
        module=module,
        kept=(*kept, *shared),
        lost=(*lost, *unshared),
        difference=measured,
        trouble=trouble,
    )


def difference(old: nn.Module, new: nn.Module, norm: NormInModel) -> tuple[float, str]:
    """Compute the largest difference of two modules on random rows, over the largest output of the first, in float64.

    Args:
        old: The old module; a copy is run.
        new: The new module; a copy is run.
        norm: The old norm, which has the shape of an input.

    Returns:
        The difference and an empty text; NaN and the reason if the new module does not run in float64 on a CPU.

    Raises:
        ValueError: If the outputs differ in shape, or the new module has parameters of another width and does not run.
    """
    x = torch.randn(norm.sample, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.3
    with torch.no_grad():
        before = copy_of(old).forward(x)
        try:
            after = copy_of(new).forward(x)
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            # A user's module that does not work in float64, or on a CPU.
            width = torch.Size(norm.shape).numel()
            long = [p.numel() for p in new.parameters() if p.numel() > 1 and p.numel() == max(p.shape)]
            words = f"{type(new).__name__} did not run in place of {norm.name} on {list(x.shape)}: {error}"
            if long and width not in long:
                raise ValueError(f"{words}. Its width is another: it has {long[0]} entries for {width}") from error
            return math.nan, words.splitlines()[0]
    if after.shape != before.shape:
        raise ValueError(
            f"{type(new).__name__} gives {list(after.shape)} for {norm.name} where {type(old).__name__} gave "
            f"{list(before.shape)}"
        )
    return float((after - before).abs().amax() / before.abs().amax().clamp(min=1e-300)), ""


def check_has_values(norms: Sequence[NormInModel]) -> None:
    """Refuse to preserve the function of norms on the meta device.

    Args:
        norms: The norms whose function is to be preserved.

    Raises:
        ValueError: If a parameter is on the meta device.
    """
    empty = [norm.name for norm in norms if any(p.is_meta for p in norm.module.parameters())]
    if empty:
        raise ValueError(
            f"preserve=True compares numbers, and {len(empty)} norms have none, for they are on the meta device "
            f"({', '.join(empty[:4])}): give the model its numbers first. Nothing was changed"
        )


def check_preserved(replacements: Sequence[Replacement]) -> None:
    """Refuse replacements that compute another function.

    Args:
        replacements: The replacements. Parameters in a narrow dtype may differ by a rounding.

    Raises:
        ValueError: If one computes another function; the message names the first few, with their differences.
    """
    other = [one for one in replacements if not one.difference <= _tolerance(one.module)]
    if other:
        few = "; ".join(f"{one.norm.name}: {one.difference:.2g} of the largest output" for one in other[:4])
        raise ValueError(
            f"preserve=True wants the same function at the start, and {len(other)} of {len(replacements)} replacements "
            f"are another one on random rows ({few}). Nothing was changed. For LayerNorm to RMSNorm see to_rms_norm"
        )


def _tolerance(module: nn.Module) -> float:
    return max([_TOLERANCE, *(torch.finfo(p.dtype).eps for p in module.parameters() if p.dtype.is_floating_point)])


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
