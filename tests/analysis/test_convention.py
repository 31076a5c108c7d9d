"""Closed forms against torch's norms and explicit sums."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from normscope.analysis.convention import Convention, closed_form, rounding_bound

LAYER_NORM = Convention(
    center=True,
    divisor="biased",
    place="inside",
    eps=1e-3,
    scale="w",
    bias=True,
    statistics="float32",
    order="scale, then cast",
)
PLAIN = replace(LAYER_NORM, scale="none", bias=False)


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def test_layer_norm() -> None:
    x, w, b = drawn(5, 8), drawn(8), drawn(8) + 2
    torch.testing.assert_close(closed_form(LAYER_NORM, x, w, b), F.layer_norm(x, (8,), w, b, 1e-3))


def test_rms_norm_and_its_weight() -> None:
    x, w = drawn(5, 8), drawn(8)
    convention = replace(LAYER_NORM, center=False, bias=False)
    torch.testing.assert_close(closed_form(convention, x, w), F.rms_norm(x, (8,), w, 1e-3))
    torch.testing.assert_close(closed_form(replace(convention, scale="1 + w"), x, w), F.rms_norm(x, (8,), 1 + w, 1e-3))


def test_normalize() -> None:
    x = torch.cat([drawn(5, 8), 1e-5 * drawn(5, 8)])
    convention = replace(PLAIN, center=False, divisor="length", place="least")
    torch.testing.assert_close(closed_form(convention, x), F.normalize(x, dim=-1, eps=1e-3))


@pytest.mark.parametrize("divisor", ["biased", "unbiased", "length"])
@pytest.mark.parametrize("place", ["inside", "added", "least", "none"])
@pytest.mark.parametrize("center", [True, False])
def test_every_divisor_is_its_sum(divisor, place, center: bool) -> None:
    row = [0.003, -0.001, 0.0005, 0.001]
    mean = sum(row) / 4 if center else 0.0
    total = sum((value - mean) ** 2 for value in row)
    s = (total / {"biased": 4, "unbiased": 3, "length": 1}[divisor]) ** 0.5
    d = {"inside": (s**2 + 1e-3) ** 0.5, "added": s + 1e-3, "least": max(s, 1e-3), "none": s}[place]
    convention = replace(PLAIN, center=center, divisor=divisor, place=place)
    told = closed_form(convention, torch.tensor([row], dtype=torch.float64))
    assert told[0].tolist() == pytest.approx([(value - mean) / d for value in row], rel=1e-12)


def test_orders_of_casts_round_where_they_say() -> None:
    x, w = drawn(64, 32, dtype=torch.bfloat16), drawn(32, dtype=torch.bfloat16)
    convention = replace(PLAIN, scale="w")
    y = F.layer_norm(x.float(), (32,), eps=1e-3)
    once = closed_form(convention, x, w)
    twice = closed_form(replace(convention, order="cast, then scale"), x, w)
    # The root and the division are not torch's kernel: one output in hundreds may fall on the other side.
    assert (once == (y * w.float()).bfloat16()).double().mean() > 0.99
    assert (twice == y.bfloat16() * w).double().mean() > 0.99
    assert (once == twice).double().mean() < 0.9


def test_statistics_in_float16_overflow_and_in_float32_do_not() -> None:
    x = (1e4 * drawn(4, 16)).half()
    convention = replace(PLAIN, center=False)
    assert closed_form(replace(convention, statistics="input"), x).eq(0).all()
    assert closed_form(convention, x).abs().max() > 1


def test_the_description_names_every_convention() -> None:
    assert LAYER_NORM.description == (
        "mean subtracted, mean square over H, eps 0.001 inside the root, scaled by w, bias, statistics in float32, "
        "scale, then cast"
    )
    assert "order" not in PLAIN.description
    assert "then" not in PLAIN.description


@pytest.mark.parametrize("arguments", [(None, None), (torch.ones(8), None), (None, torch.ones(8))])
def test_missing_parameters_are_named(arguments: tuple) -> None:
    with pytest.raises(ValueError, match=r"got .*no "):
        closed_form(LAYER_NORM, drawn(2, 8), *arguments)
    with pytest.raises(ValueError, match="got weight and bias"):
        closed_form(PLAIN, drawn(2, 8), torch.ones(8), torch.ones(8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("statistics", ["float32", "input"])
@pytest.mark.parametrize("variance", ["two-pass", "one-pass"])
@pytest.mark.parametrize("divisor", ["biased", "unbiased", "length"])
@pytest.mark.parametrize("place", ["inside", "added", "least"])
@pytest.mark.parametrize("center", [True, False])
def test_the_bound_holds_the_errors_of_the_closed_form(dtype, statistics, variance, divisor, place, center) -> None:
    convention = replace(LAYER_NORM, divisor=divisor, place=place, center=center, statistics=statistics)
    convention = replace(convention, variance=variance if center else "two-pass")
    w, b = (1.5 + 0.1 * drawn(2, 64)).to(dtype)
    normal = drawn(16, 64)
    # No squares overflow: that is no rounding.
    for rows in (normal, normal + 3, normal + 20, 1e-3 * normal, 10 * normal):
        x = rows.to(dtype)
        error = (
            closed_form(convention, x, w, b).double() - closed_form(convention, x.double(), w.double(), b.double())
        ).abs()
        bound = rounding_bound(convention, x, w, b)
        assert ((error <= bound) | bound.isinf()).all()
    x = normal.to(dtype)
    assert rounding_bound(convention, x, w, b).max() < 500 * torch.finfo(dtype).eps


def test_the_bound_knows_nothing_of_a_row_divided_by_its_rounding() -> None:
    x = torch.full((1, 8), 3.0)
    assert rounding_bound(replace(PLAIN, place="none"), x).isinf().all()
    assert rounding_bound(PLAIN, x).max() < 1e-3
    # E[x^2] - E[x]^2 of a mean of 1e4 and a variance of one is rounding alone.
    assert rounding_bound(replace(PLAIN, variance="one-pass"), 1e4 + drawn(1, 8).float()).isinf().all()
