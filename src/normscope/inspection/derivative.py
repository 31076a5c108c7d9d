"""The groups of numbers that a norm standardizes together, and the derivative that its equation has."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normscope.inspection.norms_in import NormIn

OVER_FEATURES = ("layer_norm", "layer_norm_simple", "detach_norm", "ada_norm", "rms_norm", "scale_norm", "dyt", "derf")
"""Kinds whose rows are the features of one position."""
CENTERING = ("layer_norm", "layer_norm_simple", "detach_norm", "ada_norm", "batch_norm", "group_norm", "instance_norm")
"""Kinds that subtract a mean."""
SCALING = (*CENTERING, "rms_norm", "scale_norm")
"""Kinds that divide by a size; the law of the gradient is known for these."""


def as_rows(norm: NormIn, tensor: Tensor) -> Tensor:
    """Reshape what goes in or out of a norm to ``[R, H]``: R groups of H numbers with moments of their own.

    In at least float32. A batch norm has a row for every feature.
    """
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    if norm.kind in OVER_FEATURES:
        if norm.channels_first:
            wide = wide.movedim(1, -1)
        return wide.reshape(-1, torch.Size(norm.shape).numel())
    if norm.kind == "group_norm":
        return wide.reshape(wide.shape[0] * int(norm.module.num_groups), -1)  # pyright: ignore
    if norm.kind == "instance_norm":
        return wide.reshape(wide.shape[0] * wide.shape[1], -1)
    if norm.channels_first:
        return wide.movedim(1, 0).reshape(wide.shape[1], -1)
    return wide.reshape(-1, torch.Size(norm.shape).numel()).T


def through_gain(norm: NormIn, gradient: Tensor) -> Tensor:
    """Turn the gradient at a norm's output into the one at its normalized input: times the gain."""
    gain = norm.effective_gain()
    if gain is None:
        return gradient
    wide = gradient if gradient.dtype == torch.float64 else gradient.float()
    gain = gain.to(wide.dtype)
    if norm.kind == "scale_norm":
        return wide * (gain / torch.Size(norm.shape).numel() ** 0.5)
    if norm.channels_first:
        gain = gain.reshape(1, -1, *(1,) * (wide.dim() - 2))
    return wide * gain


def fixed_moments(norm: NormIn) -> Tensor | None:
    """Return the running variance ``[H]`` of a batch norm that normalizes by it, else None."""
    running = getattr(norm.module, "running_var", None)
    stands = norm.kind in ("batch_norm", "instance_norm") and not norm.module.training
    return running.detach() if stands and isinstance(running, Tensor) else None


@dataclass(frozen=True, kw_only=True)
class Derivative:
    """A norm's derivative at some rows: ``dx = (g - c mean(g) - k y mean(g y)) / size``."""

    y: Tensor
    """``[R, H]``, the normalized rows."""
    size: Tensor
    """``[R, 1]``, what the rows were divided by."""
    centers: bool
    """c: whether the derivative of the mean is there."""
    pull: Tensor | float
    """k: ``[R, 1]``, or 0 without the derivative of the size; 1 where eps stands in the variance."""


def derivative_of(norm: NormIn, x: Tensor) -> Derivative:
    """Work out the derivative of a norm of :data:`SCALING` at rows ``[R, H]``.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, Theorem 1.
        Departs from it in: eps, the divisor n - 1, and the norms that it has not.
    """
    width = x.shape[-1]
    centered = x - x.mean(-1, keepdim=True) if norm.kind in CENTERING else x
    square = centered.square().sum(-1, keepdim=True)
    fixed = fixed_moments(norm)
    eps = norm.eps if norm.eps is not None else torch.finfo(x.dtype).eps
    if fixed is not None:
        size = (fixed.to(x.dtype).reshape(-1, 1) + eps).sqrt()
        if len(size) != len(x):
            size = size.repeat(len(x) // len(size), 1)
        return Derivative(y=centered / size, size=size, centers=False, pull=0.0)
    divisor = max(width - norm.unbiased, 1)
    spread = (square / divisor).sqrt()
    tiny = torch.finfo(x.dtype).tiny
    if norm.eps_place == "deviation":
        size = spread + eps
        pull: Tensor | float = size / spread.clamp(min=tiny) * (width / divisor)
    elif norm.eps_place == "length":
        size, pull = spread.clamp(min=max(eps, tiny)), 1.0
    else:
        size, pull = (square / divisor + eps).sqrt().clamp(min=tiny), width / divisor
    centers = norm.kind in CENTERING
    if norm.kind == "detach_norm":
        centers = not getattr(norm.module, "mean", True)
        pull = 0.0 if getattr(norm.module, "std", True) else pull
    return Derivative(y=centered / size, size=size, centers=centers, pull=pull)


def factor_of(norm: NormIn, y: Tensor) -> Tensor | float:
    """Return the detached factor of AdaNorm, which belongs to the gradient; 1 for the others."""
    if norm.kind != "ada_norm":
        return 1.0
    module: nn.Module = norm.module
    return module.scale * (1 - module.k * y)  # pyright: ignore
