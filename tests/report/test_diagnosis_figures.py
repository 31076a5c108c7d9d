"""The pictures of a diagnosis: SVG that is whole, says what it shows, and survives numbers that are not there."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from normscope.report import diagnosis_figures as figures

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


def test_training_is_thinned_out() -> None:
    history = [{"step": 20 * place, "norms": [NORM]} for place in range(500)]
    svg = figures.through_training(history, name="training")
    assert svg.count("<path") < 200
    assert "500 measured steps" in text_of(svg)


def test_equal_numbers_give_equal_bytes() -> None:
    assert figures.shares([NORM], name="x") == figures.shares([NORM], name="x")
