"""Why a claim stays open on this machine, with the minutes or the test examples that would do."""

from pathlib import Path
from typing import Any

import pytest

from normscope.papers.judging.agreement import Judgement, not_run
from normscope.papers.judging.obstacles import examples_needed, examples_of, minutes_of, obstacle
from normscope.results.matching import read_arms
from normscope.results.store import StudyFolder
from support.digits_paper import difference, diverges, value


def judged(verdict: str, **changed: Any) -> Judgement:
    return Judgement(**{"cell": difference(1.0), "task": "digits", "verdict": verdict, "because": "", **changed})


@pytest.mark.parametrize("verdict", ["reproduced", "not reproduced"])
def test_a_decided_claim_has_none(verdict: str) -> None:
    assert obstacle(judged(verdict), minutes=1.0, examples=100) is None


def test_a_figure_claims_nothing() -> None:
    assert obstacle(not_run(value(1.0), "no data"), minutes=None, examples=None) is None


def test_seeds_are_minutes() -> None:
    open_claim = judged("cannot tell: needs 66 seeds", seeds_needed=66, pairs=8)
    found = obstacle(open_claim, minutes=2.5, examples=None, stand_in="films in place of digits")
    assert found == {
        "kind": "time",
        "minutes": 145.0,
        "examples": None,
        "words": (
            "58 more seeds of both arms, about 145 minutes on one worker; and on a stand-in: films in place of digits"
        ),
    }
    found = obstacle(open_claim, minutes=None, examples=None)
    assert found is not None
    assert (found["words"], found["minutes"]) == ("58 more seeds of both arms", None)
    found = obstacle(judged("cannot tell: needs over 1000 seeds", pairs=8), minutes=1.0, examples=None)
    assert found is not None
    assert found["words"].startswith("more than 1000 seeds, over 1,000 minutes on one worker")


def test_a_small_test_set_is_a_number_of_examples() -> None:
    # Half as wide takes four times as many: an interval of +-2 around 1 excludes zero with 4 x 1,066 examples.
    claim = judged("cannot tell: needs a larger test set", ours=1.0, interval_examples=(-1.0, 3.0), pairs=30)
    assert examples_needed(claim, 1066) == 4264
    found = obstacle(claim, minutes=1.0, examples=1066)
    assert found is not None
    assert (found["kind"], found["examples"]) == ("examples", 4264)
    assert found["words"] == "the test set has 1,066 examples; a difference like ours takes about 4,264"
    assert examples_needed(judged("", ours=0.0, interval_examples=(-1.0, 1.0)), 1066) is None
    assert examples_needed(judged("", ours=1.0), 1066) is None


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [
        ("cannot tell: the baseline does not train", "training"),
        ("cannot tell: the arm does not train here", "training"),
        ("cannot tell: the scorer is not the paper's", "scorer"),
        ("cannot tell: it is smaller than epsilon", "size"),
        ("cannot tell: cut short", "time"),
    ],
)
def test_every_other_verdict_has_a_kind_and_words(verdict: str, kind: str) -> None:
    found = obstacle(judged(verdict), minutes=1.0, examples=10)
    assert found is not None
    assert found["kind"] == kind
    assert found["words"]


def test_what_was_not_run_says_what_is_lacking() -> None:
    found = obstacle(not_run(diverges(), "data set wmt14 is not downloadable"), minutes=None, examples=None)
    assert found == {
        "kind": "data", "minutes": None, "examples": None, "words": "data set wmt14 is not downloadable",
    }  # fmt: skip


def test_minutes_and_examples_are_those_of_the_runs(trained: Path) -> None:
    study = StudyFolder(trained)
    arms = read_arms(study, study.read_card())
    seconds = [arm.median("seconds") for arm in arms]
    assert minutes_of(arms) == pytest.approx(sum(each or 0.0 for each in seconds) / 60)
    assert minutes_of([]) is None
    assert examples_of(arms) == len(arms[0].runs[0].folder.read_examples())  # pyright: ignore[reportArgumentType]
    assert examples_of([]) is None
