"""Learning-rate curves: every trial, the chosen rate, and trials that failed."""

import xml.etree.ElementTree as ET

from normscope.report.drawing.palette import arm_styles
from normscope.report.study.figures import tuning

METRIC = {"name": "accuracy", "unit": "%", "higher_is_better": True}
CURVE = [
    {"learning_rate": 0.0003, "values": [95.0, 96.0]},
    {"learning_rate": 0.001, "values": [97.0, 97.5]},
    {"learning_rate": 0.003, "values": [98.0, None]},
]


def _draw(higher: bool = True) -> ET.Element:
    look = arm_styles(["ln", "ada"], "ln")["ada"]
    metric = METRIC | {"higher_is_better": higher}
    return ET.fromstring(tuning(CURVE, 0.001, look, "ada", metric, (94.0, 99.0), name="t"))


def test_every_trial_is_a_mark_with_its_value() -> None:
    tips = [group.findtext("title") for group in _draw().iter("g") if group.find("title") is not None]
    assert len(tips) == 6
    assert "ada, learning rate 0.001: 97.50 %" in tips
    assert tips[-1] == "ada, learning rate 0.003: no value"


def test_a_failed_trial_is_at_the_worse_edge() -> None:
    for higher, edge in ((True, 140.0), (False, 12.0)):
        group = next(group for group in _draw(higher).iter("g") if (group.findtext("title") or "").endswith("no value"))
        assert float(next(group.iter("use")).get("y", "")) == edge


def test_rates_are_the_ticks_and_the_chosen_one_is_named() -> None:
    root = _draw()
    texts = [text.text for text in root.iter("text")]
    assert [text for text in ("3e−4", "1e−3", "3e−3") if text in texts] == ["3e−4", "1e−3", "3e−3"]
    assert root.findtext("desc") == "ada was tuned over the rates 0.0003, 0.001, 0.003; 0.001 was chosen."
