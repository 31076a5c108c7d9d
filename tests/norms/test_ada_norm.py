"""AdaNorm's factor scales its output and is a constant in the backward pass."""

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from normscope.norms import AdaNorm, ada_norm


def released_code(x: Tensor, scale: float, k: float, eps: float) -> Tensor:
    """Compute as the authors' ``LayerNormImpl.forward`` does in its mode ``adanorm``, step by step."""
    mean = x.mean(-1, keepdim=True)
    std = x.std(-1, keepdim=True)
    x = x - mean
    mean = x.mean(-1, keepdim=True)
    gradient_scale = (k * (x - mean) / (std + eps)).detach()
    return scale * (x - x * gradient_scale) / (std + eps)


def paper(x: Tensor, scale: float, k: float, eps: float) -> Tensor:
    y = F.layer_norm(x, x.shape[-1:], eps=eps)
    return (scale * (1 - k * y)).detach() * y


@pytest.mark.parametrize("backend", ["eager", None])
@pytest.mark.parametrize(("convention", "oracle"), [("paper", paper), ("released", released_code)])
@pytest.mark.parametrize(("scale", "k", "eps"), [(1.0, 0.1, 1e-5), (2.0, 0.3, 0.4)])
def test_values_and_gradients_are_the_conventions(
    convention, oracle, scale: float, k: float, eps: float, backend
) -> None:
    x = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(4, 7, dtype=torch.float64)
    ours = AdaNorm(7, eps, scale=scale, k=k, convention=convention, backend=backend)(x)
    theirs = oracle(x, scale, k, eps)
    # Float64 sums of seven terms of order one.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    (got,), (want,) = (torch.autograd.grad(z, x, upstream) for z in (ours, theirs))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_the_conventions_differ() -> None:
    x = torch.randn(4, 8, dtype=torch.float64)
    # The unbiased deviation is larger by sqrt(8 / 7).
    y, other = ada_norm(x, 0.0, k=0.0), ada_norm(x, 0.0, k=0.0, convention="released")
    torch.testing.assert_close(y / other, torch.full_like(y, (8 / 7) ** 0.5), rtol=1e-13, atol=0)


def test_a_row_by_hand() -> None:
    # y = (-1, 1), so C (1 - k y) = 2 (1.1, 0.9) and z = (-2.2, 1.8).
    z = ada_norm(torch.tensor([2.0, 6.0], dtype=torch.float64), 0.0, scale=2.0)
    torch.testing.assert_close(z, torch.tensor([-2.2, 1.8], dtype=torch.float64), rtol=1e-15, atol=0)


def test_without_slope_it_is_layer_norm_simple_times_a_constant() -> None:
    x = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(AdaNorm(7, scale=3.0, k=0)(x), 3 * F.layer_norm(x, (7,)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("convention", ["paper", "released"])
def test_several_axes_are_one_row(convention: Literal["paper", "released"]) -> None:
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    want = ada_norm(x.flatten(1), convention=convention).view_as(x)
    torch.testing.assert_close(ada_norm(x, convention=convention, axes=2), want)
    torch.testing.assert_close(AdaNorm((3, 4), convention=convention)(x), want)


def test_the_function_knows_the_conventions_too() -> None:
    with pytest.raises(ValueError, match="convention must be 'paper' or 'released', got 'Paper'"):
        ada_norm(torch.randn(2, 3), convention="Paper")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_constant_row_is_finite_in_the_released_convention_too(dtype: torch.dtype) -> None:
    x = torch.full((2, 7), 3.0, dtype=dtype, requires_grad=True)
    z = AdaNorm(7, convention="released")(x)
    z.backward(torch.randn_like(z))
    assert z.tolist() == [[0.0] * 7] * 2
    assert x.grad.isfinite().all()


ATTACHED = pytest.mark.parametrize(("scale", "k"), [(1.0, 0.0), (1.0, 0.1), (2.0, 0.3)])


@pytest.mark.parametrize("backend", ["eager", None])
@pytest.mark.parametrize("convention", ["paper", "released"])
@ATTACHED
def test_attached_the_gradient_is_that_of_the_written_equation(scale: float, k: float, convention, backend) -> None:
    x = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(4, 7, dtype=torch.float64)
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    deviation = (variance + 1e-5).sqrt() if convention == "paper" else (variance * 7 / 6).sqrt() + 1e-5
    y = (x - mean) / deviation
    want = scale * y - scale * k * y.square()
    got = AdaNorm(7, scale=scale, k=k, convention=convention, detach=False, backend=backend)(x)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)
    ours, theirs = (torch.autograd.grad(z, x, upstream, create_graph=True)[0] for z in (got, want))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    ours, theirs = (torch.autograd.grad(one, x, upstream.flip(0))[0] for one in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@ATTACHED
def test_attached_the_gradient_is_that_of_twice_the_slope_detached(scale: float, k: float) -> None:
    x = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(4, 7, dtype=torch.float64)
    attached, detached = AdaNorm(7, scale=scale, k=k, detach=False)(x), AdaNorm(7, scale=scale, k=2 * k)(x)
    (got,), (want,) = (torch.autograd.grad(z, x, upstream) for z in (attached, detached))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


def test_attaching_changes_no_value_beyond_rounding_and_rounds_once() -> None:
    x = torch.randn(64, 33)
    torch.testing.assert_close(AdaNorm(33, detach=False)(x), AdaNorm(33)(x), rtol=0, atol=4 * 2**-23)
    half = x.bfloat16()
    assert torch.equal(AdaNorm(33, detach=False)(half), AdaNorm(33, detach=False)(half.float()).bfloat16())


def test_attached_with_a_residual_it_is_two_calls() -> None:
    x, residual = torch.randn(2, 4, 7)
    z, total = AdaNorm(7, detach=False)(x, residual)
    assert torch.equal(total, x + residual)
    assert torch.equal(z, AdaNorm(7, detach=False)(total))


def test_has_nothing_to_learn() -> None:
    assert AdaNorm(7).state_dict() == {}


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_a_scale_that_is_not_positive(scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale must be finite and above 0, got {scale}"):
        AdaNorm(7, scale=scale)


@pytest.mark.parametrize("k", [-0.1, float("inf"), float("nan")])
def test_refuses_a_negative_slope(k: float) -> None:
    with pytest.raises(ValueError, match=f"k must be finite and at least 0, got {k}"):
        AdaNorm(7, k=k)


def test_refuses_an_unknown_convention() -> None:
    with pytest.raises(ValueError, match="convention must be 'paper' or 'released', got 'lancopku'"):
        AdaNorm(7, convention="lancopku")


def test_refuses_a_row_of_one_where_its_deviation_is_undefined() -> None:
    with pytest.raises(ValueError, match="'released' needs at least two entries per row, got normalized_shape 1"):
        AdaNorm(1, convention="released")
    assert AdaNorm(1)(torch.ones(2, 1)).tolist() == [[0.0], [0.0]]
