"""Figures by themselves, runs that break, and counts of data sets."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from normscope.papers.judging.agreement import Judgement
from normscope.papers.judging.cell import Count
from normscope.papers.judging.differences import weigh
from normscope.papers.judging.verdicts import judge_broken, judge_count, judge_value
from normscope.papers.xu2019.study import XU2019
from normscope.results.matching import ArmRuns, StoredRun, match_runs, read_runs
from normscope.results.store import RunFolder, StudyFolder
from support.digits_paper import difference, diverges, value


def arm_of(study: Path, label: str) -> tuple[ArmRuns, dict]:
    card = StudyFolder(study).read_card()
    runs, _ = read_runs(StudyFolder(study), card)
    (entry,) = [each for each in card["arms"] if each["label"] == label]
    return match_runs(card, entry, runs), card


def made_up_arm(label: str, ended: Sequence[float | str]) -> ArmRuns:
    """Return an arm whose runs ended so; nothing of it is on disk."""
    results = [{"state": "done", "value": end} if not isinstance(end, str) else {"state": end} for end in ended]
    folder = RunFolder(Path("nowhere"))
    runs = {seed: StoredRun(folder=folder, description={}, result=result) for seed, result in enumerate(results)}
    return ArmRuns(entry={"label": label}, runs=runs)


def broke(arm: Sequence[float | str], baseline: Sequence[float | str], *, planned: int = 10, steps: int = 100) -> str:
    """Judge that w/o Norm diverges on WMT by runs of the small stand-in that ended so, in BLEU."""
    (cell,) = [one for one in XU2019.cells if one.id == "wmt14_en_de/none"]
    card = {"alpha": 0.05, "seeds": list(range(planned)), "steps": steps, "metric": {"signature": "x"}}
    sides = (made_up_arm("none", arm), made_up_arm("layer_norm", baseline))
    return judge_broken(cell, "wmt_en_de_10k", *sides, card, full_steps=100).verdict


def test_a_figure_is_shown_and_not_judged(trained: Path) -> None:
    arm, card = arm_of(trained, "layer_norm")
    told = judge_value(value(2.5), "digits", arm, card)
    assert (told.verdict, told.because) == ("not compared", "other setting: only differences are compared")
    assert told.ours == pytest.approx(np.mean(list(arm.values.values())))
    assert "a stand-in" in judge_value(value(2.5, task="mnist_mlp"), "digits", arm, card).because


def test_broken_runs_are_counted_by_the_exact_interval(trained: Path, exploded: Path) -> None:
    (dead, card), (control, _) = (arm_of(exploded, label) for label in ("none", "layer_norm"))
    assert set(dead.ended.values()) == {"diverged"}
    assert binomtest(6, 6).proportion_ci(0.95).low > 0.5
    told = judge_broken(diverges(), "digits", dead, control, card, full_steps=10)
    assert (told.verdict, told.pairs) == ("reproduced", 6)
    assert told.because == "6 of 6 runs broke, 0 of 6 of the baseline"
    control, card = arm_of(trained, "layer_norm")
    assert judge_broken(diverges(), "digits", control, control, card, full_steps=40).verdict == "not reproduced"
    five = replace(control, runs={seed: control.runs[seed] for seed in range(5)})
    few = {**card, "seeds": list(range(5))}
    assert binomtest(0, 5).proportion_ci(0.95).high > 0.5
    assert judge_broken(diverges(), "digits", five, five, few, full_steps=40).verdict == "cannot tell: needs 6 seeds"


def test_diverging_needs_a_baseline_that_trains() -> None:
    poor, good, gone = [1.2] * 10, [14.0] * 10, ["diverged"] * 10
    assert broke(poor, poor) == "cannot tell: the baseline does not train either"
    assert broke(gone, poor) == "cannot tell: the baseline does not train either"
    assert broke(gone, [14.0] * 6 + ["diverged"] * 4) == "cannot tell: the baseline does not train either"
    assert broke(gone, good) == "reproduced"
    assert broke(poor, good) == "reproduced"
    assert broke(good, good) == "not reproduced"
    assert broke(good[:5] + gone[:5], good) == "cannot tell: needs 11 seeds"


def test_diverging_waits_for_every_planned_seed() -> None:
    assert broke(["diverged"] * 6, [14.0] * 6) == "cannot tell: needs 10 seeds"
    assert broke(["diverged"] * 10, [14.0] * 9) == "cannot tell: needs 10 seeds"
    assert broke(["diverged"] * 6, [14.0] * 6, planned=6) == "reproduced"
    assert broke(["diverged"] * 10, [14.0] * 10, steps=99) == "cannot tell: cut short"
    assert broke([], []) == "not run here"


@pytest.mark.parametrize("state", ["failed", "unscored"])
def test_runs_without_a_score_say_nothing_about_diverging(state: str) -> None:
    good = [14.0] * 10
    assert broke([state] * 10, good) == "cannot tell: needs 10 seeds"
    card = {"metric": {"aggregate": "mean", "higher_is_better": True}, "alpha": 0.05, "seeds": list(range(10))}
    sides = (made_up_arm("none", [state, "diverged", 13.0]), made_up_arm("layer_norm", [14.0] * 3))
    pairs = weigh(difference(1.0), "digits", *sides, card, comparisons=1)
    assert (pairs.pairs, pairs.failed, pairs.broken) == (2, 1, (1, 1))
    assert broke(["diverged"] * 7 + [state] * 3, good) == broke(["diverged"] * 7, good[:7], planned=7) == "reproduced"


def signed(name: str, direction: int | None, task: str = "digits", *, within: bool = False) -> Judgement:
    cell = difference(1.0, id=name)
    return Judgement(cell=cell, task=task, verdict="", because="", direction=direction, within_margin=within)


@pytest.mark.parametrize(
    ("signs", "verdict"),
    [
        ((1, 1, 1, -1), "reproduced"),
        ((1, 1, 1, None), "reproduced"),
        ((1, -1, -1, None), "not reproduced"),
        ((1, 1, -1, None), "cannot tell: needs 1 more data sets"),
        ((None, None, None, None), "not run here"),
    ],
)
def test_counts(signs: tuple[int | None, ...], verdict: str) -> None:
    names = ("a", "b", "c", "d")
    count = Count(id="c", tables=(), source="", says="", cells=names, wanted=(1,), published=3)
    judged = {name: [signed(name, sign)] for name, sign in zip(names, signs, strict=True)}
    assert judge_count(count, judged).verdict == verdict


@pytest.mark.parametrize(
    ("wanted", "direction", "within_margin", "agree"),
    [
        ((1,), 1, True, 1),
        ((1,), -1, True, 0),
        ((1,), None, True, None),
        ((0, 1), -1, True, 1),
        ((0, 1), None, True, 1),
        ((0, 1), -1, False, 0),
        ((0, 1), None, False, None),
    ],
)
def test_the_margin_counts_only_where_equal_is_wanted(
    wanted: tuple[int, ...], direction: int | None, within_margin: bool, agree: int | None
) -> None:
    count = Count(id="c", tables=(), source="", says="", cells=("a",), wanted=wanted, published=1)
    assert judge_count(count, {"a": [signed("a", direction, within=within_margin)]}).ours == agree


def test_the_papers_own_set_goes_before_its_stand_in() -> None:
    count = Count(id="c", tables=(), source="", says="", cells=("a",), wanted=(1,), published=1)
    judged = {"a": [signed("a", -1, task="rt"), signed("a", 1)]}
    assert judge_count(count, judged).verdict == "reproduced"
    assert judge_count(count, {"a": [signed("a", -1, task="rt"), signed("a", None)]}).verdict == "not reproduced"


def test_a_run_that_breaks_counts_by_its_verdict() -> None:
    count = Count(id="c", tables=(), source="", says="", cells=("a",), wanted=(1,), published=1)
    broke = Judgement(cell=diverges(id="a"), task="digits", verdict="reproduced", because="")
    assert judge_count(count, {"a": [broke]}).verdict == "reproduced"
    assert judge_count(count, {"a": [replace(broke, verdict="not reproduced")]}).verdict == "not reproduced"
