"""The family of norms that the kernels compute, and its backward pass in differentiable operations."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normscope.kernels.scaling import in_range

CENTER = 1
DETACH_MEAN = 2
DETACH_STD = 4
PHI = 8
ROOT = 16
RELEASED = 32
LENGTH = 48
DIVISOR = 48
"""Mask of the divisor: ``ROOT``, ``RELEASED``, ``LENGTH``, or 0 for no divisor."""


SCALE = {torch.float32: 2.0**-76, torch.float64: 2.0**-600}
"""Factor, by the dtype of the statistics, of rows whose sum of squares leaves its range. For such a row the kernels
store the mean square of the row times this factor, with a minus sign; means are stored as they are."""


class Formula(NamedTuple):
    """A member of the family."""

    flags: int
    """``CENTER``, ``DETACH_MEAN``, ``DETACH_STD``, ``PHI`` and one divisor, combined by ``|``."""
    eps: float
    scale: float = 1.0
    """C, with ``PHI``."""
    k: float = 0.0
    """k, with ``PHI``."""

    @property
    def divisor(self) -> int:
        """``ROOT``, ``RELEASED``, ``LENGTH``, or 0 for no divisor."""
        return self.flags & DIVISOR

    @property
    def moves_with_mean(self) -> bool:
        """Whether the mean has a derivative."""
        return bool(self.flags & CENTER) and not self.flags & DETACH_MEAN

    @property
    def moves_with_divisor(self) -> bool:
        """Whether the divisor has a derivative."""
        return bool(self.divisor) and not self.flags & DETACH_STD

    def keeps_input(self, weight: bool) -> bool:
        """Return whether the backward pass needs the input, which that of DetachNorm does not.

        Args:
            weight: Whether the gradient of a weight is computed.
        """
        return self.moves_with_divisor or bool(self.flags & PHI) or weight


def gradients(
    formula: Formula, dz: Tensor, x: Tensor | None, square: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    r"""Compute the backward pass of the kernels in differentiable operations.

    .. math:: dx = \frac{u - \bar u}{d} - \kappa d^2 \, y \sum_i u_i y_i, \quad dg = \sum dz \odot v, \quad db = \sum dz

    Second derivatives with respect to ``dz``, ``x`` and ``weight`` are those of the definition: a statistic that the
    definition detaches is a constant here, too.

    Args:
        formula: Member of the family.
        dz: Upstream gradient, ``[rows, H]``.
        x: Input, ``[rows, H]``; None if the formula does not keep it.
        square: Mean square of every centered row as the kernels store it, ``[rows]``; a constant for derivatives.
        weight: ``[H]``.

    Returns:
        Gradients of the input in its dtype, and of weight and bias in the dtype of the statistics.
    """
    wide = square.dtype
    upstream = dz.to(wide)
    u = upstream if weight is None else upstream * weight.to(wide)
    if x is None:
        scale = torch.ones_like(square).masked_fill(square < 0, SCALE[wide]).unsqueeze(-1)
        inverse, _ = _inverse(formula, square.abs().unsqueeze(-1), dz.shape[-1], scale)
        dx = (inverse * scale) * (u - u.mean(-1, keepdim=True) if formula.moves_with_mean else u)
        return dx.to(dz.dtype), None, upstream.sum(0)
    centers = bool(formula.flags & CENTER)
    centered, scale, _ = in_range(x.to(wide), (-1,), centers=centers) if formula.divisor else (x.to(wide), 1.0, 0.0)
    if centers:
        mu = centered.mean(-1, keepdim=True)
        inner = centered - mu
        centered = inner if formula.moves_with_mean else centered - mu.detach()
    else:
        inner = centered
    moving = inner if formula.moves_with_divisor else inner.detach()
    inverse, pull = _inverse(formula, moving.square().mean(-1, keepdim=True), x.shape[-1], scale)
    y = v = centered * inverse
    if formula.flags & PHI:
        factor = torch.rsub(y.detach(), formula.scale, alpha=formula.scale * formula.k)
        u, v = factor * u, factor * y
    dx = (inverse * scale) * (u - u.mean(-1, keepdim=True) if formula.moves_with_mean else u)
    if formula.moves_with_divisor:
        dx = dx - (pull * scale) * (inner * inverse) * (u * y).sum(-1, keepdim=True)
    return dx.to(dz.dtype), None if weight is None else (upstream * v).sum(0), upstream.sum(0)


def gradients_of_groups(
    formula: Formula, dz: Tensor, x: Tensor | None, square: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Compute :func:`gradients` where ``weight`` may be ``[G, H]``, for G equal groups of rows.

    Returns:
        As :func:`gradients`; then with the gradients of weight and bias ``[G, H]``.
    """
    if weight is None or weight.dim() == 1:
        return gradients(formula, dz, x, square, weight)
    split = [None if one is None else one.unflatten(0, (len(weight), -1)) for one in (dz, x, square)]
    dims = tuple(None if one is None else 0 for one in (*split, weight))
    # torch's annotations know no None among the results.
    mapped: Any = torch.vmap(partial(gradients, formula), dims, (0, None if x is None else 0, 0))  # pyright: ignore
    dx, dweight, dbias = mapped(*split, weight)
    return dx.flatten(0, 1), dweight, dbias


def _inverse(formula: Formula, square: Tensor, width: int, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    r"""Return 1 / d and :math:`\kappa d^2` of centered rows times ``scale``, from their mean square."""
    if formula.divisor == ROOT:
        inverse = (square + formula.eps * scale * scale).rsqrt()
        return inverse, inverse / width
    # The derivative of the root is infinite at zero, but the gradient of a constant row is finite: mask such rows.
    flat = square == 0
    eps = formula.eps * scale
    if formula.divisor == RELEASED:
        deviation = (square.masked_fill(flat, 1.0) * (width / (width - 1))).sqrt()
        inverse = 1 / (deviation.masked_fill(flat, 0.0) + eps)
        return inverse, (1 / (deviation * (width - 1))).masked_fill(flat, 0.0)
    if formula.divisor == LENGTH:
        length = (square.masked_fill(flat, 1.0) * width).sqrt().masked_fill(flat, 0.0)
        inverse = 1 / length.clamp(min=eps)
        return inverse, inverse.masked_fill(length < eps, 0.0)
    return torch.ones_like(square), torch.zeros_like(square)
