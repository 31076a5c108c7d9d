"""Effect of a single convention against formulas."""

from dataclasses import fields, replace

import pytest
import torch

from normscope.analysis.convention import Convention
from normscope.analysis.parity import CONVENTIONS, Departure, departures, describe

WIDTH = 16
PLAIN = Convention(
    center=False,
    divisor="biased",
    place="inside",
    eps=1e-6,
    scale="none",
    bias=False,
    statistics="float32",
    order="scale, then cast",
)


def rows(size: float = 1.0) -> torch.Tensor:
    x = torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return size * x / x.square().mean(-1, keepdim=True).sqrt()


def apart(one: Convention, other: Convention, **kinds: torch.Tensor) -> list[Departure]:
    return departures(
        one,
        other,
        names=("one", "other"),
        kinds=kinds or {"normal": rows()},
        dtypes=(torch.float64, torch.bfloat16),
        generator=torch.Generator().manual_seed(1),
    )


def test_every_field_of_a_convention_has_a_description() -> None:
    assert set(CONVENTIONS) == {field.name for field in fields(Convention)}
    for field in CONVENTIONS:
        assert describe(PLAIN, field)


def test_nothing_is_apart_from_itself() -> None:
    assert apart(PLAIN, PLAIN) == []


def test_the_divisor_alone() -> None:
    [found] = apart(PLAIN, replace(PLAIN, divisor="unbiased"))
    # Outputs of rows of size one shrink by the ratio of the two deviations.
    want = float(rows().abs().max()) * (1 - ((WIDTH - 1) / WIDTH) ** 0.5)
    assert found.effects["float64"] == pytest.approx(want, rel=1e-5)
    assert "one has the root over H, other has the root over H - 1" in found.sentence


def test_place_and_value_of_eps_are_distinguished_and_the_worst_rows_named() -> None:
    other = replace(PLAIN, place="added", eps=1e-4)
    place, eps = apart(PLAIN, other, normal=rows(), tiny=rows(1e-3))
    largest = float(rows().abs().max())
    # At a size of 1e-3 with eps 1e-6: inside the root the output is 1 / sqrt(2) of itself, added nearly all of it.
    assert place.effects["float64"] == pytest.approx(largest * (1 / 1.001 - 0.5**0.5), rel=1e-5)
    # Inside the root, from 1e-6 to 1e-4: from 1 / sqrt(2) to 1 / sqrt(101).
    assert eps.effects["float64"] == pytest.approx(largest * (0.5**0.5 - 101**-0.5), rel=1e-5)
    assert (place.worst, eps.worst) == ("tiny", "tiny")


def test_no_eps_is_one_departure_not_two() -> None:
    without = replace(PLAIN, place="none", eps=0.0)
    for one, other in ((PLAIN, without), (without, PLAIN)):
        [found] = apart(one, other, tiny=rows(1e-3))
        assert found.convention == "place"
        assert found.effects["float64"] == pytest.approx(float(rows().abs().max()) * (1 - 0.5**0.5), rel=1e-5)


def test_an_order_of_casts_needs_something_to_scale() -> None:
    other = replace(PLAIN, order="cast, then scale")
    assert apart(PLAIN, other) == []
    [found] = apart(replace(PLAIN, scale="w"), replace(other, scale="w"))
    assert found.effects["float64"] == 0
    assert 0 < found.effects["bfloat16"] <= 2**-5


def test_a_weight_and_a_bias_alone() -> None:
    weight, bias = apart(PLAIN, replace(PLAIN, scale="1 + w", bias=True))
    assert weight.effects["float64"] > float(rows().abs().max()) / 2
    assert 0.05 < bias.effects["float64"] < 0.5
