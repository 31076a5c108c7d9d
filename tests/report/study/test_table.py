"""The verdict table: every number is summary.json's."""

import json
from dataclasses import replace
from pathlib import Path

from normscope.report.drawing.format import number, storage
from normscope.report.study.folder import read_study
from normscope.report.study.table import breakages, verdict_rows

SHOWN = ("difference", "interval", "p_adjusted", "mean", "step_ms", "saved_bytes", "parameters")
UNFOLDED = ("sd", "worst", "pairs", "interval_bca", "interval_examples", "p", "p_equivalent", "effect", "improvement")
UNFOLDED += ("seeds_needed", "learning_rate", "peak_bytes", "saved_bytes", "seconds")
UNFOLDED += ("steps_to_baseline", "seconds_to_baseline", "placement", "arguments")


def _json(value: object) -> object:
    return json.loads(json.dumps(value))


def test_every_cell_keeps_the_number_of_the_summary(whole_study: Path) -> None:
    summary = read_study(whole_study).summary
    for arms in (summary.arms, summary.untuned):
        for row, arm in zip(verdict_rows(arms, summary), arms, strict=True):
            assert row.label == arm.label
            assert row.verdict == arm.verdict
            assert [json.loads(cell.value) for cell in row.cells] == [_json(getattr(arm, name)) for name in SHOWN]
            assert [json.loads(cell.value) for cell in row.details] == [_json(getattr(arm, name)) for name in UNFOLDED]


def test_cells_show_the_number_rounded_to_a_tenth_of_the_margin(whole_study: Path) -> None:
    summary = read_study(whole_study).summary
    rows, arms = verdict_rows(summary.arms, summary), summary.arms
    for row, arm in zip(rows[1:], arms[1:], strict=True):
        assert float(row.cells[0].text.replace("−", "-")) == round(arm.difference, 2)
        assert float(row.cells[3].text) == round(arm.mean, 2)
        assert row.cells[4].note == f"×{arm.step_ms / arms[0].step_ms:.2f}"


def test_failures_are_apart_from_the_rest_of_the_verdict(whole_study: Path) -> None:
    summary = read_study(whole_study).summary
    row = next(row for row in verdict_rows(summary.arms, summary) if row.label == "detach_norm")
    assert row.broken == "fails to train in 3 of 10 seeds"
    assert row.kind == "open"
    assert row.verdict == f"{row.broken}; {row.note}"
    assert next(cell for cell in row.details if cell.head == "Worst seed").text == "without a value"
    assert next(cell for cell in row.details if cell.head == "Pairs").note == "without a partner: seeds 2, 5, 8"


def test_brackets_of_a_verdict_become_its_note(whole_study: Path) -> None:
    summary = read_study(whole_study).summary
    arm = replace(summary.arms[1], verdict="not enough evidence (about 14 more seeds)")
    (row,) = verdict_rows([arm], summary)
    assert (row.kind, row.note, row.broken) == ("not enough evidence", "about 14 more seeds", "")


def test_peak_memory_is_shown_where_it_was_measured(whole_study: Path) -> None:
    summary = read_study(whole_study).summary
    arm = replace(summary.arms[0], peak_bytes=123_000_000)
    measured = verdict_rows([arm], summary)[0].cells[5]
    unmeasured = verdict_rows(summary.arms, summary)[0].cells[5]
    assert (measured.head, measured.text) == ("Peak memory", storage(123_000_000))
    assert unmeasured.head == "Saved for backward"


def test_the_level_of_the_interval_is_one_minus_alpha(whole_study: Path) -> None:
    summary = replace(read_study(whole_study).summary, alpha=0.1)
    assert verdict_rows(summary.arms, summary)[0].cells[1].head == "90\u202f% interval"


def test_what_cannot_be_said_is_a_dash(whole_study: Path) -> None:
    summary = read_study(whole_study).summary
    cells = verdict_rows(summary.arms, summary)[0].cells
    assert [cell.text for cell in cells[:3]] == [number(None, 2)] * 3
    assert cells[0].value == "null"


def test_breakages_name_seed_step_and_reason(whole_study: Path) -> None:
    found = read_study(whole_study)
    rows = breakages(found)
    assert [(row["label"], row["side"], row["seed"], row["state"]) for row in rows] == [
        ("detach_norm", side, seed, "diverged") for side in ("", "untuned") for seed in (2, 5, 8)
    ]
    for row in rows:
        step = row["step"].replace("\N{NARROW NO-BREAK SPACE}", "")
        assert row["reason"] == f"training loss is not finite at step {step}"
