"""The path of the looks: what is planned, what was found at each look, and what the figure shows of it."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from normscope.report.drawing.palette import arm_styles
from normscope.report.study.folder import read_study
from normscope.report.study.looks import describe_plan, look_rows, path
from normscope.report.study.page import render, write_report
from normscope.report.study.table import verdict_rows
from normscope.results import Summary, read_summary
from normscope.results.look_state import EarlierLooks, LookState, NextLook
from normscope.results.per_arm import ArmLook, ArmSummary
from normscope.results.sequential import Spending

PAIRS = (10, 15, 20)


def look(pairs: int, difference: float, **changed: Any) -> ArmLook:
    """Build a look whose interval has a width of 0.6."""
    told = {"boundary": 0.4, "p_adjusted": 0.2, "p_equivalent": 0.06, "verdict": "not enough evidence"}
    interval = (difference - 0.3, difference + 0.3)
    return ArmLook(pairs=pairs, difference=difference, interval=interval, **{**told, **changed})


@pytest.fixture(scope="module")
def summary(looks_study: Path) -> Summary:
    return read_summary(looks_study)


@pytest.fixture
def arm(summary: Summary) -> ArmSummary:
    """An arm that was decided at its second look."""
    second = look(15, 0.7, boundary=0.25, verdict="better", p_adjusted=0.004)
    return replace(summary.arms[3], label="ada_norm", looks=(look(10, 0.5), second), decided_at=15)


def state(ended: Any, reached: int, following: NextLook | None = None) -> LookState:
    return LookState(pairs=PAIRS, spending="pocock", reached=reached, ended=ended, next=following)


@pytest.mark.parametrize(
    ("looks", "words"),
    [
        (state("decided", 2), "It ended at 15 pairs, when every arm was decided"),
        (state("maximum", 3), "It ended at the planned maximum of 20 pairs."),
        (state("time", 0), "It stopped before its first look, when its time was up."),
        (state("time", 1), "It stopped after the look at 10 pairs, when its time was up."),
        (state("hopeless", 1), "It stopped at 10 pairs, since a decision at a later look was unlikely"),
        (
            state(None, 1, NextLook(pairs=15, runs=12, minutes=34.0)),
            "Looks reached: 1 of 3. The study goes on. The next look is at 15 seeds: 12 runs, about 34 minutes.",
        ),
        (
            state(None, 0, NextLook(pairs=10, runs=30, minutes=None)),
            "Looks reached: 0 of 3. The study goes on. The next look is at 10 seeds: 30 runs.",
        ),
    ],
)
def test_the_plan_says_what_was_planned_how_it_ended_and_what_comes_next(
    looks: LookState, words: str, summary: Summary
) -> None:
    first, second, third = describe_plan(replace(summary, looks=looks))
    assert first.startswith("Planned before the first run: looks at 10, 15 and 20 pairs.")
    assert "as in Pocock (1977)" in first
    assert second.startswith(words)
    assert third.startswith("Going on to the looks that are planned") == (looks.reached in (1, 2))
    assert ("tested at the conditional level (Koning and van Meer, 2025)" in third) == (looks.reached in (1, 2))
    assert third.endswith("exploratory.")


def test_a_plan_that_was_changed_after_results_is_called_exploratory(summary: Summary) -> None:
    first, _, third = describe_plan(replace(summary, changes=(10,)))
    assert first.startswith("Changed after results could be seen")
    assert third == "The p values are exploratory: 10 of 20 seeds came after results could be seen."


def test_a_plan_that_was_changed_at_a_look_goes_on_at_the_conditional_level(summary: Summary) -> None:
    earlier = EarlierLooks(pairs=(10, 15), spending="kim_demets", seen=10)
    first, _, third = describe_plan(replace(summary, looks=replace(state(None, 2), continues=earlier)))
    assert first.startswith("Planned before the first run: looks at 10 and 15 pairs. Changed after the look at 10: now")
    assert third.startswith(
        "The p values are exploratory: the plan of 15 seeds was changed after 10, but for differences"
    )


def test_looks_of_a_table_are_declared(summary: Summary) -> None:
    assert describe_plan(summary, declared=True)[0].startswith("Declared with the table: looks at 10, 15 and 20 pairs.")


def lines(root: ET.Element, style: str) -> list[tuple[float, ...]]:
    """Return the ends of the straight lines whose style contains a text: x, y, x, y."""
    number = r"([\d.]+)"
    return [
        tuple(map(float, found.groups()))
        for each in root.iter("path")
        if style in (each.get("style") or "")
        and (found := re.fullmatch(rf"M {number} {number}\s+L {number} {number}", each.get("d", "")))
    ]


def test_marks_stand_at_their_difference_interval_and_boundary(summary: Summary, arm: ArmSummary) -> None:
    styles = arm_styles([each.label for each in summary.arms], summary.baseline)
    root = ET.fromstring(path(arm, styles["ada_norm"], summary, name="p"))
    texts = {(each.text or "").replace("−", "-"): each for each in root.iter("text")}
    at = {pairs: float(texts[str(pairs)].get("x", "")) for pairs in PAIRS}
    ups = [
        (float(each.get("y", "")), float(name))
        for name, each in texts.items()
        if re.fullmatch(r"-?[\d.]+", name) and "end" in (each.get("style") or "")
    ]
    slope = np.polyfit(*zip(*ups, strict=True), 1)[0]
    (zero,) = {y for _, y, _, end in lines(root, "stroke:var(--muted)") if y == end}

    def height(y: float) -> float:
        return (y - zero) * slope

    marks = {(float(each.get("x", "")), round(height(float(each.get("y", ""))), 2)) for each in root.iter("use")}
    # The ring stands at the place of its look.
    assert marks == {(at[10], 0.5), (at[15], 0.7)}
    intervals = {
        (x, *sorted(round(height(y), 2) for y in ys))
        for x, *ys in ((x, y, end) for x, y, to, end in lines(root, "stroke-width:3") if x == to)
    }
    assert intervals == {(at[10], 0.2, 0.8), (at[15], 0.4, 1.0)}
    bars = sorted(
        ((x + to) / 2, round(height(y), 2)) for x, y, to, _ in lines(root, "stroke:var(--ink);stroke-width:2")
    )
    assert bars == [
        pytest.approx(each, abs=0.01) for each in ((at[10], -0.4), (at[10], 0.4), (at[15], -0.25), (at[15], 0.25))
    ]
    assert {x for x, *_ in lines(root, "stroke:var(--rule)") if x > 50} == {at[20]}
    words = root.find("desc")
    assert words is not None
    assert "at 15 pairs +0.70 points [+0.40, +1.00], claimed beyond ±0.25: better" in (words.text or "")


def rings(svg: str) -> int:
    return sum("stroke-width:1.6" in (each.get("style") or "") for each in ET.fromstring(svg).iter())


def test_a_ring_marks_the_look_that_decided_and_nothing_else(summary: Summary, arm: ArmSummary) -> None:
    style = arm_styles([each.label for each in summary.arms], summary.baseline)["ada_norm"]
    assert rings(path(arm, style, summary, name="p")) > 0
    assert rings(path(replace(arm, decided_at=None), style, summary, name="p")) == 0


def test_a_look_without_a_boundary_draws_none(summary: Summary, arm: ArmSummary) -> None:
    style = arm_styles([each.label for each in summary.arms], summary.baseline)["ada_norm"]
    bare = replace(arm, looks=(look(10, 0.5, boundary=None),), decided_at=None)
    svg = path(bare, style, summary, name="p")
    assert "claimed beyond —" in svg
    assert path(replace(arm, looks=(look(10, 0.5),), decided_at=None), style, summary, name="p") != svg


def test_the_table_has_the_numbers_of_every_look(summary: Summary, arm: ArmSummary) -> None:
    untuned = replace(arm, looks=(look(10, -0.1, verdict="not enough evidence (the test set is too small)"),))
    rows = look_rows(replace(summary, arms=(summary.arms[0], arm), untuned=(summary.arms[0], untuned)))
    assert [(row["label"], row["side"], row["pairs"]) for row in rows] == [
        ("ada_norm", "", 10),
        ("ada_norm", "", 15),
        ("ada_norm", "untuned", 10),
    ]
    assert rows[1] == {
        "label": "ada_norm",
        "side": "",
        "pairs": 15,
        "difference": "+0.70",
        "interval": "[+0.40, +1.00]",
        "boundary": "±0.25",
        "p_adjusted": "0.004",
        "p_equivalent": "0.060",
        "kind": "better",
        "note": "",
        "decided": True,
    }
    assert rows[2]["note"] == "the test set is too small"
    assert not rows[2]["decided"]


def test_the_details_of_an_arm_say_where_it_was_decided(summary: Summary, arm: ArmSummary) -> None:
    (row,) = verdict_rows([arm], summary)
    facts = {cell.head: cell.text for cell in row.details}
    assert facts["Looks, at these numbers of pairs"] == "10, 15"
    assert facts["Decided at"] == "15 pairs"


def test_the_page_shows_the_path_of_every_arm(looks_study: Path, summary: Summary) -> None:
    page = render(read_study(looks_study))
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    looked = [each for each in summary.arms if each.looks]
    assert 2 < len(looked) < len(summary.arms)
    assert len(re.findall(r'id="looks-\d+-title"', page)) == len(looked)
    assert "7 arms, up to 20 seeds each" in text
    assert "Looks reached: 1 of 3. The study goes on. The next look is at 15 seeds" in text
    assert "A decided arm stays decided; no claim is made of the others." in text
    for line in describe_plan(summary):
        assert line in text.replace("&#39;", "'")


def test_a_study_without_looks_says_nothing_of_them(make_study: Callable, recipe: type, tmp_path: Path) -> None:
    page = write_report(make_study(tmp_path / "s", recipe(arms=2, seeds=3, evaluations=5))).read_text(encoding="utf-8")
    assert not re.search(r"\blooks?\b", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL), re.IGNORECASE)


def test_every_spending_is_named(summary: Summary) -> None:
    for spending in get_args(Spending):
        looks = replace(state("maximum", 3), spending=spending)
        assert re.search(r"as in .*\(\d{4}\)", describe_plan(replace(summary, looks=looks))[0])
