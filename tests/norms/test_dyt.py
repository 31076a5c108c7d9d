"""DyT squashes entries and takes no statistics."""

import numpy as np
import pytest
import torch

from normscope.norms import DyT


def spread(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.rand_like(parameter))
    return module


def test_is_its_equation_and_the_derivative_of_tanh() -> None:
    module = spread(DyT(7, dtype=torch.float64))
    x = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    alpha, weight, bias = (p.detach().numpy() for p in (module.alpha, module.weight, module.bias))
    squashed = np.tanh(alpha * x.detach().numpy())
    # Two libraries' tanh differ by an ulp or two.
    np.testing.assert_allclose(module(x).detach(), weight * squashed + bias, rtol=1e-14, atol=1e-15)
    upstream = torch.randn(4, 7, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(module(x), x, upstream)
    want = upstream.numpy() * weight * alpha * (1 - squashed**2)
    np.testing.assert_allclose(gradient, want, rtol=1e-13, atol=1e-15)


def test_starts_at_half_the_slope_with_the_keys_of_the_released_code() -> None:
    state = DyT(3).state_dict()
    assert {key: value.tolist() for key, value in state.items()} == {
        "alpha": [0.5],
        "weight": [1.0, 1.0, 1.0],
        "bias": [0.0, 0.0, 0.0],
    }
    assert DyT(3, alpha=0.2).alpha.tolist() == pytest.approx([0.2])


def test_an_entry_depends_on_no_other_entry() -> None:
    module = spread(DyT(7))
    x = torch.randn(4, 7)
    changed = x.clone()
    changed[:, 0] += 1
    assert torch.equal(module(x)[:, 1:], module(changed)[:, 1:])


def test_refuses_a_slope_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match="alpha must be finite, got nan"):
        DyT(7, alpha=float("nan"))
