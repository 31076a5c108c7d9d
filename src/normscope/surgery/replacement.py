"""The module that takes a norm's place, with all of the old one that fits: parameters, hooks, mode."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from normscope.inspection.attribute_reads import ChannelsFirst
from normscope.inspection.kinds import Norm
from normscope.inspection.preserve_state import copy_of
from normscope.norms import NORMS
from normscope.registry import look_up
from normscope.specs import parse_call
from normscope.surgery.guards import share_hooks
from normscope.surgery.transfer import Ties, affine_of, carry, constant_of

Maker = Callable[[Any], nn.Module]
"""From a width, or the sizes of several axes, to a module of ``[..., D]``."""

_ADDED_TO_VARIANCE = {"layer_norm", "layer_norm_simple", "detach_norm", "ada_norm", "rms_norm", "batch_norm", "frn"}
"""Keys whose eps is added to a variance or a mean square: what an old norm's eps is, too."""
_LOSES_GAIN = {
    "layer_norm": {"gain": False},
    "rms_norm": {"elementwise_affine": False},
    "batch_norm": {"affine": False},
}
_LOSES_BIAS = {"layer_norm": {"bias": False}}
_HAVE_BIAS = {"layer_norm", "batch_norm", "group_norm", "instance_norm"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to put in the place of norms."""

    label: str
    """As it was asked for."""
    make: Maker | None
    """A function, where one was given."""
    key: str | None = None
    """A key of ``NORMS``, where one was given."""
    arguments: Mapping[str, Any]
    """Of the key."""

    def build(self, norm: Norm, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """Make what stands in the place of one norm, fresh, for features on the last axis.

        Args:
            norm: The norm. Its eps is kept where the new equation has an eps of the same meaning, and what it has not,
                a gain or a bias, the new one is made without, where it has the choice.
            device: Where parameters go.
            dtype: Of parameters.

        Returns:
            A module of ``[..., *norm.shape]``.

        Raises:
            TypeError: If a function gave something else than a module.
        """
        (*_, last) = norm.shape
        width = norm.shape if len(norm.shape) > 1 else last
        if self.key is None:
            assert self.make is not None
            made = self.make(width)
            if not isinstance(made, nn.Module):
                raise TypeError(f"{self.label} must give a torch.nn.Module, got {made!r} for the width {width}")
            return made.to(device=device, dtype=dtype)
        kept: dict[str, Any] = {}
        if self.keeps_eps(norm):
            kept["eps"] = torch.finfo(dtype).eps if norm.eps is None and self.key != "rms_norm" else norm.eps
        gain, bias = (
            name is not None or constant_of(norm.holder, role) is not None
            for name, role in ((norm.gain, "weight"), (norm.bias, "bias"))
        )
        if not gain and norm.kind not in {"layer_norm_simple", "detach_norm", "ada_norm", "none"}:
            kept |= _LOSES_GAIN.get(self.key, {})
        if not bias and norm.kind in _HAVE_BIAS:
            kept |= _LOSES_BIAS.get(self.key, {})
        if self.key == norm.kind == "batch_norm":
            kept["momentum"] = norm.holder.momentum
            kept["track_running_stats"] = norm.holder.running_mean is not None
        return NORMS[self.key](width, **{**kept, **self.arguments}, device=device, dtype=dtype)

    def keeps_eps(self, norm: Norm) -> bool:
        """Return whether the old eps has a meaning in the new equation."""
        if self.key == "scale_norm":
            return norm.kind == "scale_norm"
        if self.arguments.get("convention") == "released":
            return norm.kind == "ada_norm" and norm.eps_place == "deviation"
        has_eps = norm.kind not in {"none", "dyt", "derf", "scale_norm"}
        return self.key in _ADDED_TO_VARIANCE and has_eps and norm.eps_place == "variance"


def read_target(to: str | Maker) -> Target:
    """Understand what is to stand in the place of norms.

    Args:
        to: A key of ``NORMS``, a key with arguments such as ``ada_norm(scale=2.0)``, or a function of the width.

    Raises:
        LookupError: If there is no such key.
        TypeError: If it is neither, or the key takes no such argument.
        ValueError: If the text has another form, or an argument a wrong value.
    """
    if not isinstance(to, str):
        if not callable(to) or isinstance(to, nn.Module):
            raise TypeError(f"to must be a key of NORMS or a function from a width to a module, got {to!r}")
        return Target(label=getattr(to, "__name__", repr(to)), make=to, arguments={})
    key, arguments = parse_call(to, "norm", "ada_norm(scale=2.0)")
    made = look_up("norm", NORMS, key)
    strange = {"normalized_shape", "device", "dtype"} & set(arguments)
    if strange:
        raise ValueError(f"{to!r}: the model decides {', '.join(sorted(strange))}, not the swap")
    try:
        made(8, **arguments)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{to!r}: {error}") from error
    return Target(label=to, make=None, key=key, arguments=arguments)


_TOLERANCE = 1e-5
"""Relative: what an eps of the usual size does to rows of the usual size when it changes its place."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """A replacement that stands nowhere yet."""

    norm: Norm
    module: nn.Module
    kept: tuple[str, ...]
    lost: tuple[str, ...]
    difference: float
    """The largest difference of the outputs on random rows, over the largest output of the old one, in float64."""
    trouble: str = ""
    """Why the difference could not be measured."""


def build(model: nn.Module, norms: Sequence[Norm], target: Target, *, preserve: bool = False) -> list[Built]:
    """Make what takes the places of norms. Neither the norms nor the model are changed.

    A parameter that fits is taken over as the same object: ties, hooks, gradients and an optimizer's state stay. What
    is converted is converted once for all norms that share it.

    Args:
        model: Where they stand. A norm without parameters gets the device and dtype of the model's first, and what is
            new in its place is trained unless all of the model is frozen.
        norms: The norms.
        target: What is to stand there.
        preserve: Set what is new so that the function is the same, where that can be.

    Raises:
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
        _fit(norm, inner, target, ties, preserve=preserve, frozen=frozen)
        for norm, inner in zip(norms, made, strict=True)
    ]


