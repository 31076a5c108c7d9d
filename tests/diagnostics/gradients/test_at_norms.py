"""Gradients before and after norms against autograd on isolated norms, and the exact law."""

import pytest
import torch
from torch import nn

from normscope import norms
from normscope.diagnostics import NormGradients, gradient_shares
from normscope.diagnostics.gradients.at_norms import LostGradient, gradients_at_norms, watch_gradients
from support.made_norms import MADE


def told(module: nn.Module, x: torch.Tensor, upstream: torch.Tensor) -> list[NormGradients]:
    with watch_gradients(module) as seen:
        module(x).backward(upstream)
    return seen


@pytest.mark.parametrize("key", MADE)
def test_the_law_holds_for_every_norm(key: str) -> None:
    torch.manual_seed(1)
    make, shape = MADE[key]
    module = make().double()
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    x = (torch.randn(shape, dtype=torch.float64) * 2 + 0.7).requires_grad_()
    (seen,) = told(nn.Sequential(nn.Identity(), module), x, torch.randn(shape, dtype=torch.float64))
    assert seen.law_error is not None
    # Float64, a few thousand terms of both signs.
    assert seen.law_error < 1e-10


def test_the_numbers_of_a_layer_norm_are_those_of_the_theorem() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 16, dtype=torch.float64, requires_grad=True)
    g = torch.randn(7, 16, dtype=torch.float64) + 0.3
    (seen,) = told(norms.LayerNormSimple(16, eps=0.0), x, g)
    assert x.grad is not None
    sigma = x.detach().std(-1, correction=0)
    y = (x.detach() - x.detach().mean(-1, keepdim=True)) / sigma[:, None]
    rho = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(g, y, strict=True)])
    spread = g.var(-1, correction=0)
    assert seen.arriving_variance == pytest.approx(float(x.grad.var(-1, correction=0).mean()))
    assert seen.law_variance == pytest.approx(float((spread / sigma**2 * (1 - rho**2)).mean()))
    assert seen.upstream_variance == pytest.approx(float(spread.mean()))
    assert seen.upstream_mean == pytest.approx(float(g.mean(-1).square().mean().sqrt()))
    assert seen.arriving_mean == pytest.approx(0.0, abs=1e-15)
    assert seen.rho_squared == pytest.approx(float((spread * rho**2).sum() / spread.sum()))


def test_shares_are_those_of_the_probe_of_studies() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3))
    nn.init.normal_(model[1].weight)
    with watch_gradients(model) as seen, gradient_shares(model) as shares:
        model(torch.randn(5, 8)).backward(torch.randn(5, 3))
    assert seen[0].recentering == pytest.approx(shares["1"].recentering, rel=1e-5)
    assert seen[0].rescaling == pytest.approx(shares["1"].rescaling, rel=1e-5)


def test_four_norms_side_by_side_are_what_each_lets_through() -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 16, dtype=torch.float64, requires_grad=True)
    g = torch.randn(9, 16, dtype=torch.float64)
    (seen,) = told(norms.LayerNormSimple(16, eps=0.0), x, g)
    y = nn.functional.layer_norm(x.detach(), (16,), eps=0.0)
    for kind, module in {
        "layer_norm": norms.LayerNormSimple(16, eps=0.0),
        "rms_norm": norms.RMSNorm(16, eps=0.0, elementwise_affine=False),
        "detach_norm": norms.DetachNorm(16, eps=0.0),
        "ada_norm": norms.AdaNorm(16, eps=0.0),
    }.items():
        twin = x.detach().clone().requires_grad_()
        (arrived,) = torch.autograd.grad(module(twin), twin, g)
        centered = twin - twin.mean(-1, keepdim=True) if kind != "rms_norm" else twin
        size = centered.detach().square().mean(-1, keepdim=True).sqrt()
        upstream = g * (1 - 0.1 * y) if kind == "ada_norm" else g
        share = (arrived * size).square().sum() / upstream.square().sum()
        assert seen.beside[kind] == pytest.approx(float(share)), kind


def test_only_the_path_through_the_norm_arrives() -> None:
    torch.manual_seed(0)
    norm, branch = nn.LayerNorm(8).double(), nn.Linear(8, 8).double()
    x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    with watch_gradients(norm) as seen:
        (x + branch(norm(x))).backward(upstream := torch.randn(4, 8, dtype=torch.float64))
    (alone,) = torch.autograd.grad(branch(norm(x)), x, upstream)
    assert seen[0].arriving_energy == pytest.approx(float(alone.square().sum()))


