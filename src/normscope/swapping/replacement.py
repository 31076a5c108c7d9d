"""The module that takes a norm's place, with all of the old one that fits: parameters, hooks, mode."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _WrappedHook

from normscope.norms import ScaleNorm
from normscope.recognition.detached_copy import copy_of
from normscope.swapping.channels_first import ChannelsFirst
from normscope.swapping.kinds import Norm
from normscope.swapping.target import Target

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
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


def build(norm: Norm, target: Target, device: torch.device, dtype: torch.dtype, *, preserve: bool = False) -> Built:
    """Make what takes a norm's place. Neither the norm nor the model is changed.

    A parameter that fits is taken over as the same object: ties, hooks, gradients and an optimizer's state stay.

    Args:
        norm: The norm.
        target: What is to stand there.
        device: For parameters of a norm that has none.
        dtype: For parameters of a norm that has none.
        preserve: Set what is new so that the function is the same, where that can be.
    """
    old = norm.holder
    one = next((p for p in old.parameters(recurse=False)), None)
    if one is not None:
        device, dtype = one.device, one.dtype
    inner = target.build(norm, device, dtype)
    kept, lost = _take_parameters(norm, inner, preserve=preserve)
    kept, lost = [*_eps(norm, target, inner, lost), *kept], lost
    if target.key == norm.kind == "batch_norm":
        for name, buffer in old._buffers.items():
            if buffer is not None and inner._buffers.get(name) is not None:
                inner._buffers[name] = buffer
                kept.append(name)
    elif old._buffers.get("running_mean") is not None:
        lost.append("running moments")
    if isinstance(old, nn.SyncBatchNorm):
        lost.append("moments over all processes")
    module = ChannelsFirst(inner) if norm.channels_first else inner
    module.train(norm.module.training)
    kept += _take_hooks(norm.module, module, lost)
    return Built(
        norm=norm, module=module, kept=tuple(kept), lost=tuple(lost), difference=difference(norm.module, module, norm)
    )


def difference(old: nn.Module, new: nn.Module, norm: Norm) -> float:
    """Give the largest difference of two modules on random rows, over the largest output of the first, in float64.

    It is NaN where the new one cannot be run in float64 on a CPU.

    Args:
        old: What stood there; a copy is run.
        new: What will; a copy is run.
        norm: Where it stands: the shape of an input.

    Raises:
        ValueError: If the outputs differ in shape.
    """
    x = torch.randn(norm.sample, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.3
    with torch.no_grad():
        before = copy_of(old).forward(x)
        try:
            after = copy_of(new).forward(x)
        except (RuntimeError, NotImplementedError, AssertionError):
            # A module of the user's that does not work in float64, or on a CPU.
            return math.nan
    if after.shape != before.shape:
        raise ValueError(
            f"{type(new).__name__} gives {list(after.shape)} for {norm.name} where {type(old).__name__} gave "
            f"{list(before.shape)}"
        )
    return float((after - before).abs().amax() / before.abs().amax().clamp(min=1e-300))


def check_preserved(built: list[Built]) -> None:
    """Refuse replacements that are another function at the start.

    Raises:
        ValueError: If one is; the message has the first few, and by how much.
    """
    other = [one for one in built if not one.difference <= _TOLERANCE]
    if other:
        few = "; ".join(f"{one.norm.name}: {one.difference:.2g} of the largest output" for one in other[:4])
        raise ValueError(
            f"preserve=True wants the same function at the start, and {len(other)} of {len(built)} replacements are "
            f"another one on random rows ({few}). Nothing was changed. For LayerNorm to RMSNorm see to_rms_norm"
        )


def _take_parameters(norm: Norm, inner: nn.Module, *, preserve: bool) -> tuple[list[str], list[str]]:
    """Put the old gain and bias into the new norm, as the same objects where they fit."""
    kept: list[str] = []
    lost: list[str] = []
    old = norm.holder
    requires = [p.requires_grad for p in old.parameters(recurse=False)]
    lengths = isinstance(old, ScaleNorm), isinstance(inner, ScaleNorm)
    for role, name in (("weight", norm.gain), ("bias", norm.bias)):
        mine = inner._parameters.get(role)
        if name is None:
            continue
        parameter = old._parameters[name]
        assert parameter is not None
        word = "gain" if role == "weight" else "bias"
        offset = norm.unit_offset and role == "weight"
        if preserve and isinstance(inner, ScaleNorm) and role == "weight" and not isinstance(old, ScaleNorm):
            values = parameter.detach().double() + offset
            with torch.no_grad():
                inner.weight.fill_(float(values.mean()) * values.numel() ** 0.5)
            kept.append("gain (its mean, as one length)")
        elif mine is None or mine.numel() != parameter.numel() or lengths[0] != lengths[1]:
            lost.append(word)
        elif mine.shape == parameter.shape and not offset:
            inner._parameters[role] = parameter
            kept.append(word if name == role else f"{word} ({name} is now {role})")
        else:
            with torch.no_grad():
                mine.copy_(parameter.reshape(mine.shape) + offset)
            mine.requires_grad_(parameter.requires_grad)
            kept.append(f"{word} (as a new parameter{', 1 + ' + name if offset else ''})")
            if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
                lost.append(f"hooks on the parameter {name}")
    for name, theirs in old._parameters.items():
        mine = inner._parameters.get(name)
        if theirs is None or name in {norm.gain, norm.bias}:
            continue
        if type(inner) is type(old) and mine is not None and mine.shape == theirs.shape:
            inner._parameters[name] = theirs
            kept.append(name)
        else:
            lost.append(name)
    if requires and not any(requires):
        inner.requires_grad_(False)
    return kept, lost


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


def _take_hooks(old: nn.Module, new: nn.Module, lost: list[str]) -> list[str]:
    """Share the dictionaries of hooks, so that the handles that people hold go on working."""
    taken = 0
    for name in _HOOKS:
        hooks: Any = vars(old).get(name)
        if not hooks:
            continue
        if not isinstance(hooks, Mapping):
            setattr(new, name, hooks)
            continue
        bound = [hook for hook in hooks.values() if isinstance(hook, _WrappedHook) and hook.with_module]
        if bound:
            lost.append(f"{len(bound)} of {name}, bound to the old module")
            continue
        setattr(new, name, hooks)
        taken += len(hooks) if name in {"_forward_hooks", "_forward_pre_hooks", "_backward_hooks"} else 0
    return [f"{taken} hooks"] if taken else []
