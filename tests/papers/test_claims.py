"""Figures by themselves, runs that break, and counts of data sets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from digits_paper import difference, diverges, value
from scipy.stats import binomtest

from normscope.catalogue import TASKS
from normscope.papers.cell import Count
from normscope.papers.claims import judge_broken, judge_count, judge_value
from normscope.papers.judgement import Judgement
from normscope.results.runs import Arm, match_runs, read_runs
from normscope.results.store import StudyFolder


def arm_of(study: Path, label: str) -> tuple[Arm, dict]:
    card = StudyFolder(study).read_card()
    runs, _ = read_runs(StudyFolder(study), card)
    (entry,) = [each for each in card["arms"] if each["label"] == label]
    return match_runs(card, entry, runs), card


def test_a_figure_of_another_setting_is_shown_and_not_judged(trained: Path) -> None:
    arm, card = arm_of(trained, "layer_norm")
    told = judge_value(value(2.5), "digits", arm, card)
    assert (told.verdict, told.because) == ("not compared", "other setting: only differences are compared")
    assert told.ours == pytest.approx(np.mean(list(arm.values.values())))
    assert "a stand-in" in judge_value(value(2.5, task="mnist_mlp"), "digits", arm, card).because
    # The same preset, cut short.
    assert judge_value(value(2.5, same_preset="small"), "digits", arm, card).verdict == "not compared"


def test_a_figure_of_the_same_setting_is_judged(trained: Path) -> None:
    arm, card = arm_of(trained, "layer_norm")
    whole = {**card, "steps": TASKS["digits"].presets["small"].steps}
    mean = float(np.mean(list(arm.values.values())))
    ours = value(mean, same_preset="small", examples=10, id="ours")
    assert judge_value(ours, "digits", arm, whole).verdict == "reproduced"
    far = value(90.0, same_preset="small", id="far")
    told = judge_value(far, "digits", arm, whole)
    assert (told.verdict, told.because) == ("not reproduced", "the figure lies further off than epsilon")
    # Another signature is another scorer.
    other = replace(far, metric=replace(far.metric, signature="tok:13a"))
    assert "unknown scorer" in judge_value(other, "digits", arm, whole).because


def test_broken_runs_are_counted_by_the_exact_interval(trained: Path, exploded: Path) -> None:
    dead, card = arm_of(exploded, "none")
    assert set(dead.ended.values()) == {"diverged"}
    assert binomtest(6, 6).proportion_ci(0.95).low > 0.5
    told = judge_broken(diverges(), "digits", dead, card)
    assert (told.verdict, told.because, told.pairs) == ("reproduced", "6 of 6 runs broke", 6)
    alive, card = arm_of(trained, "none")
    assert judge_broken(diverges(), "digits", alive, card).verdict == "not reproduced"
    # An error of over a tenth of a per cent counts as broken, if the cell says so.
    assert judge_broken(diverges(broken_at=0.1), "digits", alive, card).verdict == "reproduced"
    five = replace(alive, runs={seed: alive.runs[seed] for seed in range(5)})
    assert binomtest(0, 5).proportion_ci(0.95).high > 0.5
    assert judge_broken(diverges(), "digits", five, card).verdict == "cannot tell: needs 6 seeds"


def signed(name: str, sign: int | None, task: str = "digits") -> Judgement:
    return Judgement(cell=difference(1.0, id=name), task=task, verdict="", because="", sign=sign)


@pytest.mark.parametrize(
    ("signs", "verdict"),
    [
        ((1, 1, 1, -1), "reproduced"),
        ((1, 1, 1, None), "reproduced"),
        ((1, 0, -1, None), "not reproduced"),
        ((1, 1, 0, None), "cannot tell: needs 1 more data sets"),
        ((None, None, None, None), "not run here"),
    ],
)
def test_counts(signs: tuple[int | None, ...], verdict: str) -> None:
    names = ("a", "b", "c", "d")
    count = Count(id="c", tables=(), source="", says="", cells=names, wanted=(1,), published=3)
    judged = {name: [signed(name, sign)] for name, sign in zip(names, signs, strict=True)}
    assert judge_count(count, judged).verdict == verdict


def test_the_papers_own_set_goes_before_its_stand_in() -> None:
    count = Count(id="c", tables=(), source="", says="", cells=("a",), wanted=(1,), published=1)
    judged = {"a": [signed("a", -1, task="rt"), signed("a", 1)]}
    assert judge_count(count, judged).verdict == "reproduced"
    assert judge_count(count, {"a": [signed("a", -1, task="rt"), signed("a", None)]}).verdict == "not reproduced"


def test_a_run_that_breaks_counts_by_its_verdict() -> None:
    count = Count(id="c", tables=(), source="", says="", cells=("a",), wanted=(1,), published=1)
    broke = Judgement(cell=diverges(id="a"), task="digits", verdict="reproduced", because="", sign=-1)
    assert judge_count(count, {"a": [broke]}).verdict == "reproduced"
    assert judge_count(count, {"a": [replace(broke, verdict="not reproduced")]}).verdict == "not reproduced"
