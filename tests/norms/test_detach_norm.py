"""DetachNorm's forward pass is LayerNorm-simple's; its backward pass is not."""

import pytest
import torch
from torch.nn import functional as F

from normscope.norms import DetachNorm, detach_norm

ALL = [(mean, std) for mean in (False, True) for std in (False, True)]


@pytest.mark.parametrize(("mean", "std"), ALL)
def test_forward_is_layer_norm_simple(mean: bool, std: bool) -> None:
    x = torch.randn(4, 7, dtype=torch.float64)
    # Float64 sums of seven terms of order one.
    torch.testing.assert_close(DetachNorm(7, mean=mean, std=std)(x), F.layer_norm(x, (7,)), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("mean", "std"), ALL)
def test_gradient_is_that_of_torchs_moments_detached(mean: bool, std: bool) -> None:
    x = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(4, 7, dtype=torch.float64)
    variance, mu = torch.var_mean(x, -1, correction=0, keepdim=True)
    sigma = (variance + 1e-5).sqrt()
    other = (x - (mu.detach() if mean else mu)) / (sigma.detach() if std else sigma)
    (want,) = torch.autograd.grad(other, x, upstream)
    (got,) = torch.autograd.grad(DetachNorm(7, mean=mean, std=std)(x), x, upstream)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


def test_with_both_detached_the_gradient_is_a_division() -> None:
    # By hand: the row has deviation 2, so the upstream gradient is halved.
    x = torch.tensor([2.0, 6.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(detach_norm(x, 0.0), x, torch.tensor([3.0, -8.0], dtype=torch.float64))
    assert gradient.tolist() == [1.5, -4.0]


def test_forward_mode_sees_the_same_constants() -> None:
    x = torch.randn(4, 7, dtype=torch.float64)
    direction = torch.randn(4, 7, dtype=torch.float64)
    _, tangent = torch.func.jvp(lambda t: detach_norm(t, 0.0), (x,), (direction,))
    torch.testing.assert_close(tangent, direction / x.std(-1, correction=0, keepdim=True), rtol=1e-13, atol=0)


def test_keeps_nothing_of_the_size_of_its_input_but_what_one_product_needs() -> None:
    x = torch.randn(64, 128, dtype=torch.float64, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        detach_norm(x)
    assert sum(saved) == 64


def test_has_nothing_to_learn() -> None:
    assert DetachNorm(7).state_dict() == {}
