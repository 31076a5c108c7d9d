"""Derf squashes entries with the error function and takes no statistics."""

import numpy as np
import pytest
import torch
from scipy import special

from normscope.norms import Derf


def spread(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.rand_like(parameter))
    return module


def test_is_its_equation_and_the_derivative_of_erf() -> None:
    module = spread(Derf(7, dtype=torch.float64))
    x = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    parts = (module.alpha, module.shift, module.weight, module.bias)
    alpha, shift, weight, bias = (p.detach().numpy() for p in parts)
    inner = alpha * x.detach().numpy() + shift
    # Two libraries' erf differ by an ulp or two.
    np.testing.assert_allclose(module(x).detach(), weight * special.erf(inner) + bias, rtol=1e-13, atol=1e-15)
    upstream = torch.randn(4, 7, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(module(x), x, upstream)
    want = upstream.numpy() * weight * alpha * 2 / np.sqrt(np.pi) * np.exp(-(inner**2))
    np.testing.assert_allclose(gradient, want, rtol=1e-13, atol=1e-15)


def test_starts_at_half_the_slope_and_no_shift() -> None:
    state = Derf(2).state_dict()
    assert {key: value.tolist() for key, value in state.items()} == {
        "alpha": [0.5],
        "shift": [0.0],
        "weight": [1.0, 1.0],
        "bias": [0.0, 0.0],
    }


def test_the_shift_moves_the_value_at_zero() -> None:
    module = Derf(2, shift=0.4, dtype=torch.float64)
    want = torch.full((1, 2), special.erf(0.4), dtype=torch.float64)
    torch.testing.assert_close(module(torch.zeros(1, 2, dtype=torch.float64)), want, rtol=1e-14, atol=0)


def test_an_entry_depends_on_no_other_entry() -> None:
    module = spread(Derf(7))
    x = torch.randn(4, 7)
    changed = x.clone()
    changed[:, 0] += 1
    assert torch.equal(module(x)[:, 1:], module(changed)[:, 1:])


@pytest.mark.parametrize(("alpha", "shift"), [(float("inf"), 0.0), (0.5, float("nan"))])
def test_refuses_starts_that_are_not_finite(alpha: float, shift: float) -> None:
    with pytest.raises(ValueError, match=r"(alpha|shift) must be finite, got (nan|inf|-inf)"):
        Derf(7, alpha=alpha, shift=shift)
