"""Ranges of the inputs of norms, on constructed inputs."""

import math

import pytest
import torch
from torch import nn

from normscope import diagnose, norms
from normscope.diagnostics import numeric_range
from normscope.diagnostics.numeric_range import NormRange


def seen(module: nn.Module, x: torch.Tensor, **told: object) -> NormRange:
    loss = lambda m, b: m(b).float().square().mean()  # noqa: E731
    (told_range,) = numeric_range(nn.Sequential(module), x, loss, **told)  # pyright: ignore
    return told_range


def test_variance_eps_and_rows_below() -> None:
    x = torch.randn(4, 1000)
    x[0] *= 1e-4
    told = seen(nn.LayerNorm(1000, eps=1e-5), x)
    spread = x.var(-1, correction=0)
    assert told.smallest_variance == pytest.approx(float(spread.min()))
    assert told.rows_below_eps == 0.25
    assert told.largest == pytest.approx(float(x.abs().max()))


@pytest.mark.parametrize(("eps", "vanishes"), [(1e-12, True), (1e-8, True), (1e-6, False), (1e-5, False)])
def test_eps_in_half_precision(eps: float, vanishes: bool) -> None:
    assert seen(nn.LayerNorm(8, eps=eps), torch.randn(3, 8), precision="float16").eps_vanishes == vanishes
    assert not seen(nn.LayerNorm(8, eps=eps), torch.randn(3, 8), precision="bfloat16").eps_vanishes


def test_the_precision_defaults_to_that_of_the_input() -> None:
    norm = nn.LayerNorm(8, dtype=torch.bfloat16)
    assert seen(norm, torch.randn(3, 8).bfloat16()).precision == "bfloat16"
    assert seen(nn.LayerNorm(8), torch.randn(3, 8), precision="float16").dtype == "float32"


def test_overflow() -> None:
    x = torch.randn(3, 8)
    x[1, 2] = 131_008.0
    assert seen(nn.LayerNorm(8), x, precision="float16").overflow == pytest.approx(2.0)
    assert seen(nn.LayerNorm(8), x).overflow < 1e-30
    x[0, 0] = math.nan
    assert seen(nn.LayerNorm(8), x).largest == math.inf


@pytest.mark.parametrize("made", [nn.LayerNorm, nn.RMSNorm, norms.LayerNorm, norms.ScaleNorm])
def test_rows_whose_squares_leave_the_range_are_counted_and_named(made: type[nn.Module]) -> None:
    x = torch.randn(4, 8)
    assert seen(made(8), x).squares_overflow == 0
    x[1] *= 1e20
    assert seen(made(8), x).squares_overflow == 0.25
    assert seen(made(8).bfloat16(), x.bfloat16()).squares_overflow == 0.25
    assert seen(made(8).double(), x.double()).squares_overflow == 0
    model = nn.Sequential(made(8), nn.Linear(8, 1))
    (finding,) = [one for one in diagnose(model, x, lambda m, b: m(b).square().mean()).findings if one.where == "0"]
    assert finding.name == "overflow"
    assert "the squares of 25% of the rows at 0" in finding.evidence


def test_weights_and_bias() -> None:
    norm = nn.LayerNorm(4)
    norm.weight.data = torch.tensor([0.0, 0.001, 1.0, 1.0])
    norm.bias.data = torch.tensor([1.0, -1.0, 1.0, 1.0])
    told = seen(norm, torch.randn(5, 4))
    assert (told.small_weights, told.zero_weights) == (0.5, 0.25)
    assert told.weight_size == pytest.approx(math.sqrt(2 / 4), rel=1e-6)
    assert told.bias_share == pytest.approx(1 / 1.5, rel=1e-6)


def test_decay_is_that_of_the_group() -> None:
    norm = nn.LayerNorm(4)
    groups = [{"params": [norm.weight], "weight_decay": 0.1}, {"params": [norm.bias], "weight_decay": 0.0}]
    assert seen(norm, torch.randn(5, 4), optimizer=torch.optim.AdamW(groups)).decay == 0.1
    assert seen(norm, torch.randn(5, 4)).decay is None
    assert seen(nn.LayerNorm(4), torch.randn(5, 4), optimizer=torch.optim.AdamW(groups)).decay == 0.0


def test_running_moments_against_the_batch() -> None:
    norm = nn.BatchNorm1d(3)
    x = torch.randn(2000, 3) * 4 + 6
    assert seen(norm, x).running_ratio is None
    told = seen(norm.eval(), x)
    assert told.running_ratio == pytest.approx(16, rel=0.1)
    assert told.running_offset == pytest.approx(6, rel=0.1)
    assert torch.equal(norm.running_mean, torch.zeros(3))


def test_mean_over_deviation() -> None:
    x = torch.randn(6, 512) + 1000
    assert seen(nn.LayerNorm(512), x).mean_over_deviation == pytest.approx(1000, rel=0.1)


def test_a_norm_that_does_not_divide_has_no_variance() -> None:
    told = seen(norms.DyT(8), torch.randn(3, 8))
    assert told.smallest_variance is None
    assert told.rows_below_eps is None
    assert told.weight_size == 1.0


def test_the_eps_of_an_rms_norm_without_eps_is_the_machine_epsilon() -> None:
    told = seen(nn.RMSNorm(8), torch.cat([torch.randn(3, 8), torch.full((1, 8), 1e-6)]))
    assert told.eps == torch.finfo(torch.float32).eps
    assert told.rows_below_eps == 0.25