def _device_and_dtype(norm: Norm, usual: tuple[torch.device, torch.dtype]) -> tuple[torch.device, torch.dtype]:
    """Give where a norm's parameters are, or what stands for them."""
    constants = (constant_of(norm.holder, name) for name in ("weight", "bias"))
    tensors = [*norm.holder.parameters(recurse=False), *(one for one in constants if one is not None)]
    return (tensors[0].device, tensors[0].dtype) if tensors else usual


def _fit(norm: Norm, inner: nn.Module, target: Target, ties: Ties, *, preserve: bool, frozen: bool) -> Built:
    """Give a new module all of an old norm's that fits."""
    old = norm.holder
    kept, lost = carry(norm, inner, affine_of(inner, norm.shape), ties, preserve=preserve, frozen=frozen)
    kept = [*_eps(norm, target, inner, lost), *kept]
    if target.key == norm.kind == "batch_norm":
        for name, buffer in old._buffers.items():
            if name not in {"weight", "bias"} and buffer is not None and inner._buffers.get(name) is not None:
                inner._buffers[name] = buffer
                kept.append(name)
    elif old._buffers.get("running_mean") is not None:
        lost.append("running moments")
    if isinstance(old, nn.SyncBatchNorm):
        lost.append("moments over all processes")
    module = ChannelsFirst(inner) if norm.channels_first else inner
    module.train(norm.module.training)
    shared, unshared = share_hooks(norm.module, module)
    far, trouble = difference(norm.module, module, norm)
    return Built(
        norm=norm,
        module=module,
        kept=(*kept, *shared),
        lost=(*lost, *unshared),
        difference=far,
        trouble=trouble,
    )


def difference(old: nn.Module, new: nn.Module, norm: Norm) -> tuple[float, str]:
    """Give the largest difference of two modules on random rows, over the largest output of the first, in float64.

    It is NaN where the new one cannot be run in float64 on a CPU.

    Args:
        old: What stood there; a copy is run.
        new: What will; a copy is run.
        norm: Where it stands: the shape of an input.

    Returns:
        The difference, and in words why it is NaN, if it is.

    Raises:
        ValueError: If the outputs differ in shape, or the new one has parameters of another width and cannot be run.
    """
    x = torch.randn(norm.sample, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.3
    with torch.no_grad():
        before = copy_of(old).forward(x)
        try:
            after = copy_of(new).forward(x)
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            # A module of the user's that does not work in float64, or on a CPU.
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


def check_numbers(norms: Sequence[Norm]) -> None:
    """Refuse to compare norms that have no numbers.

    Args:
        norms: Those whose function is to be preserved.

    Raises:
        ValueError: If a parameter is on the meta device.
    """
    empty = [norm.name for norm in norms if any(p.is_meta for p in norm.module.parameters())]
    if empty:
        raise ValueError(
            f"preserve=True compares numbers, and {len(empty)} norms have none, for they are on the meta device "
            f"({', '.join(empty[:4])}): give the model its numbers first. Nothing was changed"
        )


def check_preserved(built: list[Built]) -> None:
    """Refuse replacements that are another function at the start.

    Args:
        built: The replacements. One in a narrow dtype may differ by a rounding of its parameters.

    Raises:
        ValueError: If one is another function; the message has the first few, and by how much.
    """
    other = [one for one in built if not one.difference <= _tolerance(one.module)]
    if other:
        few = "; ".join(f"{one.norm.name}: {one.difference:.2g} of the largest output" for one in other[:4])
        raise ValueError(
            f"preserve=True wants the same function at the start, and {len(other)} of {len(built)} replacements are "
            f"another one on random rows ({few}). Nothing was changed. For LayerNorm to RMSNorm see to_rms_norm"
        )


def _tolerance(module: nn.Module) -> float:
    return max([_TOLERANCE, *(torch.finfo(p.dtype).eps for p in module.parameters() if p.dtype.is_floating_point)])


def _eps(norm: Norm, target: Target, inner: nn.Module, lost: list[str]) -> list[str]:
    """Say what became of eps."""
    old, new = norm.eps, getattr(inner, "eps", getattr(inner, "initial_eps", None))
    if norm.kind in {"none", "dyt", "derf"} or (old is None and norm.kind != "rms_norm"):
        return []
    if target.key is None:
        same = norm.eps_place == "variance" and isinstance(new, float | int) and new == old
    else:
        same = target.keeps_eps(norm) and ("eps" not in target.arguments or new == old)
    if same:
        return ["eps"]
    outside = {"deviation": " (outside the root)", "length": " (the smallest length)"}.get(norm.eps_place, "")
    lost.append(f"eps {'of the dtype' if old is None else f'{old:g}'}{outside}")
    if norm.unbiased:
        lost.append("the divisor n - 1")
    return []
