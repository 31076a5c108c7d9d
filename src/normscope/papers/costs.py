"""What the arms of a study cost: parameters, time a step, memory; medians over the runs that are done."""

from pathlib import Path
from typing import Any

from normscope.results.runs import Arm, match_runs, read_runs
from normscope.results.store import StudyFolder

COST = ("arm", "parameters", "ms a step", "peak memory, MB", "kept for backward, MB")
"""Columns of :func:`cost_rows`."""


def costs(directory: Path) -> list[dict[str, Any]]:
    """Give ``label``, ``parameters``, ``step_ms``, ``peak_bytes`` and ``saved_bytes`` of every arm of a study.

    The numbers are those of ``summary.json``, from the runs; None where no run is done, or did not measure it.

    Raises:
        FileNotFoundError: If there is no study.
        ValueError: If its files are not what they should be.
    """
    study = StudyFolder(directory)
    card = study.read_card()
    runs, _ = read_runs(study, card)
    return [_cost(match_runs(card, entry, runs)) for entry in card["arms"]]


def _cost(arm: Arm) -> dict[str, Any]:
    medians = {key: arm.median(key) for key in ("parameters", "step_ms", "peak_bytes", "saved_bytes")}
    whole = {key: None if value is None else round(value) for key, value in medians.items()}
    return {"label": arm.entry["label"], **whole, "step_ms": medians["step_ms"]}


def cost_rows(arms: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Give a row of :data:`COST` for every arm, empty where nothing was measured."""
    return [
        (
            arm["label"],
            "" if arm["parameters"] is None else f"{arm['parameters']:,}",
            "" if arm["step_ms"] is None else f"{arm['step_ms']:.3g}",
            *("" if arm[key] is None else f"{arm[key] / 1e6:,.1f}" for key in ("peak_bytes", "saved_bytes")),
        )
        for arm in arms
    ]