def test_an_activation_in_place_behind_the_norm_does_no_harm() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 2))
    seen = gradients_at_norms(model, torch.randn(6, 1, 4, 4), lambda m, b: m(b).square().mean())
    assert seen[0].law_error is not None
    assert seen[0].law_error < 1e-4


def test_a_norm_with_a_residual_is_measured_at_the_sum() -> None:
    torch.manual_seed(0)
    norm = norms.LayerNorm(8)
    a, b = torch.randn(3, 8, requires_grad=True), torch.randn(3, 8)
    with watch_gradients(norm) as seen:
        z, _ = norm(a, b)
        z.backward(g := torch.randn(3, 8))
    (plain,) = told(nn.LayerNorm(8), (a.detach() + b).requires_grad_(), g)
    assert seen[0].rescaling == pytest.approx(plain.rescaling, rel=1e-5)


def test_without_gradients_there_is_nothing() -> None:
    norm = nn.LayerNorm(8)
    with watch_gradients(norm) as seen, torch.no_grad():
        norm(torch.randn(3, 8))
    assert seen == []


def test_gradients_whose_squares_vanish_keep_their_numbers() -> None:
    torch.manual_seed(0)
    x, g = torch.randn(9, 16), torch.randn(9, 16)
    (usual,) = told(nn.LayerNorm(16), x.clone().requires_grad_(), g)
    (small,) = told(nn.LayerNorm(16), x.clone().requires_grad_(), g * 1e-24)
    assert small.recentering == pytest.approx(usual.recentering, rel=1e-4)
    assert small.rescaling == pytest.approx(usual.rescaling, rel=1e-4)
    assert small.upstream_variance == pytest.approx(usual.upstream_variance * 1e-48, rel=1e-4)
    assert small.law_error is not None
    assert small.law_error < 1e-4


def test_the_law_is_not_checked_where_float32_runs_out_of_digits() -> None:
    torch.manual_seed(0)
    (seen,) = told(nn.LayerNorm(16), torch.randn(9, 16, requires_grad=True), torch.randn(9, 16) * 1e-42)
    assert seen.law_error is None
    assert seen.law_variance is not None
    assert seen.arriving_variance is not None


@pytest.mark.parametrize(
    ("module", "shape", "features"),
    [
        (nn.BatchNorm2d(6, affine=False), (5, 6, 3, 3), 1),
        (nn.GroupNorm(2, 6, affine=False), (5, 6, 3, 3), 1),
        (nn.InstanceNorm2d(6), (5, 6, 3, 3), 1),
        (norms.FRN(6), (5, 3, 3, 6), -1),
    ],
)
def test_side_by_side_is_over_features_whatever_the_norm_does(
    module: nn.Module, shape: tuple[int, ...], features: int
) -> None:
    torch.manual_seed(0)
    x, g = torch.randn(shape, dtype=torch.float64, requires_grad=True), torch.randn(shape, dtype=torch.float64)
    (seen,) = told(module.double(), x, g)
    rows = x.detach().movedim(features, -1).reshape(-1, 6).requires_grad_()
    (plain,) = told(nn.LayerNorm(6, elementwise_affine=False), rows, g.movedim(features, -1).reshape(-1, 6))
    assert seen.beside == pytest.approx(plain.beside)


def test_a_call_without_a_usable_gradient_has_a_reason() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    for upstream, why in ((torch.zeros(3, 8), "zero"), (torch.full((3, 8), torch.nan), "not finite")):
        lost: list[LostGradient] = []
        with watch_gradients(norm := nn.LayerNorm(8), lost=lost) as seen:
            norm(x).backward(upstream)
        assert seen == []
        assert [(each.name, each.why) for each in lost] == [("", why)]
    with watch_gradients(norm, lost=lost):
        norm(x)
    assert lost[-1].why == "missing"
    with watch_gradients(gate := norms.DyT(8), lost=lost):
        gate(torch.full((3, 8), torch.inf, requires_grad=True)).backward(torch.randn(3, 8))
    assert lost[-1].why == "input not finite"


def test_the_size_of_a_norm_that_does_not_divide_is_the_deviation() -> None:
    x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    with watch_gradients(gate := norms.DyT(8, dtype=torch.float64)) as told:
        gate(x).backward(torch.randn(5, 8, dtype=torch.float64))
    assert told[0].size == pytest.approx(float(x.detach().std(-1, correction=0).median()), rel=1e-12)
