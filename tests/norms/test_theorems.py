"""What Xu et al. (2019) prove about gradients, and what follows from their definitions, to rounding in float64."""

import pytest
import torch
from torch import Tensor

from normscope.norms import AdaNorm, DetachNorm, LayerNormSimple, ada_norm

H = 512
SCALE, K = 1.5, 0.1

# Float64 means over 512 entries of order one.
EXACT = {"rtol": 0, "atol": 1e-13}


@pytest.fixture
def x() -> Tensor:
    return 3 + 2 * torch.randn(16, H, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def g(x: Tensor) -> Tensor:
    """Return an upstream gradient with a mean and a share of y, so that no term of the theorem vanishes."""
    noise = torch.randn(16, H, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return 0.7 + noise + 0.5 * standardized(x)


def standardized(x: Tensor) -> Tensor:
    return (x - mean(x)) / sigma(x)


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def sigma(x: Tensor) -> Tensor:
    return x.std(-1, correction=0, keepdim=True)


def variance(x: Tensor) -> Tensor:
    return x.var(-1, correction=0, keepdim=True)


def input_gradient(function, x: Tensor, upstream: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x, upstream)
    return gradient


CASES = {
    "detach both": DetachNorm(H, 0.0),
    "standard": LayerNormSimple(H, 0.0),
    "standard, by flags": DetachNorm(H, 0.0, mean=False, std=False),
    "detach mean": DetachNorm(H, 0.0, std=False),
    "detach std": DetachNorm(H, 0.0, mean=False),
}


@pytest.mark.parametrize("case", CASES)
def test_theorem_1_means_and_variances(case: str, x: Tensor, g: Tensor) -> None:
    gradient = input_gradient(CASES[case], x, g)
    recenters = case in ("standard", "standard, by flags", "detach std")
    want = torch.zeros_like(mean(g)) if recenters else mean(g) / sigma(x)
    torch.testing.assert_close(mean(gradient), want, **EXACT)
    rescales = case in ("standard", "standard, by flags", "detach mean")
    lost = mean(g * standardized(x)).square() if rescales else torch.zeros_like(mean(g))
    torch.testing.assert_close(variance(gradient), (variance(g) - lost) / sigma(x).square(), **EXACT)


def test_theorem_1_the_standard_case_shrinks_the_variance_unless_the_gradient_is_uncorrelated(
    x: Tensor, g: Tensor
) -> None:
    y = standardized(x)
    bound = variance(g) / sigma(x).square()
    assert (variance(input_gradient(CASES["standard"], x, g)) < 0.9 * bound).all()
    uncorrelated = g - mean(g * y) * y
    gradient = input_gradient(CASES["standard"], x, uncorrelated)
    torch.testing.assert_close(variance(gradient), variance(uncorrelated) / sigma(x).square(), **EXACT)


@pytest.mark.parametrize("case", CASES)
def test_input_gradients_have_the_closed_forms(case: str, x: Tensor, g: Tensor) -> None:
    y = standardized(x)
    forms = {
        "detach both": g,
        "standard": g - mean(g) - y * mean(g * y),
        "standard, by flags": g - mean(g) - y * mean(g * y),
        "detach mean": g - y * mean(g * y),
        "detach std": g - mean(g),
    }
    torch.testing.assert_close(input_gradient(CASES[case], x, g), forms[case] / sigma(x), **EXACT)


def ada_gradient(x: Tensor, g: Tensor, slope: float) -> Tensor:
    """Return the closed form for the factor C (1 - slope y)."""
    y = standardized(x)
    effective = g * SCALE * (1 - slope * y)
    return (effective - mean(effective) - y * mean(effective * y)) / sigma(x)


def attached(x: Tensor) -> Tensor:
    """Compute AdaNorm without the detach: the same values, another gradient."""
    y = standardized(x)
    return SCALE * (1 - K * y) * y


def test_ada_norm_detaches_its_factor_and_the_attached_variant_is_found_out(x: Tensor, g: Tensor) -> None:
    norm = AdaNorm(H, 0.0, scale=SCALE, k=K)
    torch.testing.assert_close(norm(x), attached(x), **EXACT)
    torch.testing.assert_close(input_gradient(norm, x, g), ada_gradient(x, g, K), **EXACT)
    wrong = input_gradient(attached, x, g)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(wrong, ada_gradient(x, g, K), **EXACT)
    torch.testing.assert_close(wrong, ada_gradient(x, g, 2 * K), **EXACT)


def test_ada_norm_moments_follow_from_the_linear_factor(x: Tensor) -> None:
    y, z = standardized(x), ada_norm(x, 0.0, scale=SCALE, k=K)
    torch.testing.assert_close(mean(z / y), torch.full((16, 1), SCALE, dtype=torch.float64), rtol=0, atol=1e-11)
    torch.testing.assert_close(mean(z), torch.full((16, 1), -SCALE * K, dtype=torch.float64), **EXACT)
    second = SCALE**2 * (1 - 2 * K * mean(y**3) + K**2 * mean(y**4))
    torch.testing.assert_close(mean(z**2), second, **EXACT)


@pytest.mark.parametrize(("width", "negative"), [(100, False), (101, False), (102, True), (512, True)])
def test_the_factor_can_be_negative_only_above_a_width_of_1_plus_1_over_k_squared(width: int, negative: bool) -> None:
    # A one-hot row has the largest entry there is, sqrt(H - 1); z and y then differ in sign. At 101 the factor is zero.
    one_hot = torch.zeros(width, dtype=torch.float64)
    one_hot[0] = 1
    z = ada_norm(one_hot, 0.0)
    assert (z[0] < -1e-12) == negative


def test_released_convention_has_its_own_mean(x: Tensor) -> None:
    z = ada_norm(x, 0.0, scale=SCALE, k=K, convention="released")
    want = torch.full((16, 1), -SCALE * K * (H - 1) / H, dtype=torch.float64)
    torch.testing.assert_close(mean(z), want, **EXACT)


def test_released_convention_has_its_own_backward_pass(x: Tensor, g: Tensor) -> None:
    eps = 0.3
    norm = AdaNorm(H, eps, scale=SCALE, k=K, convention="released")
    centered, s = x - mean(x), x.std(-1, correction=1, keepdim=True)
    divisor = s + eps
    effective = g * SCALE * (1 - K * centered / divisor)
    projection = (effective * centered).sum(-1, keepdim=True)
    want = (effective - mean(effective)) / divisor - centered * projection / ((H - 1) * s * divisor.square())
    gradient = input_gradient(norm, x, g)
    torch.testing.assert_close(gradient, want, **EXACT)
    torch.testing.assert_close(mean(gradient), torch.zeros(16, 1, dtype=torch.float64), **EXACT)
