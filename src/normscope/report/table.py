"""The tables of the page: every cell as the text that is shown and the number behind it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normscope.report.folder import Study
from normscope.report.words import (
    MISSING,
    broken,
    decimals,
    duration,
    number,
    probability,
    rate,
    significant,
    span,
    storage,
    verdict_kind,
)


_MEMORY = {"peak_bytes": "Peak memory", "saved_bytes": "Saved for backward"}


@dataclass(frozen=True, kw_only=True)
class Cell:
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
    kind: str
    """The first words of its verdict."""
    verdict: str
    """Its verdict in full."""
    broken: str
    """In how many seeds it fails to train; empty for none."""
    cells: tuple[Cell, ...]
    """The columns after the verdict."""
    details: tuple[Cell, ...]
    """What unfolds."""


def verdict_rows(arms: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[Row]:
    """Make the verdict table of some arms, in their order."""
    places, metric = decimals(summary["margin"]), summary["metric"]
    baseline = next((arm for arm in arms if arm["label"] == summary["baseline"]), None)
    # The allocator's peak is known on GPUs only; what autograd saves is known everywhere.
    memory = "peak_bytes" if any(arm.get("peak_bytes") is not None for arm in arms) else "saved_bytes"
    return [
        Row(
            label=arm["label"],
            kind=verdict_kind(arm["verdict"]),
            verdict=arm["verdict"] or "no verdict yet",
            broken=broken(arm),
            cells=_cells(arm, baseline, memory, places, metric),
            details=_details(arm, places, metric),
        )
        for arm in arms
    ]


def breakages(study: Study) -> list[dict[str, Any]]:
    """List every run that diverged or failed, with the step it reached and the reason."""
    return [
        {
            "label": run.label,
            "seed": run.seed,
            "state": run.state,
            "step": f"{run.result['steps']:,}".replace(",", "\N{THIN SPACE}")
            if run.result.get("steps") is not None
            else MISSING,
            "reason": run.result.get("reason") or "no reason was recorded",
        }
        for run in study.runs
        if run.broke
    ]


def published_tables(study: Study) -> list[dict[str, Any]]:
    """Set every published table beside the arms with the same norm, as values and as differences to the baseline."""
    arms, places = study.summary["arms"], decimals(study.summary["margin"])
    base = next(arm["norm"] for arm in arms if arm["label"] == study.summary["baseline"])
    tables = []
    for table in study.card.get("published") or []:
        theirs = {row["norm"]: row["value"] for row in table["rows"]}
        rows = []
        for norm, value in theirs.items():
            apart = value - theirs[base] if norm != base and None not in (value, theirs.get(base)) else None
            for arm in [arm for arm in arms if arm["norm"] == norm] or [None]:
                rows.append(
                    {
                        "norm": norm,
                        "label": arm and arm["label"],
                        "theirs": MISSING if value is None else str(value),
                        "ours": number(arm and arm["mean"], places),
                        "their_difference": number(apart, places, signed=True),
                        "our_difference": number(arm and arm["difference"], places, signed=True),
                        "our_interval": span(arm and arm["interval"], places),
                    }
                )
        tables.append({"label": table["label"], "source": table["source"], "note": table.get("note"), "rows": rows})
    return tables


def tuned_beside_untuned(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Set the verdict of every tuned arm beside that of the same arm with the recipe's own learning rate."""
    places = decimals(summary["margin"])
    rows = []
    for arm in summary["arms"]:
        twin = next((other for other in summary.get("untuned") or [] if _same(arm, other)), None)
        rows.append(
            {
                "label": arm["label"],
                "sides": [
                    {
                        "rate": MISSING if side is None else rate(side.get("learning_rate")),
                        "mean": number(side and side["mean"], places),
                        "difference": change(side and side["difference"], places, unit),
                        "interval": span(side and side["interval"], places),
                        "verdict": MISSING if side is None else side["verdict"] or MISSING,
                        "broken": "" if side is None else broken(side),
                    }
                    for side in (twin, arm)
                ],
            }
        )
    return rows


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two arms differ in nothing but the learning rate."""
    return all(one.get(key) == other.get(key) for key in ("norm", "placement", "arguments"))


def _cells(
    arm: Mapping[str, Any], baseline: Mapping[str, Any] | None, memory: str, places: int, metric: Mapping[str, Any]
) -> tuple[Cell, ...]:
    """Make the columns that always show."""
    unit = f" ({metric['unit']})" if metric["unit"] else ""
    step = arm.get("step_ms")
    return (
        _cell(f"Difference{unit}", number(arm["difference"], places, signed=True), arm["difference"]),
        _cell("95 % interval", span(arm["interval"], places), arm["interval"]),
        _cell("Adjusted p", probability(arm["p_adjusted"]), arm["p_adjusted"]),
        _cell(f"Mean{unit}", number(arm["mean"], places), arm["mean"]),
        _cell(
            "Time per step",
            MISSING if step is None else f"{significant(step)} ms",
            step,
            _times(arm, baseline, "step_ms"),
        ),
        _cell(
            "Peak memory", storage(arm.get("peak_bytes")), arm.get("peak_bytes"), _times(arm, baseline, "peak_bytes")
        ),
        _cell("Parameters", number(arm.get("parameters"), 0), arm.get("parameters")),
    )


def _details(arm: Mapping[str, Any], places: int, metric: Mapping[str, Any]) -> tuple[Cell, ...]:
    """Make what unfolds under an arm."""
    improvement = arm.get("improvement")
    alone = arm.get("unpaired") or []
    return (
        _cell("Standard deviation over seeds", number(arm.get("sd"), places + 1), arm.get("sd")),
        _cell("Worst seed", number(arm.get("worst"), places), arm.get("worst")),
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
        _cell("Effect (in sd of the differences)", significant(arm.get("effect")), arm.get("effect")),
        _cell("Probability of improvement", MISSING if improvement is None else f"{improvement:.0%}", improvement),
        _cell("More seeds needed", number(arm.get("seeds_needed"), 0), arm.get("seeds_needed")),
        _cell("Learning rate", rate(arm.get("learning_rate")), arm.get("learning_rate")),
        *(_cell(head, storage(arm.get(field)), arm.get(field)) for field, head in _MEMORY.items()),
        _cell("Time of one run", duration(arm.get("seconds")), arm.get("seconds")),
        _cell("Placement", arm.get("placement") or MISSING, arm.get("placement")),
        _cell(
            "Arguments",
            ", ".join(f"{key}={value}" for key, value in (arm.get("arguments") or {}).items()) or "none",
            arm.get("arguments"),
        ),
    )


def _cell(head: str, text: str, value: Any, note: str = "") -> Cell:
    """Make a cell that keeps the number behind its text."""
    return Cell(head=head, text=text, value=json.dumps(value), note=note)


def _times(arm: Mapping[str, Any], baseline: Mapping[str, Any] | None, field: str) -> str:
    """Say how many times the baseline's cost an arm has."""
    if baseline is None or arm is baseline or arm.get(field) is None or not baseline.get(field):
        return ""
    return f"\N{MULTIPLICATION SIGN}{arm[field] / baseline[field]:.2f}"
