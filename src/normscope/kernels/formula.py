"""The backward pass of the family in differentiable operations: what makes second derivatives right."""

from typing import NamedTuple

import torch
from torch import Tensor

CENTER = 1
DETACH_MEAN = 2
DETACH_STD = 4
PHI = 8
ROOT = 16
RELEASED = 32
LENGTH = 48
DIVISOR = 48
"""The bits that say which divisor: one of ``ROOT``, ``RELEASED``, ``LENGTH``, or none."""


class Formula(NamedTuple):
    """Which member of the family, and its numbers."""

    flags: int
    """``CENTER``, ``DETACH_MEAN``, ``DETACH_STD``, ``PHI`` and one divisor, joined by ``|``."""
    eps: float
    scale: float = 1.0
    """C, under ``PHI``."""
    k: float = 0.0
    """k, under ``PHI``."""

    @property
    def divisor(self) -> int:
        """One of ``ROOT``, ``RELEASED``, ``LENGTH``, or 0 for none."""
        return self.flags & DIVISOR

    @property
    def moves_with_mean(self) -> bool:
        """Whether the mean has a derivative."""
        return bool(self.flags & CENTER) and not self.flags & DETACH_MEAN

    @property
    def moves_with_divisor(self) -> bool:
        """Whether the divisor has a derivative."""
        return bool(self.divisor) and not self.flags & DETACH_STD

    def keeps_input(self, gain: bool) -> bool:
        """Return whether the backward pass reads the input: DetachNorm's does not.

        Args:
            gain: Whether there is a gain whose gradient is wanted.
        """
        return self.moves_with_divisor or bool(self.flags & PHI) or gain


def gradients(
    formula: Formula, dz: Tensor, x: Tensor | None, square: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    r"""Compute what the kernels' backward pass computes, so that it can be differentiated again.

    .. math:: dx = \frac{u - \bar u}{d} - \kappa d^2 \, y \sum_i u_i y_i, \quad dg = \sum dz \odot v, \quad db = \sum dz

    Differentiable in ``dz``, ``x`` and ``weight`` as the definition's own gradient is: what the definition detaches is
    a number here, too.

    Args:
        formula: The member of the family.
        dz: The upstream gradient, ``[rows, H]``.
        x: The input, ``[rows, H]``; None where the formula does not keep it.
        square: The mean square of every centered row, ``[rows]``; a number to everything that differentiates.
        weight: The gain, ``[H]``.

    Returns:
        The gradients of the input in its dtype, of the gain and of the bias in the dtype of the statistics.
    """
    wide = square.dtype
    upstream = dz.to(wide)
    u = upstream if weight is None else upstream * weight.to(wide)
    if x is None:
        inverse, _ = _inverse(formula, square.unsqueeze(-1), dz.shape[-1])
        dx = inverse * (u - u.mean(-1, keepdim=True) if formula.moves_with_mean else u)
        return dx.to(dz.dtype), None, upstream.sum(0)
    centered = x.to(wide)
    if formula.flags & CENTER:
        mu = centered.mean(-1, keepdim=True)
        centered = centered - (mu if formula.moves_with_mean else mu.detach())
    moving = centered if formula.moves_with_divisor else centered.detach()
    inverse, pull = _inverse(formula, moving.square().mean(-1, keepdim=True), x.shape[-1])
    y = v = centered * inverse
    if formula.flags & PHI:
        factor = torch.rsub(y.detach(), formula.scale, alpha=formula.scale * formula.k)
        u, v = factor * u, factor * y
    dx = inverse * (u - u.mean(-1, keepdim=True) if formula.moves_with_mean else u)
    if formula.moves_with_divisor:
        dx = dx - pull * y * (u * y).sum(-1, keepdim=True)
    return dx.to(dz.dtype), None if weight is None else (upstream * v).sum(0), upstream.sum(0)


def _inverse(formula: Formula, square: Tensor, width: int) -> tuple[Tensor, Tensor]:
    r"""Give 1 / d and :math:`\kappa d^2` from the mean square of a centered row: d^3 may leave the range of float32."""
    if formula.divisor == ROOT:
        inverse = (square + formula.eps).rsqrt()
        return inverse, inverse / width
    # A root's derivative at zero is infinite, and a constant row's gradient is not: there the row is left alone.
    flat = square == 0
    if formula.divisor == RELEASED:
        deviation = (square.masked_fill(flat, 1.0) * (width / (width - 1))).sqrt()
        inverse = 1 / (deviation.masked_fill(flat, 0.0) + formula.eps)
        return inverse, (1 / (deviation * (width - 1))).masked_fill(flat, 0.0)
    if formula.divisor == LENGTH:
        length = (square.masked_fill(flat, 1.0) * width).sqrt().masked_fill(flat, 0.0)
        inverse = 1 / length.clamp(min=formula.eps)
        return inverse, inverse.masked_fill(length < formula.eps, 0.0)
    return torch.ones_like(square), torch.zeros_like(square)
