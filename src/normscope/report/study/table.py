"""Tables of the page of a study: every cell has a text to show and the number behind it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from normscope.report.drawing.format import (
    MISSING,
    VerdictKind,
    apart,
    aside,
    decimals,
    duration,
    level,
    number,
    probability,
    rate,
    significant,
    span,
    split_verdict,
    storage,
    verdict_kind,
)
from normscope.report.study.folder import StudyRecord
from normscope.results.per_arm import ArmSummary
from normscope.results.summary import Summary

_MEMORY = {"peak_bytes": "Peak memory", "saved_bytes": "Saved for backward"}


# Seeds that a note names; of more it says how many.
_MOST_NAMED = 100


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """One value of a table."""

    head: str
    """Heading of its column; on a phone it precedes the value."""
    text: str
    """Text to show."""
    value: str
    """The value in summary.json as JSON, for sorting and for programs."""
    note: str = ""
    """Small print after the text."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm of the verdict table."""

    label: str
    """Label of the arm."""
    verdict: str
    """Complete verdict."""
    broken: str
    """Failures in the verdict; empty if there are none."""
    kind: VerdictKind
    """Kind of the rest of the verdict."""
    note: str
    """Reason or side, after the kind."""
    cells: tuple[TableCell, ...]
    """Columns after the verdict."""
    details: tuple[TableCell, ...]
    """Details that are folded at first."""


def verdict_rows(arms: Sequence[ArmSummary], summary: Summary) -> list[Row]:
    """Build the verdict table of arms, in their order."""
    places = decimals(summary.margin)
    baseline = next((arm for arm in arms if arm.label == summary.baseline), None)
    # The peak of the allocator is known on GPUs only; what autograd saves is known everywhere.
    memory = "peak_bytes" if any(arm.peak_bytes is not None for arm in arms) else "saved_bytes"
    rows = []
    for arm in arms:
        failures, rest = split_verdict(arm)
        kind = verdict_kind(rest)
        rows.append(
            Row(
                label=arm.label,
                verdict=arm.verdict,
                broken=failures,
                kind=kind,
                note=rest if kind == "open" else aside(rest, kind),
                cells=_cells(arm, baseline, memory, places, summary),
                details=_details(arm, places),
            )
        )
    return rows


def breakages(study: StudyRecord) -> list[dict[str, Any]]:
    """List the runs that ended without a value, with the step that they reached and the reason."""
    return [
        {
            "label": run.label,
            "side": "untuned" if place >= len(study.runs) else "",
            "seed": run.seed,
            "state": run.state,
            "step": f"{run.result['steps']:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
            if run.result.get("steps") is not None
            else MISSING,
            "reason": run.result.get("reason") or "no reason was recorded",
        }
        for place, run in enumerate((*study.runs, *study.untuned_runs))
        if run.broke
    ]


def _cells(
    arm: ArmSummary, baseline: ArmSummary | None, memory: str, places: int, summary: Summary
) -> tuple[TableCell, ...]:
    """Build the columns that are always shown."""
    unit = summary.metric["unit"]
    unit, points = (f" ({name})" if name else "" for name in (unit, apart(unit)))
    size = getattr(arm, memory)
    return (
        _cell(f"Difference{points}", number(arm.difference, places, signed=True), arm.difference),
        _cell(f"{level(summary.alpha)} interval", span(arm.interval, places), arm.interval),
        _cell("Adjusted p", probability(arm.p_adjusted), arm.p_adjusted),
        _cell(f"Mean{unit}", number(arm.mean, places), arm.mean),
        _cell(
            "Time per step",
            MISSING if arm.step_ms is None else f"{significant(arm.step_ms)} ms",
            arm.step_ms,
            _times(arm, baseline, "step_ms"),
        ),
        _cell(_MEMORY[memory], storage(size), size, _times(arm, baseline, memory)),
        _cell("Parameters", number(arm.parameters, 0), arm.parameters),
    )


