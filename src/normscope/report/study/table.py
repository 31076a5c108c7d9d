"""The tables of the page: every cell as the text that is shown and the number behind it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normscope.report.drawing.format import (
    MISSING,
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
from normscope.report.study.folder import Study

_MEMORY = {"peak_bytes": "Peak memory", "saved_bytes": "Saved for backward"}


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """One value of a table."""

    head: str
    """The column it stands in; on a phone it stands before the value."""
    text: str
    """What is shown."""
    value: str
    """The number of summary.json as JSON, for sorting and for a reader's own program."""
    note: str = ""
    """Small print beside it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm of the verdict table."""

    label: str
    """The arm."""
    verdict: str
    """Its verdict in full."""
    broken: str
    """The part of it that says in how many seeds the arm fails to train; empty for none."""
    kind: str
    """The first words of the other part, or ``open``."""
    note: str
    """The rest of it."""
    cells: tuple[TableCell, ...]
    """The columns after the verdict."""
    details: tuple[TableCell, ...]
    """What unfolds."""


def verdict_rows(arms: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[Row]:
    """Make the verdict table of some arms, in their order."""
    places = decimals(summary["margin"])
    baseline = next((arm for arm in arms if arm["label"] == summary["baseline"]), None)
    # The allocator's peak is known on GPUs only; what autograd saves is known everywhere.
    memory = "peak_bytes" if any(arm.get("peak_bytes") is not None for arm in arms) else "saved_bytes"
    rows = []
    for arm in arms:
        failures, rest = split_verdict(arm)
        kind = verdict_kind(rest)
        rows.append(
            Row(
                label=arm["label"],
                verdict=arm["verdict"],
                broken=failures,
                kind=kind,
                note=rest if kind == "open" else aside(rest, kind),
                cells=_cells(arm, baseline, memory, places, summary),
                details=_details(arm, places, summary),
            )
        )
    return rows


def breakages(study: Study) -> list[dict[str, Any]]:
    """List every run that diverged or failed, with the step it reached and the reason."""
    return [
        {
            "label": run.label,
            "seed": run.seed,
            "state": run.state,
            "step": f"{run.result['steps']:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
            if run.result.get("steps") is not None
            else MISSING,
            "reason": run.result.get("reason") or "no reason was recorded",
        }
        for run in study.runs
        if run.broke
    ]


def _cells(
    arm: Mapping[str, Any], baseline: Mapping[str, Any] | None, memory: str, places: int, summary: Mapping[str, Any]
) -> tuple[TableCell, ...]:
    """Make the columns that always show."""
    unit = summary["metric"]["unit"]
    unit, points = (f" ({name})" if name else "" for name in (unit, apart(unit)))
    step = arm.get("step_ms")
    return (
        _cell(f"Difference{points}", number(arm["difference"], places, signed=True), arm["difference"]),
        _cell(f"{level(summary['alpha'])} interval", span(arm["interval"], places), arm["interval"]),
        _cell("Adjusted p", probability(arm["p_adjusted"]), arm["p_adjusted"]),
        _cell(f"Mean{unit}", number(arm["mean"], places), arm["mean"]),
        _cell(
            "Time per step",
            MISSING if step is None else f"{significant(step)} ms",
            step,
            _times(arm, baseline, "step_ms"),
        ),
        _cell(_MEMORY[memory], storage(arm.get(memory)), arm.get(memory), _times(arm, baseline, memory)),
        _cell("Parameters", number(arm.get("parameters"), 0), arm.get("parameters")),
    )


def _details(arm: Mapping[str, Any], places: int, summary: Mapping[str, Any]) -> tuple[TableCell, ...]:
    """Make what unfolds under an arm."""
    improvement = arm.get("improvement")
    alone = arm.get("unpaired") or []
    return (
        _cell("Standard deviation over seeds", number(arm.get("sd"), places + 1), arm.get("sd")),
        _cell("Worst seed", _worst(arm, places), arm.get("worst")),
        _cell(
            "Pairs",
            str(arm["pairs"]),
            arm["pairs"],
            f"without a partner: seeds {', '.join(map(str, alone))}" if alone else "",
        ),
        _cell("BCa bootstrap interval", span(arm.get("interval_bca"), places), arm.get("interval_bca")),
        _cell("Test-set interval", span(arm.get("interval_examples"), places), arm.get("interval_examples")),
        _cell("p before adjustment", probability(arm.get("p")), arm.get("p")),
        _cell("p of equivalence", probability(arm.get("p_equivalent")), arm.get("p_equivalent")),
        _cell("Effect, in standard deviations of the baseline", significant(arm.get("effect")), arm.get("effect")),
        _cell("Pairs in which it is ahead", MISSING if improvement is None else f"{improvement:.0%}", improvement),
        _cell("More seeds needed", number(arm.get("seeds_needed"), 0), arm.get("seeds_needed")),
        _cell("Learning rate", rate(arm.get("learning_rate")), arm.get("learning_rate")),
        *(_cell(head, storage(arm.get(field)), arm.get(field)) for field, head in _MEMORY.items()),
        _cell("Time of one run", duration(arm.get("seconds")), arm.get("seconds")),
        _cell(
            "Updates to the baseline's final validation loss",
            number(arm.get("steps_to_baseline"), 0),
            arm.get("steps_to_baseline"),
        ),
        _cell("Time to it", duration(arm.get("seconds_to_baseline")), arm.get("seconds_to_baseline")),
        _cell("Placement", arm.get("placement") or MISSING, arm.get("placement")),
        _cell(
            "Arguments",
            ", ".join(f"{key}={value}" for key, value in (arm.get("arguments") or {}).items()) or "none",
            arm.get("arguments"),
        ),
    )


def _worst(arm: Mapping[str, Any], places: int) -> str:
    """Write the value of the worst seed; no value is worse than a run that broke."""
    return "failed to train" if arm["failures"] else number(arm.get("worst"), places)


def _cell(head: str, text: str, value: Any, note: str = "") -> TableCell:
    """Make a cell that keeps the number behind its text."""
    return TableCell(head=head, text=text, value=json.dumps(value), note=note)


def _times(arm: Mapping[str, Any], baseline: Mapping[str, Any] | None, field: str) -> str:
    """Say how many times the baseline's cost an arm has."""
    if baseline is None or arm is baseline or arm.get(field) is None or not baseline.get(field):
        return ""
    return f"\N{MULTIPLICATION SIGN}{arm[field] / baseline[field]:.2f}"
