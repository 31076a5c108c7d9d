"""The kernels under transforms of ``torch.func``: rows of a batch are rows of one call.

``vmap`` folds its batch into the rows. Where it maps over weights, as in an ensemble, the rows come in equal groups,
one per weight. ``grad``, ``vjp`` and ``jacrev``, before or after ``vmap``, end in the backward kernels; further
derivatives are those of the closed form. Forward-mode derivatives are left to the definition.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from normscope.kernels.formula import Formula, gradients_of_groups
from normscope.kernels.scaling import is_readable
from normscope.torch_internals import (
    apply_in_transforms,
    apply_outside_transforms,
    forward_mode_is_active,
    transforms_active,
)


def norm(
    backend: ModuleType,
    formula: Formula,
    width: int,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Normalize as :func:`normscope.kernels.autograd.norm` does, inside transforms of ``torch.func``."""
    rows, added = (one if one is None or one.dim() == 2 else one.reshape(-1, width) for one in (x, residual))
    flat = (one if one is None or one.dim() == 1 else one.reshape(-1) for one in (weight, bias))
    only_maps = transforms_active() == {"vmap"}
    z, total, *_ = apply_in_transforms(TransformedNorm, _Call(backend, formula, only_maps), rows, added, *flat)
    return tuple(one if one is None or x.dim() == 2 else one.view(x.shape) for one in (z, total))  # pyright: ignore


@dataclass(frozen=True)
class _Call:
    """The constants of a call; not a tuple, in which torch would look for tensors."""

    backend: ModuleType
    formula: Formula
    only_maps: bool
    """Whether no transform takes gradients, so that nobody asks for means and mean squares."""
    wants_weight: bool = False
    wants_bias: bool = False


