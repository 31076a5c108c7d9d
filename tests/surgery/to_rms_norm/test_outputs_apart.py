"""A measure of differences that masks and large outputs do not hide."""

import pytest
import torch
from torch import Tensor

from normscope.surgery.to_rms_norm.same_function import NUDGE, largest_difference, median_difference, scales

X = torch.randn(64, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def measured(function, changed) -> float:
    """Measure what a relative change of ``X`` by 0.1 does, or none."""
    noise = torch.randn(X.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sizes = scales({"": function(X)}, {"": function(X * (1 + NUDGE * noise))})
    return largest_difference({"": function(X)}, {"": function(changed)}, sizes)


def masked(fill: float):
    return lambda x: torch.where(torch.arange(10) < 8, x, fill)


def added(mask: float):
    # One of ten numbers is left.
    return lambda x: x + torch.where(torch.arange(10) < 1, 0.0, mask)


HIDING = [lambda x: x, lambda x: x.relu(), lambda x: x + 300, masked(-1e4), masked(-1e9), masked(float("-inf"))]
HIDING += [masked(torch.finfo(torch.float64).min), added(-1e4), added(-1e9), added(-1e30), lambda x: x.softmax(-1)]


@pytest.mark.parametrize("function", HIDING)
def test_a_real_difference_is_seen_and_roundings_are_not(function) -> None:
    assert measured(function, X * 1.1) > 1e-3 * (1 if function(X)[0, 0].abs() < 100 else 0.1)
    assert measured(function, (X + 0.7) - 0.7) < 1e-12
    assert measured(function, X) == 0


def test_a_small_output_is_not_hidden_by_a_large_one() -> None:
    def run(x: Tensor) -> dict[str, Tensor]:
        return {"large": 1e12 * X.exp(), "small": 1e-3 * x}

    sizes = scales(run(X), run(X * (1 + NUDGE)))
    assert largest_difference(run(X), run(X * 1.1), sizes) > 0.01
    assert 0.01 < median_difference(run(X), run(X * 1.1), sizes) < 0.2


def test_what_is_rounding_alone_has_no_size_of_its_own() -> None:
    centered = X - X.mean(-1, keepdim=True)
    before, nudged = ({"y": x, "zero": (x - x.mean(-1, keepdim=True)).mean(-1)} for x in (centered, centered * 1.001))
    sizes = scales(before, nudged)
    assert sizes["zero"] == pytest.approx(1e-6 * sizes["y"], rel=1.1)
    assert largest_difference(before, {"y": centered, "zero": -before["zero"]}, sizes) < 1e-9


def test_numbers_that_are_none() -> None:
    sizes = {"": 1.0}
    ones, lost = torch.ones(2), torch.tensor([2.0, float("nan")])
    assert largest_difference({"": ones}, {"": lost}, sizes) == float("inf")
    assert largest_difference({"": lost}, {"": ones}, sizes) == float("inf")
    assert largest_difference({"": torch.zeros(0)}, {"": torch.zeros(0)}, sizes) == 0
    # Nothing moved, and yet it differs.
    assert largest_difference({"": torch.zeros(2)}, {"": ones}, {"": 0.0}) == float("inf")


def test_other_outputs() -> None:
    with pytest.raises(ValueError, match=r"the model gives {'a': \[3\]} where it gave {'a': \[2\]}"):
        largest_difference({"a": torch.ones(2)}, {"a": torch.ones(3)}, {"a": 1.0})
