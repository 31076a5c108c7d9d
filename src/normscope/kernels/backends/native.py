"""Layer normalization by torch's own fused operations, for first derivatives of ordinary rows in memory.

Their later derivatives are wrong under ``torch.func`` and in nested forward mode, and in half precision they sum the
gradients of the parameters in half precision; so they are given float32 or float64.
"""

import torch
from torch import Tensor

from normscope.kernels.formula import Formula

_backward = torch.ops.aten.native_layer_norm_backward.default


def forward(
    formula: Formula, x: Tensor, residual: None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, None, Tensor, Tensor]:
    """Normalize the rows of a contiguous matrix, as in ``normscope.kernels.backends.cpu``.

    Returns:
        z; None; the mean of every row; the inverse deviation of every row in place of its mean square, which the
        closed form does not read where it has the input.
    """
    z, mean, inverse = torch.native_layer_norm(x, x.shape[1:], _gain(weight, x), bias, formula.eps)
    return z, None, mean, inverse


def backward(
    formula: Formula,
    dz: Tensor,
    dtotal: None,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    wants_weight: bool,
    wants_bias: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Compute the gradients of the input, the weight and the bias; all in the dtype of ``x``."""
    wanted = [True, wants_weight, wants_bias]
    gain = _gain(weight, x)
    return _backward(dz, x, x.shape[1:], mean, inverse, gain, gain, wanted)


def _gain(weight: Tensor | None, x: Tensor) -> Tensor:
    return x.new_ones(x.shape[1:]) if weight is None else weight
