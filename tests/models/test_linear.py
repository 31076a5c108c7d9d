"""Linear maps and their first weights."""

import math

import pytest
import torch

from normscope.models.layers import Linear, Projection


def test_linear_begins_xavier_uniform_times_its_gain() -> None:
    linear = Linear(300, 500)
    limit = math.sqrt(6 / 800)
    assert 0.99 * limit < linear.weight.abs().max() <= limit
    # The variance of U(-a, a) is a^2 / 3; 150,000 draws estimate it to 0.3 % (one standard error).
    assert linear.weight.var().item() == pytest.approx(limit**2 / 3, rel=0.02)
    assert not linear.bias.any()
    torch.manual_seed(3)
    linear.reset_parameters()
    plain = linear.weight.clone()
    linear.gain = 0.25
    torch.manual_seed(3)
    linear.reset_parameters()
    torch.testing.assert_close(linear.weight, plain / 4)


def test_projection_draws_square_matrices_and_scales_the_value_alone() -> None:
    torch.manual_seed(5)
    projection = Projection(64, ("query", "key", "value"))
    projection.gain = 0.5
    torch.manual_seed(6)
    projection.reset_parameters()
    torch.manual_seed(6)
    parts = [torch.nn.init.xavier_uniform_(torch.empty(64, 64), gain=gain) for gain in (1, 1, 0.5)]
    assert torch.equal(projection.weight, torch.cat(parts))
    assert not projection.bias.any()


def test_projection_without_values_has_no_gain() -> None:
    assert not hasattr(Projection(8, ("query",)), "gain")
    assert Projection(8, ("key", "value"), bias=False).gain == 1.0
