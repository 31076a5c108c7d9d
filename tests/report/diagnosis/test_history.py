"""Through training: figures are bounded in size, all calls count, and missing numbers are skipped."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from normscope.report.diagnosis.history import (
    LINES,
    SHADES,
    caption_growth,
    caption_heat_map,
    growth,
    heat_map,
    largest_share,
    shares_by_line,
    sizes_of,
)


def norm(name: str, share: float | None) -> dict[str, Any]:
    return {"name": name, "recentering": share, "rescaling": share}


def steps(norms: int, count: int) -> list[dict[str, Any]]:
    return [
        {"step": 20 * step, "norms": [norm(f"layers.{place}.norm", 0.001 * (step + place)) for place in range(norms)]}
        for step in range(count)
    ]


def text_of(svg: str) -> str:
    return " ".join(ET.fromstring(svg).itertext())


def test_training_is_thinned_out() -> None:
    svg = heat_map(steps(1, 500), name="training")
    assert svg.count("<path") < 200
    assert "500 measured steps" in text_of(svg)


def test_many_norms_and_steps_are_a_small_heat_map() -> None:
    history = steps(200, 50)
    svg = heat_map(history, name="training")
    assert len(svg) < 300_000
    assert svg.count("<path") < SHADES + 10
    assert float(re.findall(r'height="(\d+)"', svg)[0]) < 900
    assert "Neighbouring norms share a line" in caption_heat_map(history)
    _, labels, table = shares_by_line(history)
    assert len(labels) == len(table) == LINES
    assert labels[0] == "layers.0.norm and 3 more"
    assert table[0][0] == pytest.approx(0.001 * 2 * (0 + 1 + 2 + 3) / 4)


def test_all_calls_of_a_norm_count() -> None:
    history = [{"step": 0, "norms": [norm("shared", 0.1), norm("shared", 0.3)]}]
    assert shares_by_line(history)[2] == [[pytest.approx(0.4)]]


def test_what_is_missing_is_left_out() -> None:
    history = [{"step": 0, "norms": [norm("a", None), norm("b", 0.2)]}, {"step": 20, "norms": [norm("a", 0.1)]}]
    assert shares_by_line(history)[2] == [[None, pytest.approx(0.2)], [pytest.approx(0.4), None]]
    assert "the largest share is 40.00 %" in text_of(heat_map(history, name="training"))
    nothing = [{"step": 0, "norms": [norm("a", None)]}]
    assert largest_share(nothing) == 0
    assert "1 norm over 1 measured steps" in text_of(heat_map(nothing, name="training"))


def test_the_colour_is_that_of_the_page() -> None:
    assert "var(--accent)" in heat_map(steps(3, 4), name="training")


def step(number: int, **sizes: Any) -> dict[str, Any]:
    norms = [{"name": name, "size": size} for name, told in sizes.items() for size in (told if told else [None])]
    return {"step": number, "norms": norms}


def test_the_one_that_grew_most_comes_first() -> None:
    history = [step(0, a=[1.0], b=[2.0]), step(20, a=[3.0], b=[2.5]), step(40, a=[8.0], b=[30.0])]
    assert sizes_of(history) == {"b": [(0, 2.0), (20, 2.5), (40, 30.0)], "a": [(0, 1.0), (20, 3.0), (40, 8.0)]}
    assert (
        "2 norms; the sizes that they divide by are in the median 11.50 times as large at the last"
        in caption_growth(history)
    )
    assert "grew most, b: from 2.000 to 30.00." in caption_growth(history)
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


def test_many_norms_and_steps_are_a_small_picture_of_growth() -> None:
    history = [
        step(20 * number, **{f"layers.{place}.norm": [1 + number * place / 100] for place in range(200)})
        for number in range(500)
    ]
    assert f"The {LINES} that grew most are drawn." in caption_growth(history)
    assert len(growth(history, name="growth", width=340)) < 300_000
