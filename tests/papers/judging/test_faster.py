"""Claims that an arm is faster, on written curves; and figures other than the metric."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from normscope.papers.judging.agreement import Judgement
from normscope.papers.judging.audit import audit
from normscope.papers.judging.cell import Cell
from normscope.papers.judging.obstacles import obstacle
from normscope.papers.judging.tables import result_rows
from normscope.papers.judging.verdicts import judge_study
from normscope.results.store import write_json
from support.curves import reaching, write_curve
from support.digits_paper import NORMED, PLAIN, difference, value
from support.study_folders import Study

LABELS = {PLAIN: "none", NORMED: "layer_norm"}
BASE = [40, 60, 40, 60, 80, 50, 60, 40]
HALF = [20, 30, 20, 30, 40, 20, 30, 20]


def claim(published: float | None = None, **changed: object) -> Cell:
    given = {"kind": "faster", "arm": NORMED, "baseline": PLAIN, "id": "digits/layer_norm-faster-none", **changed}
    return difference(published, **given)


def judged(path: Path, mine: list, theirs: list, cell: Cell, *, full_steps: int = 100, **card: object) -> Judgement:
    study = Study(path, labels=("none", "layer_norm"), seeds=range(len(mine)), **card)
    for label, steps in (("none", theirs), ("layer_norm", mine)):
        for seed, step in enumerate(steps):
            write_curve(study, label, seed, reaching(step))
            result = study.folder.run(f"{label}-{seed}-0.1").result
            content = {"schema": 1, "state": "done", "value": 3.0, "steps": 100, "reason": None, "seconds": 1.0}
            write_json(result, content)
    (found,) = judge_study([cell], path, LABELS, task="digits", full_steps=full_steps)
    return found


def test_half_the_updates_are_faster(tmp_path: Path) -> None:
    found = judged(tmp_path, HALF, BASE, claim(0.5))
    assert (found.verdict, found.direction, found.pairs) == ("reproduced", 1, 8)
    assert found.because == "the direction, and the published ratio is within our interval"
    assert found.ours == pytest.approx(0.5)
    # The ends are geometric means of two ratios: of 0.4 and 0.5, and of 0.5 twice.
    assert found.interval == pytest.approx((math.sqrt(0.4 * 0.5), 0.5))
    (row,) = result_rows([found.to_dict()])
    assert row[1:3] == ("×0.50", "×0.50 (×0.45 to ×0.50)")
    assert obstacle(found, minutes=1.0, examples=None) is None


def test_only_words_are_a_claim_too(tmp_path: Path) -> None:
    cell = claim()
    found = judged(tmp_path / "a", HALF, BASE, cell)
    assert (found.verdict, found.because) == ("reproduced", "the direction")
    assert result_rows([found.to_dict()])[0][1] == "faster"
    assert audit(cell).words == "words alone, on one run each as far as is printed"
    found = judged(tmp_path / "b", BASE, HALF, cell)
    assert (found.verdict, found.direction) == ("not reproduced", -1)
    assert found.because.endswith("ours is slower")


def test_a_larger_or_smaller_gain_is_said(tmp_path: Path) -> None:
    assert judged(tmp_path / "a", HALF, BASE, claim(0.9)).because.endswith("; the gain is larger than published")
    assert judged(tmp_path / "b", HALF, BASE, claim(0.1)).because.endswith("; the gain is smaller than published")


def test_runs_that_never_arrive_are_counted(tmp_path: Path) -> None:
    found = judged(tmp_path, [None] * 3 + HALF[3:], BASE, claim(0.5))
    assert "fails to reach it in 3 of 8 seeds" in found.because
    assert found.verdict.startswith("cannot tell: needs ")
    assert found.interval is not None
    assert math.isinf(found.interval[1])
    content = found.to_dict()
    assert content["interval"][1] is None
    assert result_rows([content])[0][2].endswith(" to any)")
    told = obstacle(found, minutes=2.0, examples=None)
    assert told is not None
    assert told["kind"] == "time"


def test_the_same_times_are_not_faster(tmp_path: Path) -> None:
    found = judged(tmp_path, BASE, BASE, claim(0.5))
    assert found.verdict in ("not reproduced", "cannot tell: the times do not decide")
    assert found.direction is None
    assert judged(tmp_path / "c", BASE, BASE, claim(0.5), full_steps=200).verdict == "cannot tell: cut short"


def test_a_study_that_is_not_finished_decides_nothing(tmp_path: Path) -> None:
    judged(tmp_path, HALF, BASE, claim(0.5))
    (tmp_path / "runs" / "none-7-0.1" / "result.json").unlink()
    (found,) = judge_study([claim(0.5)], tmp_path, LABELS, task="digits", full_steps=100)
    assert found.verdict == "cannot tell: needs 8 seeds"
    assert found.because == "7 pairs have ended, 1 of 8 seeds have not"


def test_looks_are_read_at_the_last_one_that_both_arms_reached(tmp_path: Path) -> None:
    found = judged(
        tmp_path, [*HALF, *HALF, 30], [*BASE, *BASE, 60], claim(0.5), looks={"pairs": [8, 16, 17], "spending": "pocock"}
    )
    assert found.verdict == "reproduced"
    (tmp_path / "runs" / "none-16-0.1" / "result.json").unlink()
    (found,) = judge_study([claim(0.5)], tmp_path, LABELS, task="digits", full_steps=100)
    assert (found.verdict, found.pairs) == ("reproduced", 16)


def test_a_baseline_at_chance_gives_no_speed(tmp_path: Path) -> None:
    judged(tmp_path, HALF, BASE, claim(0.5))
    for seed in range(8):
        path = tmp_path / "runs" / f"none-{seed}-0.1" / "result.json"
        write_json(path, {"schema": 1, "state": "done", "value": 90.0, "steps": 100, "reason": None})
    (found,) = judge_study([claim(0.5)], tmp_path, LABELS, task="digits", full_steps=100)
    assert found.verdict == "cannot tell: the baseline does not train"


def test_ratios_are_positive() -> None:
    with pytest.raises(ValueError, match=r"a ratio of updates is positive, got -0\.5"):
        claim(-0.5)


RANK = replace(value(1.0).metric, name="rank", unit="rank")
AGGREGATE = {"name": "test error", "unit": "%", "higher_is_better": False, "aggregate": "percentage"}


def columns(path: Path) -> Study:
    """Write eight seeds whose scores have two columns: errors of 100 images, and how many there are."""
    study = Study(path, labels=("none", "layer_norm"), seeds=range(8), metric=AGGREGATE, steps=100)
    rng = np.random.default_rng(0)
    for label, mean in (("none", 30), ("layer_norm", 20)):
        for seed in range(8):
            scores = np.stack([rng.binomial(100, mean / 100, 50), np.full(50, 100)], axis=1)
            measures = {"measures": {"MR": 70.0 + (label == "layer_norm") + 0.01 * seed * (label == "none")}}
            value = 100 * scores[:, 0].sum() / scores[:, 1].sum()
            study.run(label, seed, float(value), scores=scores, result=measures)
    return study


def test_a_column_of_the_scores_is_a_figure_with_its_examples(tmp_path: Path) -> None:
    columns(tmp_path)
    cell = difference(10.0, arm=PLAIN, baseline=NORMED, measure="numerator", metric=RANK, chance=99.0)
    (found,) = judge_study([cell], tmp_path, LABELS, task="digits", full_steps=100)
    assert found.verdict == "reproduced"
    assert found.ours == pytest.approx(10, abs=1.0)
    assert found.interval_examples is not None
    assert result_rows([found.to_dict()])[0][1] == "+10.0"


def test_a_measure_of_the_task_is_a_figure(tmp_path: Path) -> None:
    columns(tmp_path)
    metric = replace(RANK, higher_is_better=True, unit="%")
    cell = difference(1.0, arm=NORMED, baseline=PLAIN, measure="MR", metric=metric, chance=50.0)
    (found,) = judge_study([cell], tmp_path, LABELS, task="digits", full_steps=100)
    assert (found.verdict, found.direction, found.interval_examples) == ("reproduced", 1, None)
    assert found.ours == pytest.approx(1 - 0.035)
    dead = replace(cell, chance=80.0)
    (found,) = judge_study([dead], tmp_path, LABELS, task="digits", full_steps=100)
    assert found.verdict == "cannot tell: the baseline does not train"
    absent = replace(cell, measure="SICK r")
    (found,) = judge_study([absent], tmp_path, LABELS, task="digits", full_steps=100)
    assert found.pairs == 0


def test_a_difference_in_words_has_a_direction_and_no_size(tmp_path: Path) -> None:
    columns(tmp_path)
    cell = difference(None, arm=NORMED, baseline=PLAIN)
    (found,) = judge_study([cell], tmp_path, LABELS, task="digits", full_steps=100)
    assert (found.verdict, found.because) == (
        "reproduced",
        "the direction; sizes are not compared: the paper prints none",
    )
    assert result_rows([found.to_dict()])[0][1] == "better"
    assert found.epsilon is None
    (found,) = judge_study([replace(cell, arm=PLAIN, baseline=NORMED)], tmp_path, LABELS, task="digits", full_steps=100)
    assert found.verdict == "not reproduced"
