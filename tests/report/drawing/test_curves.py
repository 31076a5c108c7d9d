"""Learning curves: medians that no death improves, and thin lines that end where a run did."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence

import numpy as np
import pytest

from normscope.report.drawing.curves import frame, learning, median
from normscope.report.drawing.palette import arm_styles
from normscope.report.study.folder import RunHistory

METRIC = {"name": "accuracy", "unit": "%", "higher_is_better": True}


def _run(seed: int, values: Sequence[float | None], state: str = "done") -> RunHistory:
    rows = tuple(
        {"step": 10 * (place + 1), "valid_value": value, "train_loss": None if value is None else 1 / value}
        for place, value in enumerate(values)
    )
    return RunHistory(label="a", seed=seed, state=state, value=None, description={}, result={}, metrics=rows)


def test_median_over_runs_at_every_step() -> None:
    runs = [_run(0, [1, 5, 3]), _run(1, [2, 6, 4]), _run(2, [9, 9, 9])]
    grid, middle = median(runs, "valid_value", higher_is_better=True)
    assert grid.tolist() == [10, 20, 30]
    assert middle.tolist() == [2, 6, 4]


def test_a_run_that_broke_counts_as_worst() -> None:
    runs = [_run(0, [1, 5, 5]), _run(1, [2, 6, 6]), _run(2, [9], "diverged")]
    assert median(runs, "valid_value", higher_is_better=True)[1].tolist() == [2, 5, 5]
    assert median(runs, "valid_value", higher_is_better=False)[1].tolist() == [2, 6, 6]


def test_a_median_that_is_a_broken_run_is_not_drawn() -> None:
    runs = [_run(0, [1, 5]), _run(1, [2], "diverged"), _run(2, [3], "failed")]
    middle = median(runs, "valid_value", higher_is_better=True)[1]
    np.testing.assert_array_equal(middle, [2, np.nan])


def test_an_interrupted_run_is_only_absent() -> None:
    runs = [_run(0, [1, 5]), _run(1, [3], "interrupted")]
    assert median(runs, "valid_value", higher_is_better=True)[1].tolist() == [2, 5]


def test_evaluations_without_a_value_are_gaps() -> None:
    assert np.isnan(median([_run(0, [1, None])], "valid_value", higher_is_better=True)[1][1])
    assert median([], "valid_value", higher_is_better=True)[0].tolist() == []


def test_the_frame_holds_the_late_values_of_every_seed_and_not_the_early_ones() -> None:
    groups = [[_run(0, [10, 80, 90, 91, 92, 92])], [_run(0, [5, 70, 80, 85, 90, 91]), _run(1, [9, 70, 80, 85, 90, 97])]]
    shared = frame(groups, 60, METRIC)
    low, high = shared.limits["valid_value"]
    assert 10 < low < 70
    assert 97 < high < 100
    assert not shared.logarithmic["valid_value"]


def test_a_run_that_broke_does_not_stretch_the_frame() -> None:
    whole = [_run(0, [80, 90, 91, 92]), _run(1, [80, 91, 92, 93]), _run(2, [80, 92, 93, 94])]
    assert frame([[*whole, _run(3, [70, 5], "diverged")]], 40, METRIC).limits["valid_value"][0] > 70


def test_the_frame_holds_the_end_of_an_arm_far_below() -> None:
    near = [_run(seed, [90, 95, 95.5, 96]) for seed in range(9)]
    assert frame([near, [_run(0, [10, 10, 11, 12])]], 40, METRIC).limits["valid_value"][0] < 12


def test_a_loss_that_spans_much_is_logarithmic() -> None:
    wide = frame([[_run(0, [1, 2, 5, 50, 500])]], 50, METRIC)
    narrow = frame([[_run(0, [1, 2, 2.1, 2.2, 2.3])]], 50, METRIC)
    assert (wide.logarithmic["train_loss"], narrow.logarithmic["train_loss"]) == (True, False)
    assert wide.limits["train_loss"][0] > 0
    assert frame([[]], 50, METRIC).limits["train_loss"] == pytest.approx((-0.08, 1.08))


@pytest.mark.parametrize("points", [5, 40])
def test_every_seed_is_drawn_with_at_most_so_many_points(points: int) -> None:
    rng = np.random.default_rng(1)
    runs = [_run(seed, list(rng.uniform(1, 9, 30)), "done" if seed else "diverged") for seed in range(3)]
    root = ET.fromstring(
        learning(runs, runs, arm_styles(["a"], "a")["a"], METRIC, frame([runs], 300, METRIC), points, name="c")
    )
    tips = [group for group in root.iter("g") if (group.findtext("title") or "").startswith("seed")]
    lines = [group.find("path") for group in tips if group.findtext("title") in ("seed 0", "seed 1", "seed 2")]
    # Two fields of three seeds.
    assert len(lines) == 6
    assert max(line.get("d", "").count("L") + 1 for line in lines if line is not None) <= points
    crosses = [group.findtext("title") or "" for group in tips if "diverged" in (group.findtext("title") or "")]
    assert len(crosses) == 2
    assert "1 of 3 seeds ended without a value" in (root.findtext("desc") or "")


def test_a_run_before_its_first_evaluation_is_described() -> None:
    runs = [_run(0, []), _run(1, [], "failed")]
    root = ET.fromstring(
        learning(runs, [], arm_styles(["a"], "a")["a"], METRIC, frame([runs], 300, METRIC), 9, name="c")
    )
    assert root.findtext("desc") == "a: no evaluation yet; 1 of 2 seeds ended without a value."
