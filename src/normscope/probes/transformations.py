"""What may be done to weights and data that a norm may not notice: the columns of Table 1 of Ba et al. (2016)."""

from collections.abc import Callable

import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]

TRANSFORMATIONS: dict[str, str] = {
    "weight_matrix_rescaling": "all weights times one factor",
    "weight_matrix_recentering": "the same shift of the weights of every unit",
    "weight_vector_rescaling": "the weights of one unit times a factor",
    "data_rescaling": "all data times one factor",
    "data_recentering": "a shift of every feature of the data",
    "case_rescaling": "one case times a factor",
    "feature_rescaling": "one feature times a factor",
    "uniform_recentering": "one number added to all data",
    "case_recentering": "one number added to all features of one case",
}
"""The six of Table 1 in its order, then three that tell norms apart without weights before them."""


def data_changes(x: Tensor, factor: float, generator: torch.Generator) -> dict[str, Change]:
    """List what is done to data like ``x``; shifts are of its size, and have a mean.

    Args:
        x: ``[cases, ..., features]``.
        factor: What is multiplied by.
        generator: Draws the shift of every feature, on the CPU.

    Returns:
        From the names of :data:`TRANSFORMATIONS` that concern data to functions of float64 data.
    """
    size = x.detach().double().square().mean().sqrt()
    shift = size * (1 + torch.randn(x.shape[-1], dtype=torch.float64, generator=generator)).to(x.device)
    first_case = torch.zeros(x.shape[0], *[1] * (x.dim() - 1), dtype=torch.float64, device=x.device)
    first_case[0] = 1
    one_feature = torch.zeros(x.shape[-1], dtype=torch.float64, device=x.device)
    one_feature[x.shape[-1] // 2] = 1
    return {
        "data_rescaling": lambda data: factor * data,
        "data_recentering": lambda data: data + shift,
        "case_rescaling": lambda data: data * (1 + (factor - 1) * first_case),
        "feature_rescaling": lambda data: data * (1 + (factor - 1) * one_feature),
        "uniform_recentering": lambda data: data + factor * size,
        "case_recentering": lambda data: data + factor * size * first_case,
    }


def weight_changes(weight: Tensor, factor: float, generator: torch.Generator) -> dict[str, Change]:
    """List what is done to weights like ``weight``; the shift is of its size.

    Args:
        weight: ``[units, ...]``, float64.
        factor: What is multiplied by.
        generator: Draws the shift that every unit gets, on the CPU.

    Returns:
        From the names of :data:`TRANSFORMATIONS` that concern weights to functions of the weights.
    """
    shift = torch.randn(1, *weight.shape[1:], dtype=torch.float64, generator=generator).to(weight.device)
    shift = shift * weight.square().mean().sqrt()
    one_unit = torch.ones(weight.shape[0], *[1] * (weight.dim() - 1), dtype=torch.float64, device=weight.device)
    one_unit[weight.shape[0] // 2] = factor
    return {
        "weight_matrix_rescaling": lambda weight: factor * weight,
        "weight_matrix_recentering": lambda weight: weight + shift,
        "weight_vector_rescaling": lambda weight: weight * one_unit,
    }
