"""The pictures of a diagnosis: SVG that is whole, says what it shows, and survives numbers that are not there."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from normscope.report.diagnosis import figures

NORM = {
    "name": "layers.<0>.norm",
    "width": 64,
    "recentering": 0.05,
    "rescaling": 0.02,
    "beside": {"layer_norm": 0.93, "rms_norm": 0.98, "ada_norm": 0.94, "detach_norm": 1.0},
}


def stack(**changes: Any) -> dict[str, Any]:
    layers = [{"activation": 1.0 * 2**place, "gradient": 0.1 / 2**place} for place in range(4)]
    theory = {"activation_low": [1.2, 1.4, 1.6, 1.7], "activation_high": [1.6, 2.0, 2.3, 2.6], "gradient": [0.1] * 4}
    return {"name": "layers", "layers": layers, "theory": theory, **changes}


def text_of(svg: str) -> str:
    return " ".join(ET.fromstring(svg).itertext())


def test_shares_tell_the_largest() -> None:
    svg = figures.shares([NORM, {**NORM, "name": "last", "recentering": 0.5}], name="shares")
    assert "the most at last: re-centering 50.00 %" in text_of(svg)


def test_four_norms_are_in_the_key() -> None:
    words = text_of(figures.side_by_side([NORM] * 3, name="beside"))
    for label in ("LayerNorm", "RMSNorm", "AdaNorm", "DetachNorm"):
        assert label in words


@pytest.mark.parametrize("what", ["activation", "gradient"])
def test_depth_has_a_line_of_theory(what: str) -> None:
    assert "theory" in text_of(figures.by_depth(stack(), what, name="depth"))
    assert "theory" not in text_of(figures.by_depth(stack(theory={}), what, name="depth"))


def test_what_is_not_known_is_not_drawn() -> None:
    unknown = stack(layers=[{"activation": None, "gradient": None}] * 2)
    assert figures.by_depth(unknown, "gradient", name="depth") == ""
    assert figures.ranges([{"median_variance": None}], name="range") == ""


def test_a_variance_of_zero_is_drawn_at_the_edge() -> None:
    rows = [{"name": "a", "median_variance": 1.0, "smallest_variance": 0.0, "eps": None}]
    assert "smallest variance is 0 at a" in text_of(figures.ranges(rows, name="range"))


def test_the_axis_has_the_numbers_of_the_table() -> None:
    words = text_of(figures.shares([NORM], name="one")).split()
    assert "1" in words
    assert not any("0.45" in word or word == "0.5" for word in words)
    rows = [{"name": str(place), "median_variance": None, "smallest_variance": None, "eps": None} for place in range(9)]
    rows[6] |= {"median_variance": 1.0, "smallest_variance": 0.5, "eps": 1e-5}
    assert "9" in text_of(figures.ranges(rows, name="range")).split()


def test_a_picture_says_what_lies_there_and_not_what_is_removed() -> None:
    words = text_of(figures.shares([NORM], name="shares"))
    assert "Where the gradient lies at every norm" in words
    assert "take out" not in words


def test_depth_names_its_stack() -> None:
    words = text_of(figures.by_depth(stack(name="encoder.layers"), "gradient", name="depth"))
    assert "Size of the gradients by layer of encoder.layers" in words
    assert "size of the gradient by layer of encoder.layers" in words
    long = "a" * 40 + ".layers"
    assert ".layers" in text_of(figures.by_depth(stack(name=long), "activation", name="depth"))


def test_a_variance_that_is_not_known_is_left_out() -> None:
    rows = [{"name": "a", "median_variance": 1.0, "smallest_variance": None, "eps": 1e-5}]
    assert figures.ranges(rows, name="range") == ""


def test_a_narrow_picture_is_narrow() -> None:
    svg = figures.side_by_side([NORM] * 3, name="beside", width=figures.NARROW)
    assert ET.fromstring(svg).get("width") == "340"


def test_equal_numbers_give_equal_bytes() -> None:
    assert figures.shares([NORM], name="x") == figures.shares([NORM], name="x")