def _details(arm: ArmSummary, places: int) -> tuple[TableCell, ...]:
    """Build the details of an arm."""
    # No value is worse than that of a run without one.
    worst = "without a value" if arm.failures else number(arm.worst, places)
    seeds = (
        f"{len(arm.unpaired):,}" if len(arm.unpaired) > _MOST_NAMED else f"seeds {', '.join(map(str, arm.unpaired))}"
    )
    unpaired = f"without a partner: {seeds}" if arm.unpaired else ""
    undecided = "not enough evidence" in arm.verdict
    improvement = MISSING if arm.improvement is None else f"{arm.improvement:.0%}"
    arguments = ", ".join(f"{key}={value}" for key, value in arm.arguments.items())
    return (
        _cell("Standard deviation over seeds", number(arm.sd, places + 1), arm.sd),
        _cell("Worst seed", worst, arm.worst),
        _cell("Pairs", str(arm.pairs), arm.pairs, unpaired),
        _cell("BCa bootstrap interval", span(arm.interval_bca, places), arm.interval_bca),
        _cell("Test-set interval", span(arm.interval_examples, places), arm.interval_examples),
        _cell("p before adjustment", probability(arm.p), arm.p),
        _cell("p of equivalence", probability(arm.p_equivalent), arm.p_equivalent),
        _cell("Effect, in standard deviations of the baseline", significant(arm.effect), arm.effect),
        _cell("Pairs in which it is ahead", improvement, arm.improvement),
        _cell("More seeds needed", number(arm.seeds_needed, 0) if undecided else MISSING, arm.seeds_needed),
        _cell("Learning rate", rate(arm.learning_rate), arm.learning_rate),
        *(_cell(head, storage(getattr(arm, field)), getattr(arm, field)) for field, head in _MEMORY.items()),
        _cell("Time of one run", duration(arm.seconds), arm.seconds),
        *(_reaching(arm) if arm.targets is None else ()),
        _cell("Placement", arm.placement or MISSING, arm.placement),
        _cell("Arguments", arguments or "none", arm.arguments),
        *_path(arm),
    )


def _reaching(arm: ArmSummary) -> tuple[TableCell, TableCell]:
    """Build the descriptive times of an arm of a study without targets."""
    reached = arm.steps_to_baseline
    return (
        _cell("Updates to the baseline's final validation loss", number(reached, 0), reached),
        _cell("Time to it", duration(arm.seconds_to_baseline), arm.seconds_to_baseline),
    )


def _path(arm: ArmSummary) -> list[TableCell]:
    """Build the details of an arm of a study with looks."""
    if arm.looks is None:
        return []
    pairs = [look.pairs for look in arm.looks]
    decided = MISSING if arm.decided_at is None else f"{arm.decided_at} pairs"
    return [
        _cell("Looks, at these numbers of pairs", ", ".join(map(str, pairs)) or MISSING, pairs),
        _cell("Decided at", decided, arm.decided_at),
    ]


def _cell(head: str, text: str, value: Any, note: str = "") -> TableCell:
    """Build a cell that keeps the number behind its text."""
    return TableCell(head=head, text=text, value=json.dumps(value), note=note)


def _times(arm: ArmSummary, baseline: ArmSummary | None, field: str) -> str:
    """Write a cost of an arm as a multiple of the baseline's."""
    if baseline is None or arm is baseline or getattr(arm, field) is None or not getattr(baseline, field):
        return ""
    return f"\N{MULTIPLICATION SIGN}{getattr(arm, field) / getattr(baseline, field):.2f}"


def measure_rows(summary: Summary) -> list[tuple[str, list[str]]]:
    """Build the rows of further results: the name, and the mean of every arm."""
    names = dict.fromkeys(name for arm in summary.arms for name in arm.measures or ())
    return [(name, [significant((arm.measures or {}).get(name)) for arm in summary.arms]) for name in names]
