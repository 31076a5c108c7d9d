"""Slopes that are known, from few seeds and loud ones."""

import json

import numpy as np
import pytest

from normscope.papers.xiong2020.gradient_slopes import conclude
from normscope.papers.xiong2020.initial_gradients import Setting
from support.digits_paper import made_up


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
    few = conclude(made_up(setting, range(7), 0.02), setting)
    assert {line["verdict"] for line in few["lines"]} == {"cannot tell: needs 8 seeds"}
    assert conclude(made_up(setting, range(1), 0.02), setting)["lines"][0]["interval"] is None
    loud = conclude(made_up(setting, range(8), 1.0), setting)
    assert loud["lines"][0]["verdict"].startswith("cannot tell: needs ")


def test_growth_is_all_that_is_claimed_of_the_layers_of_post_ln() -> None:
    setting = Setting()
    for rate, verdict, words in (
        (0.364, "reproduced", "it grows; the size differs: it is more than the theory's +0.203"),
        (0.05, "reproduced", "it grows; the size differs: it is less than the theory's +0.203"),
        (0.2027, "reproduced", "it grows; the theory's +0.203 (sqrt(3/2) a layer of an encoder) is not ruled out"),
        (-0.1, "not reproduced", "it falls"),
    ):
        rows = made_up(setting, range(10), 0.02)
        for row in rows:
            if row["placement"] == "post" and row["by_layer"]:
                grown = [
                    norm * np.exp((rate - np.log(1.5) / 2) * at)
                    for at, norm in enumerate(row["by_layer"]["decoder"]["W2"])
                ]
                row["by_layer"]["decoder"]["W2"] = grown
        line = conclude(rows, setting)["lines"][2]
        assert line["says"] == "in Post-LN the norm grows with the layer of the decoder"
        assert line["verdict"] == verdict
        assert line["because"].startswith(words)
        assert line["ours"] == pytest.approx(rate, abs=0.02)


def test_growth_that_is_not_seen_is_open() -> None:
    setting = Setting()
    rows = made_up(setting, range(10), 0.05)
    for row in rows:
        if row["by_layer"]:
            row["by_layer"]["decoder"]["W2"] = [float(np.exp((-1) ** row["seed"] * 0.1 * at)) for at in range(6)]
    line = conclude(rows, setting)["lines"][2]
    assert (line["verdict"], line["because"]) == ("cannot tell: needs over 1000 seeds", "the interval holds zero")
