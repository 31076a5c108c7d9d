"""Slopes that are known, from few seeds and loud ones."""

import json

import pytest
from digits_paper import made_up

from normscope.papers.gradient_slopes import conclude
from normscope.papers.initial_gradients import Setting


def test_slopes_that_are_the_theorys_are_found() -> None:
    setting = Setting()
    found = conclude(made_up(setting, range(10), 0.02), setting)
    assert [line["published"] for line in found["lines"]] == pytest.approx([0, -0.5, 0.2027, 0], abs=1e-4)
    for line in found["lines"]:
        assert line["ours"] == pytest.approx(line["published"], abs=0.03)
        assert line["verdict"] == "reproduced"
    theory = {(point["placement"], point["layers"]): point["theory"] for point in found["points"]}
    assert theory["pre", 14] == pytest.approx(theory["pre", 6] * (6 / 14) ** 0.5)
    assert theory["post", 14] == theory["post", 6]
    json.dumps(found, allow_nan=False)


def test_few_seeds_and_loud_ones_tell_nothing() -> None:
    setting = Setting()
    few = conclude(made_up(setting, range(5), 0.02), setting)
    assert {line["verdict"] for line in few["lines"]} == {"cannot tell: needs 6 seeds"}
    assert conclude(made_up(setting, range(1), 0.02), setting)["lines"][0]["interval"] is None
    loud = conclude(made_up(setting, range(6), 1.0), setting)
    assert loud["lines"][0]["verdict"].startswith("cannot tell: needs ")
