"""Shares against gradients computed by autograd; measuring them changes nothing."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope import norms
from normscope.diagnostics import GradientShares, gradient_shares
from normscope.diagnostics.gradients.shares import is_watched
from normscope.norms import NORMS


def seen(module: nn.Module, x: torch.Tensor, upstream: torch.Tensor) -> GradientShares:
    with gradient_shares(nn.ModuleDict({"norm": module})) as found:
        module(x).backward(upstream)
    return found["norm"]


def row(width: int = 16, rows: int = 5):
    x = torch.randn(rows, width, dtype=torch.float64, requires_grad=True)
    return x, torch.randn(rows, width, dtype=torch.float64)


def test_shares_are_what_a_layer_norm_removes() -> None:
    x, g = row()
    told = seen(norms.LayerNormSimple(16, eps=0.0), x, g)
    assert x.grad is not None
    sigma = x.detach().std(-1, correction=0, keepdim=True)
    # The removed parts are orthogonal to each other and to what arrives.
    arrived = (x.grad * sigma).square().sum() / g.square().sum()
    assert told.recentering + told.rescaling + float(arrived) == pytest.approx(1.0, abs=1e-12)
    assert told.recentering == pytest.approx(float(16 * g.mean(-1).square().sum() / g.square().sum()))


def test_detach_norm_keeps_what_layer_norm_simple_removes() -> None:
    x, g = row()
    simple, detached = seen(norms.LayerNormSimple(16, eps=0.0), x, g), seen(norms.DetachNorm(16, eps=0.0), x, g)
    assert simple == detached


def test_gradients_along_the_two_directions() -> None:
    x, _ = row()
    y = F.layer_norm(x.detach(), (16,), eps=0.0)
    constant = seen(norms.LayerNormSimple(16), x, torch.ones_like(y))
    assert (constant.recentering, constant.rescaling) == pytest.approx((1.0, 0.0), abs=1e-12)
    along = seen(norms.LayerNormSimple(16), x, y)
    assert (along.recentering, along.rescaling) == pytest.approx((0.0, 1.0), abs=1e-12)


@pytest.mark.parametrize("ours", [True, False])
def test_the_weight_is_part_of_the_gradient(ours: bool) -> None:
    x, g = row()
    layer = (norms.LayerNorm if ours else nn.LayerNorm)(16, eps=0.0, dtype=torch.float64)
    nn.init.normal_(layer.weight)
    assert seen(layer, x, g) == seen(norms.LayerNormSimple(16, eps=0.0), x, g * layer.weight.detach())


def test_the_factor_of_ada_norm_is_part_of_the_gradient() -> None:
    x, g = row()
    y = F.layer_norm(x.detach(), (16,), eps=0.0)
    told = seen(norms.AdaNorm(16, eps=0.0, scale=2.0, k=0.3), x, g)
    want = seen(norms.LayerNormSimple(16, eps=0.0), x, g * 2.0 * (1 - 0.3 * y))
    assert (told.recentering, told.rescaling) == pytest.approx((want.recentering, want.rescaling), rel=1e-12)
    attached = seen(norms.AdaNorm(16, eps=0.0, scale=2.0, k=0.15, detach=False), x, g)
    assert (attached.recentering, attached.rescaling) == pytest.approx((want.recentering, want.rescaling), rel=1e-12)


def test_a_random_gradient_has_one_part_in_h_of_each() -> None:
    x, g = row(64, 20_000)
    told = seen(norms.NoNorm(64), x * 1.0, g)
    # Twenty thousand rows of 64: a relative standard error of sqrt(2 / 20000) = 1 %.
    assert told.recentering == pytest.approx(1 / 64, rel=0.05)
    assert told.rescaling == pytest.approx(1 / 64, rel=0.05)


def test_measuring_changes_nothing_and_leaves_no_hooks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), norms.LayerNorm(12), nn.ReLU(), norms.BatchNorm(12), nn.Linear(12, 3))
    twin = copy.deepcopy(model)
    x, g = torch.randn(6, 8), torch.randn(6, 3)
    with gradient_shares(model) as found:
        model(x).backward(g)
    twin(x).backward(g)
    assert list(found) == ["3", "1"]
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert all(not module._forward_hooks for module in model.modules())
    again = copy.deepcopy(found)
    model(x).backward(g)
    assert found == again


def test_a_norm_without_gradient_is_left_out() -> None:
    model = nn.Sequential(norms.LayerNormSimple(8), nn.Linear(8, 2))
    with gradient_shares(model) as found:
        model(torch.randn(3, 8)).backward(torch.randn(3, 2))
    assert found == {}
    with gradient_shares(model) as found, torch.no_grad():
        model(torch.randn(3, 8))
    assert found == {}


def test_hooks_go_when_the_block_fails() -> None:
    model = nn.Sequential(norms.LayerNormSimple(8))
    with pytest.raises(RuntimeError, match="stop"), gradient_shares(model):
        raise RuntimeError("stop")
    assert not model[0]._forward_hooks


def test_every_norm_of_the_catalogue_is_looked_at_but_frn() -> None:
    assert {name for name, entry in NORMS.items() if not is_watched(entry(8))} == {"frn"}


def test_a_norm_called_by_keyword_is_looked_at() -> None:
    x, g = row()
    module = norms.LayerNormSimple(16)
    with gradient_shares(nn.ModuleList([module])) as found:
        module(x=x).backward(g)
    assert list(found) == ["0"]


def test_an_input_without_direction_is_left_out() -> None:
    x, g = row()
    infinite = torch.where(torch.arange(16) == 3, torch.inf, x.detach()).requires_grad_()
    with gradient_shares(nn.ModuleList([module := norms.DyT(16, dtype=torch.float64)])) as found:
        module(infinite).backward(g)
    assert found == {}
