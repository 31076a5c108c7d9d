"""The slope of a line through logarithms, against lines whose slope is known."""

import math

import numpy as np
import pytest

from normscope.fits import log_slope


def test_geometric_growth_has_the_logarithm_of_its_factor_as_slope() -> None:
    assert log_slope([5.0, 10.0, 20.0, 40.0]) == pytest.approx(math.log(2), rel=1e-14)


def test_power_law_has_its_exponent_as_slope_over_logarithms() -> None:
    sizes = np.array([1.0, 2.0, 16.0, 100.0])
    assert log_slope(7 * sizes**-1.5, np.log(sizes)) == pytest.approx(-1.5, rel=1e-14)


def test_line_is_the_one_of_least_squares() -> None:
    # Positions 0, 1, 2 and logarithms 0, 0, 3: the slope is (2 - 0) / 2 * 3 / 2.
    assert log_slope([1.0, 1.0, math.e**3]) == pytest.approx(1.5, rel=1e-14)
    rng = np.random.default_rng(0)
    positions, values = rng.normal(size=20), rng.lognormal(size=20)
    assert log_slope(values, positions) == pytest.approx(np.polyfit(positions, np.log(values), 1)[0], rel=1e-10)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_value_without_a_logarithm_gives_infinity(bad: float) -> None:
    assert log_slope([1.0, bad, 2.0]) == math.inf


@pytest.mark.parametrize(("values", "positions"), [([1.0], None), ([], None), ([1.0, 2.0], [3.0, 3.0])])
def test_fewer_than_two_positions_are_refused(values: list[float], positions: list[float] | None) -> None:
    with pytest.raises(ValueError, match="two positions or more that differ"):
        log_slope(values, positions)


def test_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \[2\] and \[3\]"):
        log_slope([1.0, 2.0], [1.0, 2.0, 3.0])
