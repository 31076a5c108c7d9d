"""What of an old norm's gain, bias and other parameters goes into the new one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from normscope.inspection.behaviour import observe
from normscope.inspection.equation import base_of
from normscope.inspection.kinds import Norm
from normscope.inspection.preserve_state import copy_of
from normscope.norms import NORMS, ScaleNorm

_NEAR = 1e-4
"""Relative: a hundred roundings of float32 and more, in which some norms compute within."""


@dataclass(frozen=True, kw_only=True)
class Affine:
    """The gain and the bias of a module, where it has them."""

    gain: str | None = None
    """The name of the parameter."""
    bias: str | None = None
    unit_offset: bool = False
    """Whether the gain is one plus the parameter."""


def affine_of(module: nn.Module, shape: tuple[int, ...]) -> Affine:
    """Find the gain and the bias of a module of ``[..., *shape]``.

    torch's norms and ours are known by their class. A foreign layer norm or RMS norm is observed; of any other module a
    copy is run: what the output is proportional to, entry by entry, is a gain, and what is added to it is a bias.

    Args:
        module: Any module; it is not changed.
        shape: The sizes of the last axes.
    """
    base = base_of(module)
    if type(module) in NORMS.values() or (base is not None and type(module).forward is base.forward):
        gain, bias = (name if module._parameters.get(name) is not None else None for name in ("weight", "bias"))
        return Affine(gain=gain, bias=bias)
    facts = observe(module)
    if not isinstance(facts, str):
        return Affine(gain=facts.gain, bias=facts.bias, unit_offset=facts.unit_offset)
    for dtype in (torch.float64, torch.float32):
        try:
            with torch.no_grad():
                return _probed(module, shape, dtype)
        except Exception:
            # A module that does not run on the CPU, or in this dtype.
            continue
    return Affine()


def _probed(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> Affine:
    draw = torch.Generator().manual_seed(4)
    twin = copy_of(module, generator=draw).eval().to(dtype)
    x = torch.randn(4, 6, *shape, generator=draw, dtype=dtype) + 0.7
    fit = [name for name, p in twin._parameters.items() if p is not None and p.numel() == torch.Size(shape).numel()]

    def line(name: str) -> tuple[Tensor, Tensor] | None:
        """Give the output at zero and the slope, where the output is a line in every entry of the parameter."""
        parameter = twin.get_parameter(name)
        before = parameter.detach().clone()
        outputs = []
        for values in (torch.zeros_like(before), torch.ones_like(before), before):
            parameter.copy_(values)
            outputs.append(twin(x).double())
        start, one, there = outputs
        slope = one - start
        return (start, slope) if _same(there, start + before.reshape(shape) * slope, slope) else None

    lines = {name: found for name in fit if (found := line(name)) is not None}
    biases = [name for name, (_, slope) in lines.items() if _same(slope, torch.ones_like(slope), slope)]
    for name in biases:
        twin.get_parameter(name).zero_()
    gains = {}
    for name in [name for name in lines if name not in biases]:
        found = line(name)
        for offset in (False, True):
            if found is not None and _same(found[0], offset * found[1], found[1]):
                gains[name] = offset
    # Of several none is the one.
    gain = next(iter(gains)) if len(gains) == 1 else None
    return Affine(gain=gain, bias=biases[0] if len(biases) == 1 else None, unit_offset=gain is not None and gains[gain])


def _same(one: Tensor, two: Tensor, scale: Tensor) -> bool:
    return one.shape == two.shape and bool((one - two).abs().amax() <= _NEAR * scale.abs().amax().clamp(min=1e-300))


@dataclass(kw_only=True)
class Ties:
    """Parameters that several norms share, and what became of each under a conversion."""

    elsewhere: set[int] = field(default_factory=set)
    """Identities of the parameters of all that is not swapped."""
    made: dict[int, dict[tuple[object, ...], nn.Parameter]] = field(default_factory=dict)
    """By the identity of the old one and the conversion."""

    @classmethod
    def of(cls, model: nn.Module, norms: Sequence[Norm]) -> "Ties":
        """Look who else has the parameters of norms.

        Args:
            model: Where they stand.
            norms: Those that are swapped.
        """
        leaving = {id(module) for norm in norms for module in norm.module.modules()}
        rest = (module for module in model.modules() if id(module) not in leaving)
        return cls(elsewhere={id(p) for module in rest for p in module._parameters.values() if p is not None})

    def one(self, old: nn.Parameter, new: nn.Parameter, *conversion: object) -> nn.Parameter:
        """Give the same new parameter for the same old one under the same conversion.

        Args:
            old: What goes.
            new: What it becomes, the first time.
            *conversion: In what way.
        """
        return self.made.setdefault(id(old), {}).setdefault((*conversion, new.shape, new.dtype, new.device), new)

    def is_cut(self, old: nn.Parameter) -> bool:
        """Return whether something that shared a parameter does not share what it became."""
        return id(old) in self.elsewhere or len(self.made.get(id(old), {})) > 1


def carry(
    norm: Norm, inner: nn.Module, affine: Affine, ties: Ties, *, preserve: bool, frozen: bool
) -> tuple[list[str], list[str]]:
    """Put an old norm's parameters into the new one, as the same objects where they fit.

    Args:
        norm: The old norm.
        inner: The new one.
        affine: Which parameters of the new one are its gain and bias.
        ties: What became of parameters that other norms share.
        preserve: Whether a gain may become one length, its mean.
        frozen: Whether what is new is not to be trained where the old norm has no parameter to go by.

    Returns:
        What was kept and what was lost, in words.
    """
    kept: list[str] = []
    lost: list[str] = []
    old = norm.holder
    requires = [p.requires_grad for p in old.parameters(recurse=False)]
    lengths = isinstance(old, ScaleNorm), isinstance(inner, ScaleNorm)
    for word, name, role in (("gain", norm.gain, affine.gain), ("bias", norm.bias, affine.bias)):
        target = inner._parameters.get(role) if role is not None else None
        offset = affine.unit_offset if word == "gain" else False
        if name is None:
            constant = constant_of(old, "weight" if word == "gain" else "bias")
            if constant is None:
                continue
            if role is None or target is None or target.numel() != constant.numel() or lengths[1]:
                lost.append(f"{word} (a constant)")
            else:
                values = (constant.detach() - 1 if offset else constant.detach()).reshape(target.shape)
                del inner._parameters[role]
                inner.register_buffer(role, values, persistent=_is_saved(old, "weight" if word == "gain" else "bias"))
                kept.append(f"{word} (a constant)")
            continue
        parameter = old._parameters[name]
        assert parameter is not None
        before = norm.unit_offset if word == "gain" else False
        if preserve and isinstance(inner, ScaleNorm) and word == "gain" and not lengths[0]:
            values = parameter.detach().double() + before
            with torch.no_grad():
                inner.weight.fill_(float(values.mean()) * values.numel() ** 0.5)
            inner.weight = ties.one(parameter, inner.weight, "length", before)
            kept.append("gain (its mean, as one length)")
        elif target is None or role is None or target.numel() != parameter.numel() or lengths[0] != lengths[1]:
            lost.append(word)
            continue
        elif target.shape == parameter.shape and before == offset:
            inner._parameters[role] = parameter
            kept.append(word if name == role else f"{word} ({name} is now {role})")
            continue
        else:
            with torch.no_grad():
                target.copy_(parameter.reshape(target.shape) + (int(before) - int(offset)))
            target.requires_grad_(parameter.requires_grad)
            inner._parameters[role] = ties.one(parameter, target, before, offset)
            how = {0: "", 1: f", 1 + {name}", -1: f", {name} - 1"}[int(before) - int(offset)]
            kept.append(f"{word} (as a new parameter{how})")
        if ties.is_cut(parameter):
            lost.append(f"the tie of {name} with what is not converted")
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
    if not any(requires) if requires else frozen:
        inner.requires_grad_(False)
    return kept, lost


def constant_of(old: nn.Module, name: str) -> Tensor | None:
    """Return the gain or bias of a norm of torch's that is a buffer or a plain tensor instead of a parameter.

    Args:
        old: Any norm.
        name: ``weight`` or ``bias``.
    """
    value = getattr(old, name, None) if base_of(old) is not None else None
    return value if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) else None


def _is_saved(old: nn.Module, name: str) -> bool:
    return name in old._buffers and name not in old._non_persistent_buffers_set
