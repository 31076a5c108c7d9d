"""What the terminal shows."""

import io
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from normscope.cli.tables import open_console, rows_table, verdict_table
from normscope.results import Summary, summarize
from normscope.studies import compare
from normscope.studies.spec import make_study
from support.in_process import InThisProcess


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    out = tmp_path_factory.mktemp("study")
    compare(make_study("digits", norms=["layer_norm", "none"], seeds=[0, 1], steps=20), out=out, engine=InThisProcess())
    return summarize(out)


def drawn(table: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_every_number_and_word_is_there(summary: Summary, width: int) -> None:
    text = drawn(verdict_table(summary, summary.arms, "Does it?", width=width), width)
    assert max(map(len, text.splitlines())) <= width
    for arm in summary.arms:
        assert f"{arm.mean:.2f}" in text
        for word in arm.verdict.split()[:3]:
            assert word in text
    other = summary.arms[1]
    assert other.interval is not None
    assert f"{other.interval[0]:+.2f} to {other.interval[1]:+.2f}" in text
    assert ("ms/step" in text) is (width == 160)
    assert "Noise floor" in text


def test_means_over_different_seeds_say_so(summary: Summary) -> None:
    baseline, other = summary.arms
    shorter = replace(other, runs=other.runs[:1])
    for arms, is_said in (((baseline, other), False), ((baseline, shorter), True)):
        text = " ".join(drawn(verdict_table(summary, arms, "Does it?", width=160), 160).split())
        assert ("Means are over all finished runs of an arm, whose numbers differ." in text) is is_said


LABELS = ("layer_norm", "layer_norm_simple@post")
WORDS = (
    "baseline",
    "not enough evidence (12 seeds cannot claim anything with 12 comparisons; about 24 more seeds)",
)
NUMBERS: dict[str, Any] = {
    "interval": (-15.5, -9.25),
    "p_adjusted": 0.125,
    "step_ms": 1.25,
    "peak_bytes": None,
    "saved_bytes": 1000,
    "parameters": 1234,
}


def renamed(summary: Summary, unit: str) -> Summary:
    """Give the summary with long names, and with every number there."""
    arms = tuple(
        replace(arm, label=label, verdict=words, difference=-12.34, **NUMBERS)
        for arm, label, words in zip(summary.arms, LABELS, WORDS, strict=True)
    )
    return replace(summary, arms=arms, metric={**summary.metric, "unit": unit})


@pytest.mark.parametrize(("unit", "interval_from", "p_from"), [("%", 70, 80), ("nats/word", 80, 100)])
@pytest.mark.parametrize("width", [40, 45, 50, 60, 70, 80, 100, 119, 120, 160])
def test_no_letter_is_lost_at_any_width(
    summary: Summary, width: int, unit: str, interval_from: int, p_from: int
) -> None:
    full = renamed(summary, unit)
    table = verdict_table(full, full.arms, "Does it?", width=width)
    text = drawn(table, width)
    assert max(map(len, text.splitlines())) <= width
    heads = ["arm", f"mean {unit}", "diff.", "verdict"]
    heads += ["95 % interval"] * (width >= interval_from) + ["adj. p"] * (width >= p_from)
    heads += [name for name in ("ms/step", "MB saved", "parameters") if width >= 120]
    cells = [*LABELS, *WORDS, *(f"{arm.mean:.2f}" for arm in full.arms), "-12.34" * 2]
    cells += ["-15.50 to -9.25" * 2] * (width >= interval_from) + ["0.125" * 2] * (width >= p_from)
    cells += ["1.25" * 2, "0.0" * 2, "1,234" * 2] * (width >= 120)
    wanted = "Does it?" + "".join(heads) + "".join(cells) + str(table.caption)
    assert Counter("".join(text.replace("─", "").split())) == Counter("".join(wanted.split()))


def test_markup_in_names_is_shown_not_obeyed(summary: Summary) -> None:
    drawing = rows_table(("[b]a[/b]", "b"), [("[red]x[/red]", "y")], "[i]T[/i]")
    for words in ("[red]x[/red]", "[b]a[/b]", "[i]T[/i]"):
        assert words in drawn(drawing, 80)
    assert "[red]" in drawn(verdict_table(renamed(summary, "[red]"), summary.arms, "Does it?", width=80), 80)


def test_escape_sequences_do_not_reach_the_terminal(summary: Summary) -> None:
    evil = "\x1b]0;title\x07\x9b2J\u202e\ud800x"
    full = renamed(summary, f"%{evil}")
    assert full.noise is not None
    arms = [replace(arm, label=arm.label + evil, verdict=arm.verdict + evil) for arm in full.arms]
    full = replace(
        full,
        metric={**full.metric, "name": evil},
        baseline=summary.baseline + evil,
        noise={**full.noise, "words": evil},
    )
    text = drawn(verdict_table(full, arms, f"Does\nit?{evil}", width=120), 120)
    text += drawn(rows_table((evil, "b"), [(evil, evil)], evil), 120)
    assert "Does it?]0;title2Jx" in text
    assert all(letter.isprintable() or letter == "\n" for letter in text)


@pytest.mark.parametrize(("columns", "width"), [("0", 40), ("7", 40), ("40", 40), ("93", 93)])
def test_a_terminal_is_never_too_narrow_for_a_table(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert open_console().width == width
    assert open_console(stderr=True).stderr
