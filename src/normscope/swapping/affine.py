"""Which parameters of a module are its gain and its bias, and in which convention, told by what it computes."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normscope.catalogue import NORMS
from normscope.recognition.behaviour import observe
from normscope.recognition.detached_copy import copy_of
from normscope.recognition.torch_norms import base_of
from normscope.torch_internals import parameters_of

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
        gain, bias = (name if parameters_of(module).get(name) is not None else None for name in ("weight", "bias"))
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
    fit = [name for name, p in parameters_of(twin).items() if p is not None and p.numel() == torch.Size(shape).numel()]

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
