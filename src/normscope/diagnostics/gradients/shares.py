"""What re-centering and re-scaling take out of the gradient at every norm, read from an update that is made anyway."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope import norms

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


LOOKED_AT = (
    nn.LayerNorm,
    nn.RMSNorm,
    *(
        entry
        for entry in vars(norms).values()
        if isinstance(entry, type) and issubclass(entry, nn.Module) and entry is not norms.FRN
    ),
)
"""Modules that count as norms: torch's, and all of ours but FRN, whose output has gone through its threshold."""


@dataclass(frozen=True, kw_only=True)
class GradientShares:
    """Shares of the energy of the upstream gradient at one norm, over all rows of a batch, each within 0 and 1."""

    recentering: float
    """Along the constant vector: what the derivative of the mean takes out."""
    rescaling: float
    """Along the normalized input: what the derivative of the deviation takes out of the rest."""


@contextmanager
def gradient_shares(model: nn.Module) -> Iterator[dict[str, GradientShares]]:
    r"""Measure, in the backward passes inside, how much of the gradient a layer norm takes out at every norm's place.

    With :math:`y = (x - \mu) / \sigma` the normalized input of a row of H entries and :math:`g = \partial L / \partial
    y`, the derivative of a layer norm is :math:`(g - \bar g - y \overline{g y}) / \sigma`: it removes two orthogonal
    parts of g. Their shares, of all rows together:

    .. math::
        \frac{\sum_r H \bar g_r^2}{\sum_r \lVert g_r \rVert^2}, \quad
        \frac{\sum_r (g_r \cdot y_r)^2 / \lVert y_r \rVert^2}{\sum_r \lVert g_r \rVert^2}

    A random g has 1 / H of each. Where a norm does not remove a part it is the share that stays: with none and
    DetachNorm both; RMSNorm removes the part along x instead. The gain of a norm, and AdaNorm's factor, belong to g.
    Nothing is added to the graph and no gradient is changed.

    Args:
        model: Any module; its norms are those of :data:`LOOKED_AT`, torch's own included.

    Yields:
        A dictionary that is filled when the block ends: from the norm's name in the model to its shares. A norm without
        a gradient, or with one that is zero or not finite, is not in it.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, Theorem 1.
        Departs from it in: the paper states means and variances; the shares of a direction are ours.
    """
    sums: dict[str, Tensor] = {}
    found: dict[str, GradientShares] = {}

    def look(name: str, module: nn.Module, inputs: Sequence[Any], output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            x = inputs[0].detach()

            def take(gradient: Tensor) -> None:
                energies = _energies(module, x, gradient)
                sums[name] = sums[name] + energies if name in sums else energies

            output.register_hook(take)

    handles = [
        module.register_forward_hook(
            lambda module, inputs, named, output, name=name: look(name, module, [*inputs, *named.values()], output),
            with_kwargs=True,
        )
        for name, module in model.named_modules()
        if isinstance(module, LOOKED_AT)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for name, energies in sums.items():
        whole, constant, along = energies.tolist()
        # An input that is infinite, which an element-wise norm survives, has no direction.
        if whole > 0 and math.isfinite(whole + constant + along):
            found[name] = GradientShares(recentering=constant / whole, rescaling=along / whole)


def _energies(module: nn.Module, x: Tensor, gradient: Tensor) -> Tensor:
    """Give the squared lengths of g, of its part along the constant vector, and of that along y: ``[3]`` float64."""
    with torch.no_grad():
        shape = getattr(module, "normalized_shape", x.shape[-1:])
        size = torch.Size(shape).numel()
        g, rows = gradient.double(), x.double().reshape(-1, size)
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor):
            g = g * weight.double()
        g = g.reshape(-1, size)
        centered = rows - rows.mean(-1, keepdim=True)
        unit = nn.functional.normalize(centered, dim=-1, eps=1e-300)
        if isinstance(module, norms.AdaNorm):
            y = unit * size**0.5
            g = g * (module.scale * (1 - module.k * y))
        return torch.stack([g.square().sum(), g.sum(-1).square().sum() / size, (g * unit).sum(-1).square().sum()])
