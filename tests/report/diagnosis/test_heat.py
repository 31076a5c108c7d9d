"""The heat map of training: bounded in size, in time and in height, and whole where numbers are missing."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from normscope.report.diagnosis.heat import LINES, SHADES, caption_of, largest_of, table_of, through_training


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
    svg = through_training(steps(1, 500), name="training")
    assert svg.count("<path") < 200
    assert "500 measured steps" in text_of(svg)


def test_many_norms_and_steps_are_a_small_picture() -> None:
    history = steps(200, 50)
    svg = through_training(history, name="training")
    assert len(svg) < 300_000
    assert svg.count("<path") < SHADES + 10
    assert float(re.findall(r'height="(\d+)"', svg)[0]) < 900
    assert "Neighbouring norms share a line" in caption_of(history)
    _, labels, table = table_of(history)
    assert len(labels) == len(table) == LINES
    assert labels[0] == "layers.0.norm and 3 more"
    assert table[0][0] == pytest.approx(0.001 * 2 * (0 + 1 + 2 + 3) / 4)


def test_all_calls_of_a_norm_count() -> None:
    history = [{"step": 0, "norms": [norm("shared", 0.1), norm("shared", 0.3)]}]
    assert table_of(history)[2] == [[pytest.approx(0.4)]]


def test_what_is_missing_is_left_out() -> None:
    history = [{"step": 0, "norms": [norm("a", None), norm("b", 0.2)]}, {"step": 20, "norms": [norm("a", 0.1)]}]
    assert table_of(history)[2] == [[None, pytest.approx(0.2)], [pytest.approx(0.4), None]]
    assert "the largest share is 40.00 %" in text_of(through_training(history, name="training"))
    nothing = [{"step": 0, "norms": [norm("a", None)]}]
    assert largest_of(nothing) == 0
    assert "1 norm over 1 measured steps" in text_of(through_training(nothing, name="training"))


def test_the_colour_is_that_of_the_page() -> None:
    assert "var(--accent)" in through_training(steps(3, 4), name="training")
