"""The autograd function over any backend: what is saved, and which backward pass runs."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from normscope.kernels.formula import Formula, gradients
from normscope.torch_internals import is_functorch_wrapper, is_zero_without_memory


def norm(
    backend: ModuleType,
    formula: Formula,
    width: int,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Normalize the trailing axes of ``x`` that make ``width`` entries, after adding ``residual``.

    Args:
        backend: A module with ``forward`` and ``backward``: ``normscope.kernels.backends.cpu`` or ``.triton``.
        formula: The member of the family.
        width: H, the entries of a row.
        x: ``[..., H]``, any strides.
        residual: Added to ``x`` before; None for none.
        weight: The gain, H entries.
        bias: The bias, H entries.

    Returns:
        z, and the sum that was normalized where there is a residual; both in the shape and dtype of ``x``.
    """
    rows, *flat = (
        None if one is None else one.reshape(shape).contiguous()
        for one, shape in ((x, (-1, width)), (residual, (-1, width)), (weight, (-1,)), (bias, (-1,)))
    )
    z, total = FamilyNorm.apply(backend, formula, rows, *flat)  # pyright: ignore
    return z.view(x.shape), None if total is None else total.view(x.shape)


class FamilyNorm(torch.autograd.Function):
    """A member of the family over the rows of a matrix.

    Saves the input (or its sum with the residual) and two numbers a row, or less: a formula that needs no input in its
    backward pass keeps none. With ``create_graph=True`` the backward pass is the closed form, which can be
    differentiated again; without, it is the backend's kernel.
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
        """Compute z, and with a residual also the sum that was normalized."""
        z, total, mean, square = backend.forward(formula, x, residual, weight, bias)
        gain = weight is not None and ctx.needs_input_grad[4]
        kept = (x if total is None else total) if formula.keeps_input(gain) else None
        ctx.save_for_backward(kept, mean if kept is not None else None, square, weight)
        ctx.backend, ctx.formula, ctx.bias_dtype = backend, formula, None if bias is None else bias.dtype
        ctx.set_materialize_grads(False)
        return z, total

    @staticmethod
    def backward(ctx: Any, dz: Tensor | None, dtotal: Tensor | None) -> tuple[Any, ...]:  # pyright: ignore
        """Compute the gradients of the input, the residual, the gain and the bias."""
        _, _, wants_x, wants_residual, wants_weight, wants_bias = ctx.needs_input_grad
        if dz is None:
            return None, None, dtotal, dtotal, None, None
        x, mean, square, weight = ctx.saved_tensors
        kept = x if x is None else x.contiguous()
        if torch.is_grad_enabled() or not _readable(dz, dtotal, kept):
            # In differentiable operations, which also take what cannot be read by address.
            dx, dweight, dbias = gradients(ctx.formula, dz, x, square, weight)
            dx = dx if dtotal is None else dx + dtotal
        else:
            dx, dweight, dbias = ctx.backend.backward(
                ctx.formula, dz.contiguous(), dtotal, kept, mean, square, weight, wants_weight, wants_bias
            )
        dweight = dweight.to(weight.dtype) if wants_weight and dweight is not None else None
        dbias = dbias.to(ctx.bias_dtype) if wants_bias else None
        return None, None, dx if wants_x else None, dx if wants_residual else None, dweight, dbias


def _readable(*tensors: Tensor | None) -> bool:
    """Return whether numbers can be read by address: one dtype, no pending sign, no zeros without memory, no batch."""
    given = [one for one in tensors if one is not None]
    return len({one.dtype for one in given}) == 1 and not any(
        one.is_neg() or is_zero_without_memory(one) or is_functorch_wrapper(one) for one in given
    )
