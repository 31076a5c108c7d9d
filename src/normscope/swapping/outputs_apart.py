"""How far apart the outputs of a model are, before and after: a measure that no mask and no large output hides."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

NUDGE = 1e-3
"""Relative: by how much what the norms give is moved, to see how outputs follow."""
_SMALLEST = 1e-6
"""An output that follows less than this part of what the others do is compared with that part: it may be rounding."""


def scales(before: Mapping[str, Tensor], nudged: Mapping[str, Tensor]) -> dict[str, float]:
    """Give every output a size: how far it moves when all that the norms give is moved by all of itself.

    It is the median over the numbers that moved at all, so that constants in them, such as the lowest number under a
    mask, have no part in it.

    Args:
        before: The outputs.
        nudged: The same, with what the norms give moved by :data:`NUDGE`.

    Returns:
        From places to sizes; all are 0 where nothing moved.
    """
    sizes = {}
    for place, one in before.items():
        gap = _gap(one, nudged[place])
        moved = gap[gap.isfinite() & (gap > 0)]
        sizes[place] = float(moved.median()) / NUDGE if moved.numel() else 0.0
    felt = sorted(size for size in sizes.values() if size)
    least = _SMALLEST * felt[len(felt) // 2] if felt else 0.0
    return {place: max(size, least) for place, size in sizes.items()}


def apart(before: Mapping[str, Tensor], after: Mapping[str, Tensor], sizes: Mapping[str, float]) -> float:
    """Give the largest difference of any number, over the larger of itself and its output's size.

    Args:
        before: The outputs.
        after: The same, of a changed model.
        sizes: Of the outputs, see :func:`scales`.

    Returns:
        Infinity where one is not a number. Equal infinities do not differ.

    Raises:
        ValueError: If the outputs are others, or of other shapes.
    """
    return max((float(ratios.amax()) for ratios in _ratios(before, after, sizes)), default=0.0)


def usually_apart(before: Mapping[str, Tensor], after: Mapping[str, Tensor], sizes: Mapping[str, float]) -> float:
    """Give the same for the median number of each output, and the largest of these."""
    return max((float(ratios.median()) for ratios in _ratios(before, after, sizes)), default=0.0)


def _ratios(before: Mapping[str, Tensor], after: Mapping[str, Tensor], sizes: Mapping[str, float]) -> Iterator[Tensor]:
    shapes = [{place: list(one.shape) for place, one in outputs.items()} for outputs in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the model gives {shapes[1]} where it gave {shapes[0]}")
    for place, one in before.items():
        if not one.numel():
            continue
        gap = _gap(one, after[place])
        size = _wide(one).abs().nan_to_num(posinf=0.0).clamp(min=sizes[place])
        yield torch.where(gap > 0, gap / size, gap.new_zeros(())).nan_to_num(nan=math.inf, posinf=math.inf)


def _gap(one: Tensor, two: Tensor) -> Tensor:
    one, two = _wide(one), _wide(two)
    # Masks may be infinite in both.
    gap = torch.where(one == two, 0.0, (one - two).abs())
    return gap.nan_to_num(nan=math.inf, posinf=math.inf)


def _wide(one: Tensor) -> Tensor:
    return one.detach().to(torch.complex128 if one.is_complex() else torch.float64)
