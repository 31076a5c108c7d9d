"""The family of norms by its definition, in differentiable operations, and the ways to its kernels."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from normscope.kernels import autograd as function
from normscope.kernels.backends import cpu
from normscope.kernels.formula import CENTER, DETACH_MEAN, DETACH_STD, LENGTH, PHI, RELEASED, ROOT, Formula

NORMS = {
    "layer_norm": Formula(CENTER | ROOT, 1e-5),
    "rms_norm": Formula(ROOT, 1e-6),
    "scale_norm": Formula(LENGTH, 1e-5),
    "detach_norm": Formula(CENTER | ROOT | DETACH_MEAN | DETACH_STD, 1e-5),
    "detach_norm_mean": Formula(CENTER | ROOT | DETACH_MEAN, 1e-5),
    "detach_norm_std": Formula(CENTER | ROOT | DETACH_STD, 1e-5),
    "ada_norm": Formula(CENTER | ROOT | PHI, 1e-5, 2.0, 0.1),
    "ada_norm_released": Formula(CENTER | RELEASED | PHI, 1e-5, 2.0, 0.1),
}
"""What the modules ask for."""

_NAMES = {CENTER: "center", DETACH_MEAN: "detach_mean", DETACH_STD: "detach_std", PHI: "phi"}
_DIVISORS = {0: "one", ROOT: "root", RELEASED: "released", LENGTH: "length"}

MEMBERS = {
    "-".join([*(name for bit, name in _NAMES.items() if flags & bit), name]): Formula(flags | divisor, 1e-2, 1.5, 0.3)
    for (divisor, name), mean, std, phi in product(
        _DIVISORS.items(), (0, CENTER, CENTER | DETACH_MEAN), (0, DETACH_STD), (0, PHI)
    )
    for flags in [mean | std | phi]
}
"""Every set of flags there is."""

Path = Callable[..., tuple[Tensor, Tensor | None]]


def definition(
    formula: Formula,
    x: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute z, and with a residual the sum, as ``formula.py`` says it, in the dtype of ``x``."""
    total = None if residual is None else x + residual
    x = x if total is None else total
    width, flags = x.shape[-1], formula.flags
    mean = x.mean(-1, keepdim=True) if flags & CENTER else torch.zeros_like(x[..., :1])
    c = x - (mean.detach() if flags & DETACH_MEAN else mean)
    # The mean inside the deviation is not detached, which second derivatives show.
    inner = x - x.mean(-1, keepdim=True) if flags & CENTER else x
    moving = inner.detach() if flags & DETACH_STD else inner
    # A length, for its derivative at zero is zero and that of a root is not a number.
    length = torch.linalg.vector_norm(moving, dim=-1, keepdim=True)
    inverse = {
        0: torch.ones_like(length),
        ROOT: (moving.square().mean(-1, keepdim=True) + formula.eps).rsqrt(),
        RELEASED: 1 / (length / max(width - 1, 1) ** 0.5 + formula.eps),
        LENGTH: 1 / length.clamp(min=formula.eps),
    }[formula.divisor]
    y = c * inverse
    z = formula.scale * (1 - formula.k * y.detach()) * y if flags & PHI else y
    z = z if weight is None else weight * z
    return z if bias is None else z + bias, total


def through_cpp(
    formula: Formula,
    x: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Take the C++ autograd function."""
    shim = cpu.load().shim
    assert shim is not None, "these tests need the C++ function: a C++ compiler"
    out = shim.norm(x, (x.shape[-1],), weight, bias, residual, *formula)
    assert out is not None
    return out if residual is not None else (out, None)


def through_python(
    formula: Formula,
    x: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Take the Python autograd function over the same kernels."""
    return function.norm(cpu, formula, x.shape[-1], x, residual, weight, bias)


PATHS: dict[str, Path] = {"cpp": through_cpp, "python": through_python}


def sample(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw from a normal distribution, the same numbers for the same seed in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def gain(width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw a gain that is not one."""
    return sample(width, seed=11, dtype=dtype) * 0.3 + 2


def shift(width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw a bias that is not zero."""
    return sample(width, seed=12, dtype=dtype) * 0.3 - 1