class TransformedNorm(torch.autograd.Function):
    """A member of the family over the rows of a matrix, which may come in G equal groups.

    Weight and bias are [H] for all rows, or [G, H] for as many groups.
    """

    @staticmethod
    def forward(call: _Call, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute z, the sum with the residual, the means and the mean squares, None where there is none."""
        x, residual, weight, bias = (None if one is None else one.contiguous() for one in tensors)
        return call.backend.forward(call.formula, x, residual, weight, bias)

    @staticmethod
    def outside(call: _Call, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute the same outside of all transforms, by the C++ function of the backend if there is one."""
        x, residual, weight, bias = tensors
        shim = call.backend.load().shim if call.only_maps and x is not None and x.is_cpu else None
        if shim is not None and x is not None:
            groups = () if weight is None or weight.dim() == 1 else (len(weight),)
            z = shim.norm(x, (x.shape[1],), weight, bias, residual, *call.formula, *groups)
            if z is not None:
                return (z, None, None, None) if residual is None else (*z, None, None)
        return apply_outside_transforms(TransformedNorm, call, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        """Save what the backward pass reads."""
        call, x, _, weight, bias = inputs
        _, total, mean, square = output
        ctx.mark_non_differentiable(*(one for one in (mean, square) if one is not None))
        ctx.set_materialize_grads(False)
        kept = (x if total is None else total) if call.formula.keeps_input(ctx.needs_input_grad[3]) else None
        if weight is None and bias is not None:
            # So many rows of weights are so many groups.
            weight = torch.ones_like(bias)
        ctx.save_for_backward(kept, None if kept is None else mean, square, weight)
        ctx.call, ctx.dtypes = call, [None if one is None else one.dtype for one in (inputs[3], bias)]

    @staticmethod
    def backward(ctx: Any, dz: Tensor | None, dtotal: Tensor | None, *_: None) -> tuple[Any, ...]:  # pyright: ignore
        """Compute the gradients of the input, the residual, the weight and the bias."""
        wants_x, wants_residual, *wanted = ctx.needs_input_grad[1:]
        if dz is None:
            return None, dtotal, dtotal if wants_residual else None, None, None
        kept, mean, square, weight = ctx.saved_tensors
        if forward_mode_is_active():
            dx, *learned = gradients_of_groups(ctx.call.formula, dz, kept, square, weight)
            dx = dx if dtotal is None else dx + dtotal
        else:
            call = replace(ctx.call, wants_weight=wanted[0], wants_bias=wanted[1])
            dx, *learned = apply_in_transforms(TransformedBackward, call, dz, dtotal, kept, mean, square, weight)
        learned = [
            one.to(dtype) if wants and one is not None else None
            for one, dtype, wants in zip(learned, ctx.dtypes, wanted, strict=True)
        ]
        return None, dx if wants_x else None, dx if wants_residual else None, *learned

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: _Call, *tensors: Tensor | None) -> tuple[Any, ...]:
        """Fold the batch into the rows, and into the groups where it is one of parameters."""
        dims, size = in_dims[1:], info.batch_size
        folded = [_fold(one, dim, size) for one, dim in zip(tensors[:2], dims, strict=False)]
        parameters = list(zip(tensors[2:], dims[2:], strict=True))
        grouped = any(one is not None and (dim is not None or one.dim() == 2) for one, dim in parameters)
        folded += [_fold_parameter(one, dim, size) if grouped else one for one, dim in parameters]
        return _unfold(apply_in_transforms(TransformedNorm, call, *folded), size)


class TransformedBackward(torch.autograd.Function):
    """The gradients of :class:`TransformedNorm`, differentiable by the closed form."""

    @staticmethod
    def forward(call: _Call, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the input, and those of weight and bias, None if not wanted."""
        dz, dtotal, x, mean, square, weight = (None if one is None else one.contiguous() for one in tensors)
        assert dz is not None
        assert square is not None
        if is_readable(dz, dtotal, x):
            wanted = call.wants_weight, call.wants_bias
            return call.backend.backward(call.formula, dz, dtotal, x, mean, square, weight, *wanted)
        dx, dweight, dbias = gradients_of_groups(call.formula, dz, x, square, weight)
        dx = dx if dtotal is None else dx + dtotal
        return dx, dweight if call.wants_weight else None, dbias if call.wants_bias else None

    @staticmethod
    def outside(call: _Call, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute the same outside of all transforms."""
        return apply_outside_transforms(TransformedBackward, call, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        """Save the inputs."""
        call, dz, dtotal, x, _, square, weight = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(dz, x, square, weight)
        ctx.formula, ctx.has_total = call.formula, dtotal is not None

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute the second derivatives, in differentiable operations."""
        given = ctx.saved_tensors
        places = [place for place, one in enumerate(given) if one is not None and place != 2]
        wanted = [place for place, one in enumerate(upstream) if one is not None]

        def closed_form(*moving: Tensor) -> list[Tensor]:
            tensors = list(given)
            for place, one in zip(places, moving, strict=True):
                tensors[place] = one
            results = gradients_of_groups(ctx.formula, *tensors)
            return [one for place in wanted if (one := results[place]) is not None]

        results, pull, *_ = torch.func.vjp(closed_form, *(given[place] for place in places))
        present = [one for one in upstream if one is not None]
        cotangents = [one.to(result.dtype) for one, result in zip(present, results, strict=True)]
        found = dict(zip(places, pull(cotangents), strict=True))
        return None, found[0], upstream[0] if ctx.has_total else None, found.get(1), None, None, found.get(3)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: _Call, *tensors: Tensor | None) -> tuple[Any, ...]:
        """Fold the batch into the rows, and into the groups where there are sums over rows."""
        *rows, weight = tensors
        *dims, dim = in_dims[1:]
        size = info.batch_size
        folded = [_fold(one, each, size) for one, each in zip(rows, dims, strict=True)]
        has_groups = weight is not None and weight.dim() - (dim is not None) == 2
        if has_groups or dim is not None or call.wants_weight or call.wants_bias:
            weight = _fold_parameter(weight, dim, size)
        dx, *learned = apply_in_transforms(TransformedBackward, call, *folded, weight)
        (dx,), _ = _unfold([dx], size)
        if has_groups:
            learned, _ = _unfold(learned, size)
        return (dx, *learned), (0, *(None if one is None else 0 for one in learned))


def _fold(tensor: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """Fold a batch into the first axis: that of the rows, or of the groups."""
    if tensor is None:
        return None
    batch = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0) if dim else tensor
    return batch.flatten(0, 1)


def _fold_parameter(parameter: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """Make a batch of vectors a matrix with a row per group, and fold a batch of such matrices into one."""
    if parameter is None:
        return None
    if parameter.dim() - (dim is not None) == 2:
        return _fold(parameter, dim, size)
    return parameter.expand(size, -1) if dim is None else parameter.movedim(dim, 0) if dim else parameter


def _unfold(tensors: Sequence[Tensor | None], size: int) -> tuple[Any, ...]:
    """Return the batches of results, with the axes of the batch."""
    batches = tuple(one if one is None else one.unflatten(0, (size, -1)) for one in tensors)
    return batches, tuple(None if one is None else 0 for one in batches)
