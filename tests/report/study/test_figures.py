"""Forest and cost: marks stand where their numbers are."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from normscope.report.drawing.palette import ArmStyle, arm_styles
from normscope.report.study.figures import cost, forest
from normscope.report.study.folder import read_study
from normscope.results import Summary


@pytest.fixture(scope="module")
def summary(whole_study: Path) -> Summary:
    return read_study(whole_study).summary


def _styles(summary: Summary) -> dict[str, ArmStyle]:
    return arm_styles([arm.label for arm in summary.arms], summary.baseline)


def _ticks(root: ET.Element) -> dict[float, float]:
    texts = [element for element in root.iter("text") if "middle" in element.get("style", "")]
    return {float((text.text or "").replace("−", "-")): float(text.get("x", "")) for text in texts}


def test_marks_stand_at_their_difference(summary: Summary) -> None:
    root = ET.fromstring(forest(summary, _styles(summary), width=780, name="f"))
    ticks = _ticks(root)
    slope, origin = np.polyfit(list(ticks), list(ticks.values()), 1)
    for arm in summary.arms[1:6]:
        index = _styles(summary)[arm.label].index
        marks = [
            group for group in root.iter("g") if group.get("data-arm") == str(index) and group.find("title") is not None
        ]
        (use,) = marks[0].iter("use")
        # Ticks and marks are rounded to a hundredth of a pixel.
        assert float(use.get("x", "")) == pytest.approx(origin + slope * arm.difference, abs=0.05)
        lines = [
            path.get("d", "")
            for group in root.iter("g")
            if group.get("data-arm") == str(index)
            for path in group.findall("path")
        ]
        ends = [[float(x) for x in re.findall(r"[ML] ?(-?[\d.]+)", line)] for line in lines]
        for name in ("interval", "interval_examples"):
            wanted = [origin + slope * edge for edge in getattr(arm, name)]
            assert any(np.allclose(found, wanted, atol=0.05) for found in ends if len(found) == 2), name


def test_an_arm_far_out_is_an_arrow_at_the_edge_with_its_numbers(summary: Summary) -> None:
    svg = forest(summary, _styles(summary), width=780, name="f")
    root = ET.fromstring(svg)
    none = next(arm for arm in summary.arms if arm.label == "none")
    group = [group for group in root.iter("g") if group.get("data-arm") == "6" and group.find("title") is not None][-1]
    # The left edge of the axes.
    assert float(next(group.iter("use")).get("x", "")) == pytest.approx(8, abs=0.01)
    assert any(f"−{abs(none.difference):.2f}" in (text.text or "") for text in root.iter("text"))


def test_the_words_name_every_arm_and_the_margin(summary: Summary) -> None:
    desc = ET.fromstring(forest(summary, _styles(summary), width=340, name="f")).findtext("desc") or ""
    assert all(arm.label in desc for arm in summary.arms[1:])
    assert "margin is ±0.3 %" in desc


def test_failures_are_written_beside_the_arm(summary: Summary) -> None:
    texts = [text.text for text in ET.fromstring(forest(summary, _styles(summary), width=340, name="f")).iter("text")]
    assert texts.count("fails to train in 3 of 10 seeds") == 1


@pytest.mark.parametrize(("higher", "first"), [(True, "← worse"), (False, "← better")])
def test_the_direction_is_written_on_the_axis(summary: Summary, higher: bool, first: str) -> None:
    turned = replace(summary, metric={**summary.metric, "higher_is_better": higher})
    texts = list(ET.fromstring(forest(turned, _styles(summary), width=780, name="f")).iter("text"))
    left = min(
        (text for text in texts if "better" in (text.text or "") or "worse" in (text.text or "")),
        key=lambda text: float(text.get("x", "")),
    )
    assert left.text == first


def test_an_arm_without_a_difference_has_only_its_name(summary: Summary) -> None:
    empty = {"difference": None, "interval": None, "interval_examples": None}
    arms = (summary.arms[0], *(replace(arm, **empty) for arm in summary.arms[1:]))
    root = ET.fromstring(forest(replace(summary, arms=arms), _styles(summary), width=340, name="f"))
    assert "dyt" in [text.text for text in root.iter("text")]
    assert not [group for group in root.iter("g") if group.get("data-arm") and list(group.iter("use"))]


def test_cost_stands_at_its_cost_and_mean(summary: Summary) -> None:
    svg = cost(summary.arms, _styles(summary), summary.metric, "saved_bytes", "saved (MiB)", name="c")
    root = ET.fromstring(svg)
    tips = [group.findtext("title") or "" for group in root.iter("g") if group.find("title") is not None]
    assert len(tips) == len(summary.arms)
    first = summary.arms[0]
    assert tips[0] == f"layer_norm: {first.mean:.2f} %, {first.saved_bytes / 2**20:.3f} (saved (MiB))"
    # `none` is four points below the others: at the edge, with its value.
    assert any((text.text or "").startswith("none ") for text in root.iter("text"))
