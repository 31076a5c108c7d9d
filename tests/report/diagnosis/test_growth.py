"""Sizes through training: all calls count, what is missing is left out, and the picture stays small."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from normscope.report.diagnosis.growth import LINES, caption_of, growth, sizes_of


def step(number: int, **sizes: Any) -> dict[str, Any]:
    norms = [{"name": name, "size": size} for name, told in sizes.items() for size in (told if told else [None])]
    return {"step": number, "norms": norms}


def test_the_one_that_grew_most_comes_first() -> None:
    history = [step(0, a=[1.0], b=[2.0]), step(20, a=[3.0], b=[2.5]), step(40, a=[8.0], b=[30.0])]
    assert sizes_of(history) == {"b": [(0, 2.0), (20, 2.5), (40, 30.0)], "a": [(0, 1.0), (20, 3.0), (40, 8.0)]}
    assert "2 norms; what they divide by is in the median 11.50 times as large at the last" in caption_of(history)
    assert "grew most, b: from 2.000 to 30.00." in caption_of(history)
    svg = growth(history, name="growth")
    words = " ".join(ET.fromstring(svg).itertext())
    assert "what a norm divides its input by, by step" in words
    assert "grew most, b: from" in words


def test_all_calls_of_a_norm_count_and_what_is_missing_does_not() -> None:
    history = [step(0, a=[1.0, 3.0], b=[], c=[1.0]), step(20, b=[2.0]), step(40, a=[4.0], b=[1.0])]
    assert sizes_of(history) == {"a": [(0, pytest.approx(2.0)), (40, 4.0)], "b": [(20, 2.0), (40, 1.0)]}


def test_a_history_without_sizes_has_none() -> None:
    assert sizes_of([{"step": 0, "norms": [{"name": "a"}]}, {"step": 20, "norms": [{"name": "a"}]}]) == {}
    assert sizes_of([step(0, a=[1.0])]) == {}


def test_many_norms_and_steps_are_a_small_picture() -> None:
    history = [
        step(20 * number, **{f"layers.{place}.norm": [1 + number * place / 100] for place in range(200)})
        for number in range(500)
    ]
    assert f"The {LINES} that grew most are drawn." in caption_of(history)
    assert len(growth(history, name="growth", width=340)) < 300_000
