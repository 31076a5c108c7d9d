"""Rows against torch's own moments, and the derivative against autograd."""

import pytest
import torch
from torch import nn

from normscope.inspection.derivative import (
    as_rows,
    derivative_of,
    factor_of,
    fixed_moments,
    has_known_derivative,
    through_weight,
)
from normscope.inspection.find import find_norms
from normscope.inspection.norm_in_model import NormInModel
from support.made_norms import MADE


def of(key: str) -> tuple[NormInModel, torch.Tensor]:
    torch.manual_seed(0)
    make, shape = MADE[key]
    module = make().double()
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return find_norms(module)[0][0], torch.randn(shape, dtype=torch.float64) * 2 + 0.7


@pytest.mark.parametrize("key", MADE)
def test_the_derivative_is_that_of_autograd(key: str) -> None:
    norm, x = of(key)
    x.requires_grad_()
    z = norm.module(x)
    upstream = torch.randn_like(z)
    (want,) = torch.autograd.grad(z, x, upstream)
    rows = as_rows(norm, x.detach())
    own = derivative_of(norm, rows)
    g = as_rows(norm, through_weight(norm, upstream)) * factor_of(norm, own.y)
    center = g.mean(-1, keepdim=True) if own.centers else 0.0
    told = (g - center - own.along(g) * own.y) / own.size
    if norm.traits.holds_size and norm.traits.detaches_mean:
        # Where the common size of the means is held, too, a number per row is added, which no law is about.
        told, want = (each - each.mean(-1, keepdim=True) for each in (told, as_rows(norm, want)))
    torch.testing.assert_close(told, as_rows(norm, want), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("key", MADE)
def test_rows_are_what_the_norm_standardizes(key: str) -> None:
    norm, x = of(key)
    if norm.weight_name is not None:
        nn.init.ones_(getattr(norm.module, norm.weight_name))
    if norm.bias_name is not None:
        nn.init.zeros_(getattr(norm.module, norm.bias_name))
    own = derivative_of(norm, as_rows(norm, x))
    if norm.kind == "scale_norm":
        want = own.y / 8**0.5
    else:
        # A factor with its derivative multiplies the gradient by C (1 - 2 k y), and y by C (1 - k y).
        want = own.y * factor_of(norm, own.y / (1 + norm.traits.factor_moves))
    if fixed_moments(norm) is None:
        torch.testing.assert_close(want, as_rows(norm, norm.module(x)))
    assert has_known_derivative(norm)


def test_half_precision_is_widened() -> None:
    norm = find_norms(nn.LayerNorm(8))[0][0]
    assert as_rows(norm, torch.zeros(2, 8, dtype=torch.float16)).dtype == torch.float32
