"""Axes: far enough for what matters, not flattened by one bad arm."""

import numpy as np
import pytest

from normscope.report.drawing.svg import axes, blank, describe, drawing, fence, padded, plain_ticks, wants_logarithm


def test_fence_leaves_out_only_what_is_far() -> None:
    values = [*np.linspace(96.5, 98.0, 40), 12.0]
    assert fence(values) == (96.5, 98.0)
    assert fence([*np.linspace(96.5, 98.0, 40), 95.0]) == (95.0, 98.0)


def test_fence_of_few_or_equal_values_is_their_range() -> None:
    assert fence([1.0, 2.0, 90.0]) == (1.0, 90.0)
    assert fence([5.0, 5.0, 5.0, 5.0, 5.0, 7.0]) == (5.0, 7.0)


def test_fence_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value, got an empty sequence"):
        fence([])


def test_padded_has_width_even_for_one_value() -> None:
    assert padded(0.0, 10.0, 0.1) == (-1.0, 11.0)
    for value in (0.0, 3.0, -3.0):
        low, high = padded(value, value)
        assert low < value < high


def test_wants_logarithm_only_for_positive_values_that_span_much() -> None:
    assert wants_logarithm([0.01, 1.0], 10)
    assert not wants_logarithm([0.5, 1.0], 10)
    assert not wants_logarithm([0.0, 1.0], 10)
    assert not wants_logarithm([], 10)


@pytest.mark.parametrize(
    ("low", "high", "logarithmic", "wanted"),
    [
        (0, 2000, False, ["0", "500", "1k", "1.5k", "2k"]),
        (-0.5, 0.5, False, ["−0.4", "−0.2", "0", "0.2", "0.4"]),
        (0.01, 1, True, ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]),
    ],
)
def test_ticks_are_short_plain_numbers(low: float, high: float, logarithmic: bool, wanted: list[str]) -> None:
    with drawing():
        plot = axes(blank(300, 100), left=10, right=10, top=10, bottom=20)
        if logarithmic:
            plot.set_xscale("log")
        plot.set_xlim(low, high)
        plain_ticks(plot, "x", count=5, logarithmic=logarithmic)
        ticks = [label.get_text() for label in plot.get_xticklabels()]
        inside = [
            text
            for text, at in zip(ticks, plot.get_xticks(), strict=True)
            if low * 0.999 <= at <= high * 1.001 or at == low
        ]
    assert inside == wanted


def test_describe_names_the_unit() -> None:
    assert describe(97.1234, "%") == "97.12 %"
    assert describe(None, "") == "—"
