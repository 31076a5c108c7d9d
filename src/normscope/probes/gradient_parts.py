"""Where the energy of a gradient lies, row by row: along what a norm takes out, and what norms would let through."""

import torch
from torch import Tensor

BESIDE = ("layer_norm", "rms_norm", "ada_norm", "detach_norm")
"""The norms that every site is asked about: how much of the gradient each would let through there."""

ADA_SLOPE = 0.1
"""AdaNorm's k, for the column of a norm that is not there."""


def energy(tensor: Tensor) -> Tensor:
    """Sum up the squares: of a row in the tensor's own dtype, over rows in float64."""
    return tensor.square().sum(-1).sum(dtype=torch.float64)


def parts_of(x: Tensor, g: Tensor) -> Tensor:
    """Sum up energies over rows ``[..., H]`` of gradients g at inputs x.

    Returns:
        ``[6]`` in float64: of g; of g along the constant vector, along the centered x, along x; of g times the factor
        that AdaNorm has there; of that along the constant vector and the centered x.
    """
    root, tiny = x.shape[-1] ** 0.5, torch.finfo(x.dtype).tiny
    mean = x.mean(-1, keepdim=True)
    unit = x - mean
    # linalg.vector_norm takes thirty times as long over features that are not next to each other.
    length = unit.square().sum(-1, keepdim=True).sqrt()
    unit = unit.div_(length.clamp(min=tiny))
    mean, length = mean.squeeze(-1) * root, length.squeeze(-1)
    constant, along = g.sum(-1) / root, (g * unit).sum(-1)
    # x is the sum of its two parts, and they are at a right angle.
    along_x = (constant * mean + along * length) / torch.hypot(mean, length).clamp(min=tiny)
    adapted = torch.addcmul(g, g, unit, value=-ADA_SLOPE * root)
    lost = (adapted.sum(-1) / root).square() + (adapted * unit).sum(-1).square()
    squares = [g.square().sum(-1), constant.square(), along.square(), along_x.square()]
    return torch.stack([*squares, adapted.square().sum(-1), lost]).flatten(1).sum(-1, dtype=torch.float64)


def let_through(
    whole: float, constant: float, along: float, along_x: float, adapted: float, adapted_lost: float
) -> dict[str, float]:
    """Turn the sums of :func:`parts_of` into the share that each of :data:`BESIDE` would let through."""
    return {
        "layer_norm": 1 - (constant + along) / whole if whole > 0 else 0.0,
        "rms_norm": 1 - along_x / whole if whole > 0 else 0.0,
        "ada_norm": 1 - adapted_lost / adapted if adapted > 0 else 0.0,
        "detach_norm": 1.0,
    }
