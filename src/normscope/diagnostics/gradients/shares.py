"""Shares of the gradient at every norm that re-centering and re-scaling remove, from ordinary backward passes."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.arguments import check_arguments
from normscope.inspection.norm_in_model import known_base, torch_base, traits_of

BESIDE = ("layer_norm", "rms_norm", "ada_norm", "detach_norm")
"""Norms to compare at every site: how much of the gradient each would let through there."""

ADA_SLOPE = 0.1
"""AdaNorm's k in this comparison."""


def energy(tensor: Tensor) -> Tensor:
    """Return the sum of squares: over a row in the dtype of the tensor, over rows in float64."""
    return tensor.square().sum(-1).sum(dtype=torch.float64)


def parts_of(x: Tensor, g: Tensor) -> Tensor:
    """Compute energies of gradients g ``[..., H]`` at inputs x, summed over rows.

    Returns:
        ``[6]`` in float64: of g; of its part along the constant vector, along the centered x, along x; of a, which is g
        times the factor of AdaNorm there; of the part of a along the constant vector and the centered x.
    """
    root, tiny = x.shape[-1] ** 0.5, torch.finfo(x.dtype).tiny
    mean = x.mean(-1, keepdim=True)
    unit = x - mean
    # linalg.vector_norm is thirty times slower over features that are not contiguous.
    length = unit.square().sum(-1, keepdim=True).sqrt()
    unit = unit.div_(length.clamp(min=tiny))
    mean, length = mean.squeeze(-1) * root, length.squeeze(-1)
    constant, along = g.sum(-1) / root, (g * unit).sum(-1)
    # x is the sum of two orthogonal parts.
    along_x = (constant * mean + along * length) / torch.hypot(mean, length).clamp(min=tiny)
    adapted = torch.addcmul(g, g, unit, value=-ADA_SLOPE * root)
    lost = (adapted.sum(-1) / root).square() + (adapted * unit).sum(-1).square()
    squares = [g.square().sum(-1), constant.square(), along.square(), along_x.square()]
    return torch.stack([*squares, adapted.square().sum(-1), lost]).flatten(1).sum(-1, dtype=torch.float64)


def let_through(
    whole: float, constant: float, along: float, along_x: float, adapted: float, adapted_lost: float
) -> dict[str, float]:
    """Compute the share that each of :data:`BESIDE` would let through from the sums of :func:`parts_of`."""
    return {
        "layer_norm": 1 - (constant + along) / whole if whole > 0 else 0.0,
        "rms_norm": 1 - along_x / whole if whole > 0 else 0.0,
        "ada_norm": 1 - adapted_lost / adapted if adapted > 0 else 0.0,
        "detach_norm": 1.0,
    }


def is_watched(module: nn.Module) -> bool:
    """Return whether the shares are measured at a module: a registered norm whose output is not activated.

    Of torch's norms these are ``LayerNorm`` and ``RMSNorm``, which have their features on the last axis.
    """
    if known_base(module) is None or (torch_base(module) is not None and not hasattr(module, "normalized_shape")):
        return False
    traits = traits_of(module)
    return traits is None or not traits.is_activation


@dataclass(frozen=True, kw_only=True)
class GradientShares:
    """Shares of the energy of the upstream gradient at one norm, over all rows of a batch, from 0 to 1."""

    recentering: float
    """Share along the constant vector: removed by the derivative of the mean."""
    rescaling: float
    """Share along the normalized input: removed by the derivative of the standard deviation."""


@check_arguments
@contextmanager
def gradient_shares(model: nn.Module) -> Iterator[dict[str, GradientShares]]:
    r"""Measure the share of the gradient that a layer norm would remove at every norm, in backward passes inside.

    With :math:`y = (x - \mu) / \sigma` the normalized input of a row of H entries and :math:`g = \partial L / \partial
    y`, the derivative of a layer norm is :math:`(g - \bar g - y \overline{g y}) / \sigma`: it removes two orthogonal
    parts of g. Their shares, of all rows together:

    .. math::
        \frac{\sum_r H \bar g_r^2}{\sum_r \lVert g_r \rVert^2}, \quad
        \frac{\sum_r (g_r \cdot y_r)^2 / \lVert y_r \rVert^2}{\sum_r \lVert g_r \rVert^2}

    For a g of random direction both are 1 / H. A norm that does not remove a part passes it on: DetachNorm both parts;
    RMSNorm removes the part along x instead. g includes the weight of the norm and the factor of AdaNorm. Nothing is
    added to the graph, and no gradient is changed.

    Args:
        model: Any module; its norms are those of :func:`is_watched`, torch's included.

    Yields:
        Shares by the name of the norm, filled when the block ends, without norms whose gradient is missing, zero or not
        finite.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, Theorem 1.
        Departs from it in: the paper states means and variances; the shares of a direction are an addition.

    Example:
        >>> import torch
        >>> from normscope.diagnostics import gradient_shares
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))
        >>> with gradient_shares(model) as shares:
        ...     model(torch.randn(32, 4)).square().mean().backward()
        >>> list(shares)
        ['1']
    """
    sums: dict[str, Tensor] = {}
    found: dict[str, GradientShares] = {}

    def watch(name: str, module: nn.Module, inputs: Sequence[Any], output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            x = inputs[0].detach()

            def add(gradient: Tensor) -> None:
                energies = _energies(module, x, gradient)
                sums[name] = sums[name] + energies if name in sums else energies

            output.register_hook(add)

    handles = [
        module.register_forward_hook(
            lambda module, inputs, named, output, name=name: watch(name, module, [*inputs, *named.values()], output),
            with_kwargs=True,
        )
        for name, module in model.named_modules()
        if is_watched(module)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for name, energies in sums.items():
        whole, constant, along = energies.tolist()
        # An infinite input, which an element-wise norm can process, has no direction.
        if whole > 0 and math.isfinite(whole + constant + along):
            found[name] = GradientShares(recentering=constant / whole, rescaling=along / whole)


def _energies(module: nn.Module, x: Tensor, gradient: Tensor) -> Tensor:
    """Return the squared lengths of g and of its parts along the constant vector and y: ``[3]`` float64."""
    with torch.no_grad():
        shape = getattr(module, "normalized_shape", None)
        size = torch.Size(shape if isinstance(shape, tuple | list) else x.shape[-1:]).numel()
        g, rows = gradient.double(), x.double().reshape(-1, size)
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.numel() in (1, size):
            g = g * weight.double()
        g = g.reshape(-1, size)
        centered = rows - rows.mean(-1, keepdim=True)
        unit = nn.functional.normalize(centered, dim=-1, eps=1e-300)
        traits = traits_of(module)
        if traits is not None and traits.has_factor:
            y = unit * size**0.5
            g = g * (module.scale * (1 - (1 + traits.factor_moves) * module.k * y))  # pyright: ignore
        return torch.stack([g.square().sum(), g.sum(-1).square().sum() / size, (g * unit).sum(-1).square().sum()])
