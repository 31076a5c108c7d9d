"""Exponents of growth with depth and width against theory."""

import math

import pytest
import torch
from torch import nn

from normscope.diagnostics.depth.coordinate_check import CoordinateCheck, coordinate_check
from normscope.placement import PLACEMENTS
from support.planted import LEVELS, PixelModel, next_pixel, pixels


def by_depth(placement: str, **told: object) -> CoordinateCheck:
    def make(layers: int) -> nn.Module:
        return PixelModel(width=16, layers=layers, placement=PLACEMENTS[placement], norm=nn.LayerNorm)

    return coordinate_check(
        make,
        (2, 4, 8),
        pixels(0, rows=4, length=16),
        next_pixel,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
        seeds=(0, 1),
        **{"steps": 1, **told},  # pyright: ignore
    )


def test_norms_on_the_stream_hold_its_size() -> None:
    told = by_depth("post")
    assert told.slopes[0]["activation"] == pytest.approx(0.0, abs=1e-3)
    assert told.passes["activation"]


def test_pre_streams_grow_and_their_last_gradient_falls_with_the_root_of_the_depth() -> None:
    told = by_depth("pre", steps=0)
    # Between the stream's own unit and L / 2 to 3 L / 2, which has the exponent 1/2 for many layers (Theorem 1).
    assert 0.15 < told.slopes[0]["activation"] < 0.55
    assert -0.65 < told.slopes[0]["gradient"] < -0.15
    assert told.passes == {"activation": True, "gradient": True}


def test_a_stream_without_norms_fails() -> None:
    told = by_depth("none", steps=0)
    assert told.slopes[0]["activation"] > 1.0
    assert not told.passes["activation"]


def test_every_size_seed_and_step_is_there_and_random_states_stay() -> None:
    state = torch.get_rng_state()
    told = by_depth("pre")
    assert {(p.size, p.seed, p.step) for p in told.points} == {
        (size, seed, step) for size in (2, 4, 8) for seed in (0, 1) for step in (0, 1)
    }
    assert len(told.slopes) == 2
    assert all(point.loss < 2 * math.log(LEVELS) for point in told.points)
    assert torch.equal(state, torch.get_rng_state())


def test_a_single_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a factor of 2 or more apart, got \[8, 9\]"):
        coordinate_check(nn.LayerNorm, (8, 9), None, lambda m, b: m(b), optimizer=lambda m: torch.optim.SGD([]))


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no stack of layers"):
        coordinate_check(
            lambda width: nn.Linear(width, 1),
            (2, 4),
            None,
            lambda m, b: m.weight.sum(),
            optimizer=lambda m: torch.optim.SGD(m.parameters()),
        )
