"""Autograd function over a backend: the tensors that it saves, and the choice of the backward pass."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from normscope.kernels.formula import Formula, gradients
from normscope.kernels.scaling import is_readable


def norm(
    backend: ModuleType,
    formula: Formula,
    width: int,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Normalize rows of ``width`` entries over the trailing axes of ``x``, after adding ``residual``.

    Args:
        backend: A module with ``forward`` and ``backward``: ``normscope.kernels.backends.cpu`` or ``.triton``.
        formula: Member of the family.
        width: H, the number of entries of a row.
        x: Input with any shape that splits into rows, and any strides.
        residual: Added to ``x`` first; the same shape and dtype.
        weight: H entries.
        bias: H entries.

    Returns:
        z, and the sum that was normalized, or None without a residual; both in the shape and dtype of ``x``.
    """
    rows, *flat = (
        None if one is None else one.reshape(shape).contiguous()
        for one, shape in ((x, (-1, width)), (residual, (-1, width)), (weight, (-1,)), (bias, (-1,)))
    )
    z, total = FamilyNorm.apply(backend, formula, rows, *flat)  # pyright: ignore
    return z.view(x.shape), None if total is None else total.view(x.shape)


class FamilyNorm(torch.autograd.Function):
    """A member of the family over the rows of a matrix.

    Saves two numbers per row at most, and the input or its sum with the residual if the backward pass needs it. With
    ``create_graph=True`` the backward pass is the closed form, which is differentiable; otherwise it is the kernel of
    the backend.
    """

    @staticmethod
    def forward(
        ctx: Any,
        backend: ModuleType,
        formula: Formula,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute z, and the sum that was normalized if there is a residual."""
        z, total, mean, square = backend.forward(formula, x, residual, weight, bias)
        learns_weight = weight is not None and ctx.needs_input_grad[4]
        kept = (x if total is None else total) if formula.keeps_input(learns_weight) else None
        ctx.save_for_backward(kept, mean if kept is not None else None, square, weight)
        ctx.backend, ctx.formula, ctx.bias_dtype = backend, formula, None if bias is None else bias.dtype
        ctx.set_materialize_grads(False)
        return z, total

    @staticmethod
    def backward(ctx: Any, dz: Tensor | None, dtotal: Tensor | None) -> tuple[Any, ...]:  # pyright: ignore
        """Compute the gradients of the input, the residual, the weight and the bias."""
        _, _, wants_x, wants_residual, wants_weight, wants_bias = ctx.needs_input_grad
        if dz is None:
            return None, None, dtotal, dtotal, None, None
        x, mean, square, weight = ctx.saved_tensors
        kept = x if x is None else x.contiguous()
        if torch.is_grad_enabled() or not is_readable(dz, dtotal, kept):
            # Differentiable operations also support tensors that cannot be read by address.
            dx, dweight, dbias = gradients(ctx.formula, dz, x, square, weight)
            dx = dx if dtotal is None else dx + dtotal
        else:
            dx, dweight, dbias = ctx.backend.backward(
                ctx.formula, dz.contiguous(), dtotal, kept, mean, square, weight, wants_weight, wants_bias
            )
        dweight = dweight.to(weight.dtype) if wants_weight and dweight is not None else None
        dbias = dbias.to(ctx.bias_dtype) if wants_bias else None
        return None, None, dx if wants_x else None, dx if wants_residual else None, dweight, dbias
