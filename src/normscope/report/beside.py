"""Tables with two sources side by side: published figures and ours, untuned arms and tuned ones."""

from collections.abc import Mapping
from typing import Any

from normscope.report.folder import Study
from normscope.report.words import MISSING, decimals, number, rate, span, split_verdict


def published_tables(study: Study) -> list[dict[str, Any]]:
    """Set every published figure beside the arms with its norm and arguments, as values and as differences."""
    arms, places = study.summary["arms"], decimals(study.summary["margin"])
    base = next(arm for arm in arms if arm["label"] == study.summary["baseline"])
    tables = []
    for table in study.card.get("published") or []:
        zero = next((row["value"] for row in table["rows"] if _is_of(base, row)), None)
        rows = []
        apart_by = _scored_otherwise(study.card["metric"], table)
        for row in table["rows"]:
            value = row["value"]
            apart = value - zero if not _is_of(base, row) and None not in (value, zero) else None
            for arm in [arm for arm in arms if _is_of(arm, row)] or [None]:
                rows.append(
                    {
                        "norm": row["norm"],
                        "label": arm and arm["label"],
                        "theirs": MISSING if value is None else str(value),
                        "ours": MISSING if apart_by else number(arm and arm["mean"], places),
                        "their_difference": number(apart, places, signed=True),
                        "our_difference": MISSING
                        if apart_by
                        else number(arm and arm["difference"], places, signed=True),
                        "our_interval": MISSING if apart_by else span(arm and arm["interval"], places),
                    }
                )
        tables.append(
            {
                "label": table["label"],
                "source": table["source"] if table["source"] != table["label"] else "",
                "note": " ".join(filter(None, [table.get("note"), apart_by])),
                "rows": rows,
            }
        )
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
                        "difference": number(side and side["difference"], places, signed=True),
                        "interval": span(side and side["interval"], places),
                        "broken": "" if side is None else split_verdict(side)[0],
                        "verdict": MISSING if side is None else split_verdict(side)[1],
                    }
                    for side in (twin, arm)
                ],
            }
        )
    return rows


def _scored_otherwise(metric: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    """Say why figures cannot be compared, where their scorers were not set alike; nothing where they were."""
    ours, theirs = metric.get("signature") or "", table.get("signature") or ""
    if ours == theirs:
        return ""
    return (
        f"Not compared with ours: scored as {theirs or 'the source does not say'}, ours as {ours or 'no such scorer'}; "
        "figures of two scorers differ by more than norms do."
    )


def _is_of(arm: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether an arm has a published row's norm, and the arguments that the row names."""
    arguments = row.get("arguments") or {}
    return arm["norm"] == row["norm"] and arguments.items() <= (arm.get("arguments") or {}).items()


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two arms differ in nothing but the learning rate: labels name everything else."""
    return all(one.get(key) == other.get(key) for key in ("label", "norm", "placement", "arguments"))
