"""Shares of a gradient against explicit projections in float64."""

import pytest
import torch
from torch.nn import functional as F

from normscope.diagnostics.gradients.shares import ADA_SLOPE, BESIDE, energy, let_through, parts_of
from normscope.norms import AdaNorm, RMSNorm


def rows(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=draw, dtype=torch.float64) + shift for shift in (0.7, 0.3))  # pyright: ignore


def along(g: torch.Tensor, direction: torch.Tensor) -> float:
    unit = direction / direction.norm(dim=-1, keepdim=True)
    return float((g * unit).sum(-1).square().sum())


def test_every_part_is_a_projection() -> None:
    x, g = rows(5, 16)
    centered = x - x.mean(-1, keepdim=True)
    adapted = g * (1 - ADA_SLOPE * F.layer_norm(x, (16,), eps=0.0))
    want = [float(g.square().sum()), along(g, torch.ones_like(g)), along(g, centered), along(g, x)]
    want += [float(adapted.square().sum()), along(adapted, torch.ones_like(g)) + along(adapted, centered)]
    assert parts_of(x, g).tolist() == pytest.approx(want, rel=1e-12)
    assert float(energy(g)) == pytest.approx(want[0], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("layer_norm", lambda x: F.layer_norm(x, (16,), eps=0.0)),
        ("rms_norm", RMSNorm(16, eps=0.0, elementwise_affine=False)),
        ("detach_norm", lambda x: x),
    ],
)
def test_what_is_let_through_is_what_autograd_lets_through(name: str, module) -> None:
    """For a row of unit size, because dividing by it then changes no length."""
    x, g = rows(1, 16)
    size = x.square().mean().sqrt() if name == "rms_norm" else x.std(correction=0)
    x = (x / size).requires_grad_()
    (arrives,) = torch.autograd.grad(module(x), x, g)
    told = let_through(*parts_of(x.detach(), g).tolist())
    assert told[name] == pytest.approx(float(arrives.square().sum() / g.square().sum()), rel=1e-10)
    assert tuple(told) == BESIDE


def test_what_ada_norm_lets_through() -> None:
    x, g = rows(1, 16)
    x = (x / x.std(correction=0)).requires_grad_()
    norm = AdaNorm(16, scale=1.0, k=ADA_SLOPE, eps=0.0)
    (arrives,) = torch.autograd.grad(norm(x), x, g)
    adapted = g * (1 - ADA_SLOPE * F.layer_norm(x.detach(), (16,), eps=0.0))
    told = let_through(*parts_of(x.detach(), g).tolist())
    assert told["ada_norm"] == pytest.approx(float(arrives.square().sum() / adapted.square().sum()), rel=1e-10)


def test_features_need_not_lie_next_to_each_other() -> None:
    x, g = rows(2, 8, 6)
    straight = parts_of(x.movedim(1, -1).contiguous(), g.movedim(1, -1).contiguous())
    assert torch.allclose(parts_of(x.movedim(1, -1), g.movedim(1, -1)), straight, rtol=1e-12)


def test_rows_that_are_constant_or_zero_lose_nothing_along_themselves() -> None:
    _, g = rows(3, 8)
    assert parts_of(torch.ones(3, 8, dtype=torch.float64), g)[2] == 0
    assert parts_of(torch.zeros(3, 8, dtype=torch.float64), g)[2:4].tolist() == [0, 0]
    assert let_through(*[0.0] * 6) == dict.fromkeys(BESIDE, 0.0) | {"detach_norm": 1.0}
