"""The gradient at the norms: averages over norms, medians over seeds, and runs that were not probed."""

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np

from normscope.report.drawing.palette import arm_styles
from normscope.report.study.figures import gradients, highest, shares
from normscope.report.study.folder import RunHistory


def run(seed: int, rows: list[dict[str, Any]]) -> RunHistory:
    metrics = tuple({"step": 10 * place, "gradient": taken} for place, taken in enumerate(rows, 1))
    return RunHistory(label="a", seed=seed, state="done", value=1.0, description={}, result={}, metrics=metrics)


def test_shares_are_averaged_over_the_norms_in_percent() -> None:
    steps, values = shares(run(0, [{"one": [0.1, 0.3], "two": [0.3, 0.5]}, {}, {"one": [0.2, 0.0]}]))
    assert steps.tolist() == [10, 30]
    np.testing.assert_allclose(values, [[20, 40], [20, 0]])


def test_a_run_that_was_not_probed_has_none() -> None:
    steps, values = shares(run(0, [{}]))
    assert (len(steps), values.shape) == (0, (0, 2))
    assert highest([run(0, [{}])]) == 1.0


def test_the_axis_holds_every_share() -> None:
    assert highest([run(0, [{"one": [0.1, 0.5]}]), run(1, [{"one": [0.7, 0.1]}])]) >= 70


def test_the_picture_says_the_median() -> None:
    runs = [run(seed, [{"one": [0.1, 0.5]}, {"one": [share, 0.2]}]) for seed, share in enumerate((0.1, 0.4, 0.3))]
    picture = gradients([*runs, run(3, [{}])], arm_styles(["a"], "a")["a"], 20, 60.0, name="g")
    root = ET.fromstring(picture)
    described = root.find("desc")
    assert described is not None
    assert described.text == "a: at step 20 the median share of re-centering 30.00 % and re-scaling 20.00 %."
    titles = [title.text for title in root.iter("title")]
    assert "re-centering, seed 2" in titles
    assert "re-scaling, seed 0" in titles
