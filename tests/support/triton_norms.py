"""The norms that the kernels compute, each with the definition that judges it."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from normscope.kernels.formula import CENTER, DETACH_MEAN, DETACH_STD, LENGTH, PHI, RELEASED, ROOT, Formula
from normscope.norms.ada_norm import ada_norm
from normscope.norms.detach_norm import detach_norm
from normscope.norms.layer_norm import layer_norm
from normscope.norms.layer_norm_simple import layer_norm_simple
from normscope.norms.rms_norm import rms_norm
from normscope.norms.scale_norm import scale_norm


class Norm(NamedTuple):
    """A definition, and the formula that must give the same."""

    definition: Callable[..., Tensor]
    formula: Formula
    gain: bool = False
    bias: bool = False


EPS = 1e-5
SCALE, K = 1.5, 0.3


def from_formula(formula: Formula, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Compute members of the family that no norm is, as formula.py has it; derivatives by autograd."""
    wide = x if x.dtype == torch.float64 else x.float()
    width = x.shape[-1]
    c = inner = wide
    if formula.flags & CENTER:
        mean = wide.mean(-1, keepdim=True)
        inner = wide - mean
        c = wide - (mean.detach() if formula.flags & DETACH_MEAN else mean)
    q = (inner.detach() if formula.flags & DETACH_STD else inner).square().mean(-1, keepdim=True)
    d = {
        0: lambda: torch.ones_like(q),
        ROOT: lambda: (q + formula.eps).sqrt(),
        RELEASED: lambda: (q * width / (width - 1)).sqrt() + formula.eps,
        LENGTH: lambda: (q * width).sqrt().clamp(min=formula.eps),
    }[formula.divisor]()
    y = c / d
    if formula.flags & PHI:
        y = formula.scale * (1 - formula.k * y.detach()) * y
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias).to(x.dtype)


def mixed(flags: int, gain: bool, bias: bool) -> Norm:
    formula = Formula(flags, 0.5, SCALE, K)
    return Norm(partial(from_formula, formula), formula, gain, bias)


NORMS = {
    "layer_norm": Norm(partial(layer_norm, eps=EPS), Formula(CENTER | ROOT, EPS), gain=True, bias=True),
    "layer_norm, gain": Norm(partial(layer_norm, eps=EPS), Formula(CENTER | ROOT, EPS), gain=True),
    "layer_norm, bias": Norm(partial(layer_norm, eps=EPS), Formula(CENTER | ROOT, EPS), bias=True),
    "layer_norm_simple": Norm(partial(layer_norm_simple, eps=EPS), Formula(CENTER | ROOT, EPS)),
    "detach_norm": Norm(partial(detach_norm, eps=EPS), Formula(CENTER | ROOT | DETACH_MEAN | DETACH_STD, EPS)),
    "detach_norm, mean": Norm(partial(detach_norm, eps=EPS, std=False), Formula(CENTER | ROOT | DETACH_MEAN, EPS)),
    "detach_norm, std": Norm(partial(detach_norm, eps=EPS, mean=False), Formula(CENTER | ROOT | DETACH_STD, EPS)),
    "ada_norm": Norm(partial(ada_norm, eps=EPS, scale=SCALE, k=K), Formula(CENTER | ROOT | PHI, EPS, SCALE, K)),
    "ada_norm, released": Norm(
        partial(ada_norm, eps=EPS, scale=SCALE, k=K, convention="released"),
        Formula(CENTER | RELEASED | PHI, EPS, SCALE, K),
    ),
    "rms_norm": Norm(partial(rms_norm, eps=EPS), Formula(ROOT, EPS), gain=True),
    "rms_norm, no gain": Norm(partial(rms_norm, eps=EPS), Formula(ROOT, EPS)),
    "scale_norm": Norm(lambda x: scale_norm(x, torch.ones(1, dtype=x.dtype), EPS), Formula(LENGTH, EPS)),
}
MIXED = {
    "factor without centering": mixed(ROOT | PHI, gain=True, bias=True),
    "released, deviation detached": mixed(CENTER | RELEASED | DETACH_STD, gain=True, bias=False),
    "length, centered, mean detached": mixed(CENTER | LENGTH | DETACH_MEAN | PHI, gain=False, bias=True),
    "only centered": mixed(CENTER, gain=True, bias=True),
    "only the factor": mixed(PHI, gain=False, bias=False),
    "everything detached, bias": mixed(CENTER | ROOT | DETACH_MEAN | DETACH_STD, gain=False, bias=True),
}
