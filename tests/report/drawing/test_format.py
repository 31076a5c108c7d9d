"""Numbers and sentences, against what a person would write."""

from typing import Any

import pytest

from normscope.report.drawing import format as words
from normscope.results import ArmSummary, RunSummary, Summary
from normscope.results.schema import RunState


@pytest.mark.parametrize(("margin", "wanted"), [(0.3, 2), (0.05, 3), (1.0, 1), (2.0, 1), (25.0, 0), (0.0, 4)])
def test_decimals_show_a_tenth_of_the_margin(margin: float, wanted: int) -> None:
    assert words.decimals(margin) == wanted


def test_numbers_have_a_true_minus_and_no_signed_zero() -> None:
    assert words.number(-0.4567, 2, signed=True) == "−0.46"
    assert words.number(0.4567, 2, signed=True) == "+0.46"
    assert words.number(-0.001, 2, signed=True) == "0.00"
    assert words.number(1234567, 0) == "1\u202f234\u202f567"
    assert words.number(None, 2) == "—"
    assert words.span((-0.5, 1.25), 1) == "[−0.5, +1.2]"


def test_no_number_has_more_digits_than_a_float() -> None:
    assert words.number(5.0506e24, 3) == "5.051e+24"
    assert words.number(-3.4e23, 3, signed=True) == "−3.4e+23"
    assert words.number(1e-25, 26) == "1e-25".replace("-", "−")
    assert words.number(0.0, 30) == "0"
    assert words.number(123456789012.0, 3) == "123\u202f456\u202f789\u202f012.000"


def test_probabilities_below_a_thousandth_are_not_zero() -> None:
    assert [words.probability(p) for p in (0.0004, 0.0234, 1.0, None)] == ["< 0.001", "0.023", "1.000", "—"]


def test_sizes_times_and_rates() -> None:
    assert [words.storage(count) for count in (512, 4_000_000, 3 * 2**30, None)] == [
        "512 B",
        "3.81 MiB",
        "3.00 GiB",
        "—",
    ]
    assert [words.duration(seconds) for seconds in (4.2, 75, 7260, None)] == ["4.20 s", "1 min 15 s", "2 h 1 min", "—"]
    assert [words.rate(value) for value in (0.003, 1e-5, 3 * 0.0001, None)] == ["0.003", "1e−5", "0.0003", "—"]
    assert [words.significant(value) for value in (0.02345, 123.456, 1.5e-7, 0)] == ["0.0234", "123", "1.5e−07", "0"]


def test_differences_of_percentages_are_points() -> None:
    assert words.change(0.42, 2, "%") == "+0.42 points"
    assert words.change(-0.1, 2, "bpc") == "−0.10 bpc"
    assert words.change(-0.1, 2, "") == "−0.10"
    assert words.change(None, 2, "%") == "—"
    assert words.level(0.05) == "95\u202f%"
    assert words.level(0.01) == "99\u202f%"


def _arm(verdict: str, **more: Any) -> ArmSummary:
    states: list[RunState] = ["done"] * 7 + ["diverged"] * 3 + ["planned"]
    runs = tuple(RunSummary(seed=seed, state=state, value=None) for seed, state in enumerate(states))
    numbers = {"difference": 0.42, "interval": (0.2, 0.64), "p_adjusted": 0.012, "pairs": 10, "mean": 97.5, "sd": 0.2}
    about = {"label": "ada", "norm": "ada_norm", "verdict": verdict, "failures": 0, "runs": runs}
    return ArmSummary(**(about | numbers | more))


def _summary(*arms: ArmSummary) -> Summary:
    metric = {"name": "accuracy", "unit": "%", "higher_is_better": True}
    about = {"task": "digits", "question": "?", "regime": "", "command": "", "complete": True, "noise": None}
    return Summary(**about, metric=metric, baseline="ln", margin=0.3, alpha=0.05, arms=arms)


OPEN = "cannot yet be said to differ from ln in accuracy, nor to equal it"
FACTS = "+0.42 points (95 % interval [+0.20, +0.64]; adjusted p = 0.012; 10 pairs)"


@pytest.mark.parametrize(
    ("verdict", "wanted"),
    [
        ("better", f"is better than ln in accuracy: {FACTS}."),
        ("worse", f"is worse than ln in accuracy: {FACTS}."),
        ("equivalent", f"is equivalent to ln in accuracy, within the margin of ±0.3 points: {FACTS}."),
        (
            "equivalent (ahead, by less than the margin)",
            "is equivalent to ln in accuracy (ahead, by less than the margin), within the margin of ±0.3 points: "
            f"{FACTS}.",
        ),
        (
            "not enough evidence (about 4 more seeds)",
            f"{OPEN}: {FACTS}. It would take about 4 more seeds to decide.",
        ),
        (
            "not enough evidence (2 of 10 planned seeds not ended)",
            f"{OPEN}: {FACTS}. 2 of 10 planned seeds not ended.",
        ),
        (
            "fails to train in 3 of 10 seeds; over the 7 pairs that finished: ahead",
            f"Over the 7 pairs that finished: ahead: {FACTS}.",
        ),
        (
            "the baseline fails to train in 1 of 10 seeds; no pair finished",
            f"has no verdict of its own. The baseline fails to train in 1 of 10 seeds; no pair finished: {FACTS}.",
        ),
    ],
)
def test_a_sentence_says_the_verdict_and_its_numbers(verdict: str, wanted: str) -> None:
    said = words.sentence(_arm(verdict), _summary())
    assert said.replace("\u202f", " ").replace("\N{NO-BREAK SPACE}", " ") == wanted


def test_a_sentence_without_pairs_says_so() -> None:
    arm = _arm("not enough evidence (10 of 10 planned seeds not ended)", difference=None)
    assert "nor to equal it: no pair of runs has finished." in words.sentence(arm, _summary())


def test_the_baseline_is_described_with_and_without_a_value() -> None:
    assert (
        words.sentence(_arm("baseline", label="ln"), _summary()) == "is the baseline, with a mean accuracy of 97.50 %."
    )
    assert (
        words.sentence(_arm("baseline", label="ln", mean=None), _summary()) == "is the baseline; it has no value yet."
    )


def test_failures_are_parted_from_the_rest_of_a_verdict() -> None:
    failing = _arm("fails to train in 3 of 10 seeds; over the 7 pairs that finished: ahead", failures=3)
    assert words.split_verdict(failing) == ("fails to train in 3 of 10 seeds", "over the 7 pairs that finished: ahead")
    both = "fails to train in 1 of 9 seeds; could not be computed in 1 of 9 seeds"
    assert words.split_verdict(_arm(f"{both}; over the 7 pairs")) == (both, "over the 7 pairs")
    assert words.split_verdict(_arm("baseline", failures=3)) == ("fails to train in 3 of 10 seeds", "baseline")
    assert words.split_verdict(_arm("better")) == ("", "better")


def test_headline_counts_failures_first_and_never_as_better() -> None:
    arms = [
        _arm("baseline", label="ln"),
        _arm("better"),
        _arm("not enough evidence (about 4 more seeds)"),
        _arm("fails to train in 3 of 10 seeds; over the 7 pairs that finished: ahead", failures=3),
    ]
    lost = _arm("could not be computed in 1 of 10 seeds; no pair finished")
    assert "1 failing to train in some seeds, 1 not computed in some seeds, 1 better" in words.headline(
        _summary(*arms, lost)
    )
    said = words.headline(_summary(*arms))
    assert said == "3 arms against ln: 1 failing to train in some seeds, 1 better, 1 undecided."
    assert words.headline(_summary(*arms[:1])) == "ln alone: there is nothing to compare it with."
