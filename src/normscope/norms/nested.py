"""Norms of nested tensors, strided or jagged: the rows of all parts in one call, or part by part."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Torch declares the methods of jagged tensors on no class.
# pyright: reportAttributeAccessIssue=false


def over_rows(module: nn.Module, x: Tensor, residual: Tensor | None = None) -> Any:
    """Apply a norm whose rows are trailing axes to the rows of all parts of nested tensors.

    Args:
        module: The norm, for its ``forward`` and its ``normalized_shape``.
        x: Nested, each part ``[..., D]``.
        residual: Nested likewise, or None.

    Returns:
        What ``forward`` returns, nested like ``x``; jagged results share its offsets, so that the two can be added.

    Raises:
        ValueError: If the residual is not nested like ``x``, or the trailing axes of a part differ.
    """
    given: list[Any] = [x] if residual is None else [x, residual]
    if x.layout == torch.jagged and all(one.layout == torch.jagged and one.lengths() is None for one in given):
        results = module.forward(*(one.values() for one in given))
        nest = [torch.nested.nested_tensor_from_jagged(one, given[0].offsets()) for one in _as_tuple(results)]
        return nest[0] if residual is None else tuple(nest)
    shape: tuple[int, ...] = module.normalized_shape  # pyright: ignore[reportAssignmentType]
    parts = [one.unbind() if one.is_nested else () for one in given]
    sizes = [[part.shape for part in each] for each in parts]
    if sizes[0] != sizes[-1]:
        raise ValueError(f"{module} expects a residual nested like its input, {sizes[0]}, got {sizes[-1]}")
    for part in parts[0]:
        if part.shape[-len(shape) :] != shape:
            module.forward(part)  # which raises the error
    results = module.forward(*(torch.cat([part.reshape(-1, *shape) for part in each]) for each in parts))
    counts = [part.shape[: part.dim() - len(shape)].numel() for part in parts[0]]
    nest = [_like(x, parts[0], one.split(counts)) for one in _as_tuple(results)]
    return nest[0] if residual is None else tuple(nest)


def over_parts(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a norm that mixes the positions of a sample to each part of a nested tensor, which is a sample."""
    parts = x.unbind()
    return _like(x, parts, [module.forward(part[None])[0] for part in parts])


def _as_tuple(results: Any) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def _like(x: Any, parts: Sequence[Tensor], results: Sequence[Tensor]) -> Tensor:
    shaped = [one.reshape(part.shape) for one, part in zip(results, parts, strict=True)]
    if x.layout == torch.jagged and x.lengths() is None:
        return torch.nested.nested_tensor_from_jagged(torch.cat(shaped), x.offsets())
    return torch.nested.as_nested_tensor(shaped, layout=x.layout)
