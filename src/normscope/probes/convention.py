"""The conventions that implementations of one norm differ in, and the norm that each choice of them makes."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Divisor = Literal["biased", "unbiased", "length"]
Place = Literal["inside", "added", "least", "none"]
Gain = Literal["none", "w", "1 + w"]
Statistics = Literal["float32", "input"]
Order = Literal["scale, then cast", "cast, then scale"]


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One member of the family that `closed_form` computes."""

    center: bool
    """Whether the mean is subtracted."""
    divisor: Divisor
    """s: the root of the mean square with the divisor H, with H - 1, or the Euclidean length."""
    place: Place
    """Of eps: inside the root, added to s, the least that is divided by, or nowhere."""
    eps: float
    gain: Gain
    bias: bool
    statistics: Statistics
    """The dtype of half-precision inputs' statistics: at least float32, or the input's own."""
    order: Order
    """Whether a half-precision output is rounded after the gain, or before it and again after it."""

    @property
    def words(self) -> str:
        """The convention in one line."""
        spread = {"biased": "mean square over H", "unbiased": "mean square over H - 1", "length": "Euclidean length"}
        eps = {
            "inside": f"eps {self.eps:.3g} inside the root",
            "added": f"eps {self.eps:.3g} added outside the root",
            "least": f"at least eps {self.eps:.3g}",
            "none": "no eps",
        }
        gain = {"none": "no gain", "w": "gain w", "1 + w": "gain 1 + w"}
        order = f", {self.order}" if self.gain != "none" or self.bias else ""
        return (
            f"{'mean subtracted' if self.center else 'mean kept'}, {spread[self.divisor]}, {eps[self.place]}, "
            f"{gain[self.gain]}{', bias' if self.bias else ''}, statistics in "
            f"{'float32' if self.statistics == 'float32' else 'the dtype of the input'}{order}"
        )

    def ratio(self, width: int) -> float:
        """Give the root of the biased mean square by s, for rows of ``width`` entries."""
        return {"biased": 1.0, "unbiased": ((width - 1) / width) ** 0.5, "length": width**-0.5}[self.divisor]


def closed_form(convention: Convention, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    r"""Normalize the rows of ``x`` as ``convention`` says, roundings included.

    Statistics in a half type are taken by the operation that published code takes there, ``var``, ``std``, ``norm`` or
    the mean of squares, of which the first and the last overflow first.

    .. math:: h = G \odot \frac{x - \mu}{d} + b, \quad d = \sqrt{s^2 + \epsilon}, \; s + \epsilon, \; \max(s, \epsilon)
        \text{ or } s

    Args:
        convention: What is subtracted, divided by, added, and rounded when.
        x: ``[..., H]``, any floating dtype.
        weight: w, ``[H]`` or ``[1]``; G is w or 1 + w. Needed exactly if the convention has a gain.
        bias: b, ``[H]`` or ``[1]``. Needed exactly if the convention has a bias.

    Returns:
        The shape and dtype of ``x``.

    Raises:
        ValueError: If weight or bias are given without need, or missing.

    References:
        Ba et al. (2016), arXiv:1607.06450, eqs. (15)-(16); Zhang, Sennrich (2019), arXiv:1910.07467, eq. (4). The
        conventions are those of published code.
    """
    if (weight is None) != (convention.gain == "none") or (bias is None) != (not convention.bias):
        raise ValueError(f"{convention.words}: got {'no ' * (weight is None)}weight and {'no ' * (bias is None)}bias")
    wide = x if convention.statistics == "input" else x.to(torch.promote_types(x.dtype, torch.float32))
    centered = wide - wide.mean(-1, keepdim=True) if convention.center else wide
    correction = 1 if convention.divisor == "unbiased" else 0
    if convention.divisor == "length":
        spread = torch.linalg.vector_norm(centered, dim=-1, keepdim=True)
    elif convention.center and convention.place != "inside":
        spread = wide.std(-1, correction=correction, keepdim=True)
    elif convention.center:
        spread = wide.var(-1, correction=correction, keepdim=True)
    else:
        spread = wide.square().mean(-1, keepdim=True) * (x.shape[-1] / (x.shape[-1] - correction))
        spread = spread if convention.place == "inside" else spread.sqrt()
    if convention.place == "inside":
        square = spread.square() if convention.divisor == "length" else spread
        divided_by = (square + convention.eps).sqrt()
    elif convention.place == "added":
        divided_by = spread + convention.eps
    elif convention.place == "least":
        divided_by = spread.clamp(min=convention.eps)
    else:
        divided_by = spread
    y = centered / divided_by
    if convention.order == "cast, then scale":
        y = y.to(x.dtype)
    if weight is not None:
        w = weight.to(y.dtype)
        y = y * (w if convention.gain == "w" else 1 + w)
    if bias is not None:
        y = y + bias.to(y.dtype)
    return y.to(x.dtype)
