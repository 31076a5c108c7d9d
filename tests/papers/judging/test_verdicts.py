"""A real study of digits held against cells, with scipy's paired t test as the judge of the interval."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

from normscope.papers.judging.verdicts import judge_study
from normscope.results.store import StudyFolder
from normscope.tasks.task import Metric
from support.digits_paper import NORMED, PLAIN, SEEDS, difference, diverges, value

LABELS = {PLAIN: "none", NORMED: "layer_norm"}
FULL = 40
"""Updates of the trained study: it counts as whole."""


def values(study: Path) -> dict[str, np.ndarray]:
    card = StudyFolder(study).read_card()
    return {
        arm["label"]: np.array(
            [StudyFolder(study).run(arm["runs"][str(seed)]).read_result()["value"] for seed in SEEDS]
        )
        for arm in card["arms"]
    }


def test_interval_is_the_wider_of_seeds_and_examples(trained: Path) -> None:
    (told,) = judge_study([difference(1.0)], trained, LABELS, task="digits", full_steps=FULL)
    held = values(trained)
    theirs = ttest_rel(held["none"], held["layer_norm"])
    assert told.ours == pytest.approx(float(np.mean(held["none"] - held["layer_norm"])))
    assert told.interval_seeds == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert told.interval_examples is not None
    assert told.interval is not None
    assert told.interval[0] == min(told.interval_seeds[0], told.interval_examples[0])  # pyright: ignore
    assert told.interval[1] == max(told.interval_seeds[1], told.interval_examples[1])  # pyright: ignore
    assert told.pairs == len(SEEDS)


def test_a_study_reproduces_its_own_difference_and_refutes_the_opposite(trained: Path) -> None:
    ours = float(np.mean(values(trained)["none"] - values(trained)["layer_norm"]))
    assert ours > 10
    near, opposite, tie = (difference(round(each, 3)) for each in (ours, -ours, 0.0))
    told = judge_study([near, opposite, tie], trained, LABELS, task="digits", full_steps=FULL)
    # The arm is at chance: whatever was printed of a network that trains, this one shows nothing about it.
    assert {one.verdict for one in told} == {"cannot tell: the arm does not train here"}
    assert {one.direction for one in told} == {None}
    mean = values(trained)["none"].mean()
    assert told[1].because == f"the arm learns nothing here: its mean is {mean:.4g} %"


def test_six_pairs_claim_nothing_with_five_comparisons(trained: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    shutil.copytree(trained, few)
    card = json.loads((few / "card.json").read_text())
    card["seeds"] = card["seeds"][:6]
    (few / "card.json").write_text(json.dumps(card))
    one = judge_study([difference(1.0)], few, LABELS, task="digits", full_steps=FULL)[0]
    assert not one.verdict.startswith("cannot tell: needs 8")
    cells = [difference(published) for published in (1.0, 2.0, 3.0, 4.0, 5.0)]
    for told in judge_study(cells, few, LABELS, task="digits", full_steps=FULL):
        assert told.verdict == "cannot tell: needs 8 seeds"
        assert told.seeds_needed == 8


def test_an_unfinished_study_tells_nothing(trained: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(trained, cut)
    card = json.loads((cut / "card.json").read_text())
    (cut / "runs" / card["arms"][0]["runs"]["3"] / "result.json").unlink()
    (told,) = judge_study([difference(1.0)], cut, LABELS, task="digits", full_steps=FULL)
    assert told.verdict == "cannot tell: needs 8 seeds"
    assert "1 of 8 seeds have not" in told.because


def test_what_diverges_is_worse_than_any_number(exploded: Path) -> None:
    (worse,) = judge_study([difference(2.0)], exploded, LABELS, task="digits", full_steps=10)
    (better,) = judge_study([difference(-2.0)], exploded, LABELS, task="digits", full_steps=10)
    assert worse.verdict == "reproduced"
    assert (worse.direction, worse.ours) == (-1, None)
    assert worse.because == "runs diverged: better in 0, worse in 6 of 6 pairs (sign test)"
    assert better.verdict == "not reproduced"
    # Three comparisons want seven pairs.
    cells = [difference(2.0), difference(-2.0), difference(0.0), diverges()]
    told = judge_study(cells, exploded, LABELS, task="digits", full_steps=10)
    assert [one.verdict for one in told] == ["cannot tell: needs 7 seeds"] * 3 + ["reproduced"]


def test_a_study_cut_short_reproduces_and_refutes_nothing(trained: Path, exploded: Path) -> None:
    cells = [difference(20.0), difference(-20.0, id="opposite"), value(2.0), diverges()]
    told = judge_study(cells, trained, LABELS, task="digits", full_steps=FULL + 1)
    cut = "cannot tell: cut short"
    assert [one.verdict for one in told] == [cut, cut, "not compared", cut]
    assert told[0].because == "40 of the preset's 41 updates"
    assert {one.direction for one in told} == {None}
    (broke,) = judge_study([diverges()], exploded, LABELS, task="digits", full_steps=11)
    assert broke.verdict == cut


def test_a_baseline_that_learned_nothing_shows_nothing(trained: Path) -> None:
    # The arms change places: what never learned is what the other is compared with.
    swapped = {PLAIN: "layer_norm", NORMED: "none"}
    for published in (-20.0, 20.0, 0.0):
        (told,) = judge_study([difference(published)], trained, swapped, task="digits", full_steps=FULL)
        assert told.verdict == "cannot tell: the baseline does not train"
        assert "chance reaches 87.34" in told.because


def test_cells_whose_arms_the_study_lacks_are_left_out(trained: Path) -> None:
    kept = value(2.0)
    told = judge_study([difference(1.0), kept], trained, {NORMED: "layer_norm"}, task="digits", full_steps=FULL)
    assert [one.cell for one in told] == [kept]


def test_another_metric_is_refused(trained: Path) -> None:
    accuracy = Metric(name="test accuracy", unit="%", higher_is_better=True)
    with pytest.raises(ValueError, match=r"higher_is_better False, and the cell .* True: they cannot be compared"):
        judge_study([difference(1.0, metric=accuracy)], trained, LABELS, task="digits", full_steps=FULL)


def test_no_study_is_no_judgement(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        judge_study([difference(1.0)], tmp_path, LABELS, task="digits", full_steps=FULL)
