"""The family as custom operators for graphs of ``torch.compile``: one node forward, one backward."""

from typing import Any

import torch
from torch import Tensor

from normscope.kernels.backends.choice import kernels_of
from normscope.kernels.formula import CENTER, Formula


@torch.library.custom_op("normscope::norm", mutates_args=())
def norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    width: int,
    flags: int,
    eps: float,
    scale: float,
    k: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute z, the sum, the means and the mean squares; an absent result is an empty tensor.

    ``flags`` to ``k`` are the fields of a ``Formula``, which cannot be the argument of a custom operator.
    """
    module = kernels_of(x.device)
    rows, added = (None if one is None else one.reshape(-1, width).contiguous() for one in (x, residual))
    weight, bias = (None if one is None else one.reshape(-1) for one in (weight, bias))
    z, total, mean, square = module.forward(Formula(flags, eps, scale, k), rows, added, weight, bias)
    total = x.new_empty(0) if total is None else total.view(x.shape)
    return z.view(x.shape), total, square.new_empty(0) if mean is None else mean, square


@norm.register_fake
def _(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    width: int,
    flags: int,
    *numbers: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    statistics = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows = x.numel() // width
    z = torch.empty_like(x, memory_format=torch.contiguous_format)
    total = torch.empty_like(z) if residual is not None else x.new_empty(0)
    square = x.new_empty(rows, dtype=statistics)
    return z, total, torch.empty_like(square) if flags & CENTER else square.new_empty(0), square


@torch.library.custom_op("normscope::norm_backward", mutates_args=())
def norm_backward(
    dz: Tensor,
    dtotal: Tensor | None,
    x: Tensor | None,
    mean: Tensor,
    square: Tensor,
    weight: Tensor | None,
    width: int,
    flags: int,
    eps: float,
    scale: float,
    k: float,
    wants_weight: bool,
    wants_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of the input, the weight and the bias, empty if not wanted.

    Those of weight and bias are in the dtype of the statistics.
    """
    module = kernels_of(dz.device)
    upstream, added, rows = (None if one is None else one.reshape(-1, width).contiguous() for one in (dz, dtotal, x))
    weight = None if weight is None else weight.reshape(-1)
    means = mean if flags & CENTER and x is not None else None
    formula = Formula(flags, eps, scale, k)
    dx, *learned = module.backward(formula, upstream, added, rows, means, square, weight, wants_weight, wants_bias)
    dweight, dbias = (square.new_empty(0) if one is None else one.to(square.dtype) for one in learned)
    return dx.view(dz.shape), dweight, dbias


@norm_backward.register_fake
def _(
    dz: Tensor,
    dtotal: Tensor | None,
    x: Tensor | None,
    mean: Tensor,
    square: Tensor,
    weight: Tensor | None,
    width: int,
    *numbers_and_wanted: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dweight, dbias = (square.new_empty(width if wanted else 0) for wanted in numbers_and_wanted[-2:])
    return torch.empty_like(dz, memory_format=torch.contiguous_format), dweight, dbias


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, residual, weight, bias, width, *numbers = inputs
    _, total, mean, square = output
    learns_weight = weight is not None and ctx.needs_input_grad[2]
    kept = (x if residual is None else total) if Formula(*numbers).keeps_input(learns_weight) else None
    ctx.save_for_backward(kept, mean if kept is not None else square.new_empty(0), square, weight)
    ctx.numbers = (width, *numbers)
    ctx.bias = None if bias is None else (bias.shape, bias.dtype)
    ctx.has_residual = residual is not None


def _backward(ctx: Any, dz: Tensor, dtotal: Tensor, *statistics: Tensor) -> tuple[Tensor | None, ...]:
    kept, mean, square, weight = ctx.saved_tensors
    wants_x, wants_residual, wants_weight, wants_bias = ctx.needs_input_grad[:4]
    added = dtotal if ctx.has_residual else None
    dx, dweight, dbias = norm_backward(dz, added, kept, mean, square, weight, *ctx.numbers, wants_weight, wants_bias)
    return (
        dx if wants_x else None,
        dx if wants_residual else None,
        dweight.to(weight.dtype).view(weight.shape) if wants_weight else None,
        dbias.to(ctx.bias[1]).view(ctx.bias[0]) if wants_bias else None,
        *(None,) * 5,
    )


norm.register_autograd(_backward, setup_context=_setup)
