"""The groups of numbers that a norm standardizes together, and the derivative of its equation."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normscope.inspection.norm_in_model import NormInModel


def has_known_derivative(norm: NormInModel) -> bool:
    """Return whether :func:`derivative_of` knows the norm: it divides by a size, and its output is not activated."""
    return norm.traits.scales and not norm.traits.is_activation


def is_over_features(norm: NormInModel) -> bool:
    """Return whether a norm treats every position by itself: its rows are the features of one position."""
    return norm.traits.statistics in ("features", None)


def as_rows(norm: NormInModel, tensor: Tensor) -> Tensor:
    """Reshape an input or output of a norm to ``[R, H]``: R groups of H numbers that share a mean and a size.

    A batch norm has a row per feature, a group norm a row per sample and group.

    Args:
        norm: The norm.
        tensor: Of the shape of its input.

    Returns:
        The rows, in at least float32.
    """
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    width = torch.Size(norm.shape).numel() if norm.shape else wide.shape[-1]
    if is_over_features(norm):
        return (wide.movedim(1, -1) if norm.channels_first else wide).reshape(-1, width)
    if not norm.channels_first:
        wide = wide.reshape(*wide.shape[: wide.dim() - len(norm.shape)], width).movedim(-1, 1)
    if norm.traits.statistics == "batch":
        return wide.movedim(1, 0).reshape(wide.shape[1], -1)
    groups: Any = getattr(norm.holder, "num_groups", wide.shape[1])
    return wide.reshape(wide.shape[0] * groups, -1)


def through_weight(norm: NormInModel, gradient: Tensor) -> Tensor:
    """Turn the gradient at a norm's output into that at its normalized input: multiply by the weight.

    Args:
        norm: The norm.
        gradient: Of the shape of its output.

    Returns:
        The gradient at the normalized input, in at least float32.
    """
    weight = norm.effective_weight()
    if weight is None:
        return gradient
    wide = gradient if gradient.dtype == torch.float64 else gradient.float()
    weight = weight.to(wide.dtype)
    if norm.traits.weight_is_length:
        return wide * (weight / torch.Size(norm.shape).numel() ** 0.5)
    if norm.channels_first:
        weight = weight.reshape(1, -1, *(1,) * (wide.dim() - 2))
    return wide * weight


def fixed_moments(norm: NormInModel) -> Tensor | None:
    """Return the running variance ``[H]`` that a batch or instance norm normalizes by, or None if it does not."""
    running = getattr(norm.holder, "running_var", None)
    is_fixed = not is_over_features(norm) and not norm.module.training
    return running.detach() if is_fixed and isinstance(running, Tensor) else None


@dataclass(frozen=True, kw_only=True)
class Derivative:
    """The derivative of a norm at some rows: ``dx = (g - c mean(g) - k y mean(g y)) / size``."""

    y: Tensor
    """The normalized rows, ``[R, H]``."""
    size: Tensor
    """The divisor of every row, ``[R, 1]``."""
    centers: bool
    """c: whether the mean has a derivative."""
    pull: Tensor | float
    """k, ``[R, 1]``: 0 if the size has no derivative, 1 if eps is added to the variance."""
    holds_size: bool = False
    """Whether k y mean(g y) is replaced by the projection that leaves the mean square of all rows as it is."""

    def along(self, g: Tensor) -> Tensor:
        """Return what the derivative of the size takes from ``g``, in multiples of y, ``[R, 1]``.

        Args:
            g: The gradient at y, ``[R, H]``.
        """
        if self.holds_size:
            whole = (self.size * self.y).square().mean().clamp(min=torch.finfo(g.dtype).tiny)
            return self.size.square() * (g * self.y).mean() / whole
        return self.pull * (g * self.y).mean(-1, keepdim=True)


def derivative_of(norm: NormInModel, x: Tensor) -> Derivative:
    """Compute the derivative of a norm with :func:`has_known_derivative`.

    Args:
        norm: The norm.
        x: Rows ``[R, H]``, see :func:`as_rows`.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, Theorem 1.
        Departs from it in: eps, the divisor n - 1, and norms that the paper does not have.
    """
    traits, width = norm.traits, x.shape[-1]
    centered = x - x.mean(-1, keepdim=True) if traits.centers else x
    square = centered.square().sum(-1, keepdim=True)
    fixed = fixed_moments(norm)
    eps = norm.eps if norm.eps is not None else torch.finfo(x.dtype).eps
    if fixed is not None:
        size = (fixed.to(x.dtype).reshape(-1, 1) + eps).sqrt()
        if len(size) != len(x):
            size = size.repeat(len(x) // len(size), 1)
        return Derivative(y=centered / size, size=size, centers=False, pull=0.0)
    divisor = max(width - traits.unbiased, 1)
    spread = (square / divisor).sqrt()
    tiny = torch.finfo(x.dtype).tiny
    if traits.eps_place == "deviation":
        size = spread + eps
        pull: Tensor | float = size / spread.clamp(min=tiny) * (width / divisor)
    elif traits.eps_place == "length":
        size, pull = spread.clamp(min=max(eps, tiny)), 1.0
    else:
        size, pull = (square / divisor + eps).sqrt().clamp(min=tiny), width / divisor
    moves = traits.centers and not traits.detaches_mean
    return Derivative(
        y=centered / size,
        size=size,
        centers=moves,
        pull=0.0 if traits.detaches_size else pull,
        holds_size=traits.holds_size,
    )


def factor_of(norm: NormInModel, y: Tensor) -> Tensor | float:
    """Return what AdaNorm's factor multiplies the gradient by at normalized rows; 1 for other norms."""
    if not norm.traits.has_factor:
        return 1.0
    holder: Any = norm.holder
    return holder.scale * (1 - (1 + norm.traits.factor_moves) * holder.k * y)
