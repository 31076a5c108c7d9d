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


HELD = pytest.mark.parametrize("mean", [True, False])


def rows() -> torch.Tensor:
    """Build rows of very different sizes, so that a row's share of the common size is not that of another."""
    sizes = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)[:, None, None]
    return (sizes * torch.randn(3, 4, 7, dtype=torch.float64) + 2).requires_grad_()


@HELD
def test_held_the_gradient_is_projected_on_what_leaves_the_common_sizes(mean: bool) -> None:
    x, upstream = rows(), torch.randn(3, 4, 7, dtype=torch.float64)
    (free,) = torch.autograd.grad(DetachNorm(7, 0.0, mean=mean)(x), x, upstream)
    (held,) = torch.autograd.grad(DetachNorm(7, 0.0, mean=mean, hold_size=True)(x), x, upstream)
    means = x.detach().mean(-1, keepdim=True).expand_as(x)
    # The closed form: of the gradient as one vector, the parts along these directions are gone, and nothing else.
    directions = [x.detach() - means, *([means] if mean else [])]
    want = free - sum(along * (free * along).sum() / along.square().sum() for along in directions)
    torch.testing.assert_close(held, want, rtol=0, atol=1e-12)
    for along in directions:
        assert abs(float((held * along).sum())) < 1e-11
        assert abs(float((free * along).sum())) > 1e-2


@HELD
def test_held_with_eps_the_projection_is_that_of_the_deviation(mean: bool) -> None:
    x, upstream = rows(), torch.randn(3, 4, 7, dtype=torch.float64)
    (held,) = torch.autograd.grad(DetachNorm(7, 0.5, mean=mean, hold_size=True)(x), x, upstream)
    sigma = (x.detach().var(-1, correction=0, keepdim=True) + 0.5).sqrt()
    means = x.detach().mean(-1, keepdim=True).expand_as(x)
    centered = x.detach() - means
    want = (upstream if mean else upstream - upstream.mean(-1, keepdim=True)) / sigma
    want = want - centered * (upstream * centered / sigma).sum() / centered.square().sum()
    want = want - means * (upstream * means / sigma).sum() / means.square().sum() * mean
    torch.testing.assert_close(held, want, rtol=0, atol=1e-12)


@HELD
def test_held_the_values_are_the_same(mean: bool) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = rows().detach().to(dtype)
        assert torch.equal(DetachNorm(7, mean=mean, hold_size=True)(x), DetachNorm(7, mean=mean, backend="eager")(x))


def test_held_a_single_row_has_layer_norms_gradient() -> None:
    x, upstream = (torch.randn(1, 9, dtype=torch.float64, requires_grad=True) for _ in range(2))
    want = torch.autograd.grad(F.layer_norm(x, (9,), eps=0.0), x, upstream)
    got = torch.autograd.grad(DetachNorm(9, 0.0, mean=False, hold_size=True)(x), x, upstream)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


@HELD
def test_held_the_gradient_does_not_lengthen_the_weights_before_it(mean: bool) -> None:
    x, y = torch.randn(64, 5, dtype=torch.float64), torch.randint(3, (64,))
    layer, head = torch.nn.Linear(5, 8).double(), torch.nn.Linear(8, 3).double()
    growth = {}
    for held in (True, False):
        norm = DetachNorm(8, 0.0, mean=mean, hold_size=held)
        gradients = torch.autograd.grad(F.cross_entropy(head(norm(layer(x))), y), list(layer.parameters()))
        growth[held] = -sum(
            float((one * p.detach()).sum()) for one, p in zip(gradients, layer.parameters(), strict=True)
        )
    assert abs(growth[True]) < 1e-12
    assert abs(growth[False]) > 1e-3


def test_held_with_a_residual_it_is_two_calls() -> None:
    x, residual = torch.randn(2, 4, 7, dtype=torch.float64)
    sides, upstream = [], torch.randn(4, 7, dtype=torch.float64)
    norm = DetachNorm(7, hold_size=True)
    for joined in (True, False):
        leaf = x.clone().requires_grad_()
        z, total = norm(leaf, residual) if joined else (norm(leaf + residual), leaf + residual)
        sides.append((z, total, *torch.autograd.grad([z, total], leaf, [upstream, upstream.flip(0)])))
    for one, other in zip(*sides, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


@pytest.mark.parametrize("x", [torch.zeros(2, 7), torch.full((2, 7), 3.0), torch.zeros(0, 7)])
def test_held_rows_without_a_size_have_a_finite_gradient(x: torch.Tensor) -> None:
    x.requires_grad_()
    z = DetachNorm(7, hold_size=True)(x)
    z.backward(torch.randn_like(z))
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_no_kernel_holds_the_size() -> None:
    with pytest.raises(ValueError, match="no kernel holds the size: leave backend='cpu' out"):
        DetachNorm(7, hold_size=True, backend="cpu")
    assert DetachNorm(7, hold_size=True, backend="eager").traits.formula is None


def test_a_deviation_with_its_derivative_holds_every_size_already() -> None:
    with pytest.raises(ValueError, match="hold_size needs std=True"):
        DetachNorm(7, std=False, hold_size=True)


def test_has_nothing_to_learn() -> None:
    assert DetachNorm(7).state_dict() == {}
