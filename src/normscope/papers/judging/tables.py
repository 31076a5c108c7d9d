"""Cells as rows of words, for the terminal and for a Markdown page."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from normscope.papers.judging.audit import audit, audit_count
from normscope.papers.judging.cell import Cell, Count
from normscope.results.matching import Arm, match_runs, read_runs
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


RESULT = ("claim", "published", "ours", "epsilon", "verdict", "because")
AUDIT = ("claim", "what the published figure rests on")
PLACES = {"all": "all of the network's", "final": "the final ones, one at the end of a stream; layer norm elsewhere"}
"""What a study's ``norms_at`` means."""
LISTED = ("cell", "published", "where", "can be run here", "what it rests on")


def result_rows(judged: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Give a row of :data:`RESULT` for every judgement, as its ``to_dict`` has it."""
    return [
        (
            one["says"] + (" (ours: the final norms)" if one["norms_at"] == "final" else ""),
            number(one["published"], one),
            _ours(one),
            "" if one["epsilon"] is None else f"±{one['epsilon']:.2g}",
            one["verdict"],
            one["because"],
        )
        for one in judged
    ]


def audit_rows(judged: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Give a row of :data:`AUDIT` for every judged cell, once."""
    return list({one["id"]: (one["says"], one["audit"]["words"]) for one in judged}.values())


def list_rows(cells: Iterable[Cell], counts: Iterable[Count], missing: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Give a row of :data:`LISTED` for every cell and count.

    Args:
        cells: Of one paper.
        counts: Of the same.
        missing: Why a task cannot be run, by its name; empty where it can.
    """
    rows = []
    for cell in cells:
        able = [task for task in cell.places if not missing.get(task, "unknown")]
        if cell.never_run:
            words = f"no: {cell.never_run}"
        elif cell.task in able:
            words = "yes"
        else:
            words = f"stand-in: {' or '.join(able)}" if able else "no"
        rows.append((cell.says, number(cell.published, _described(cell)), cell.source, words, audit(cell).words))
    rows += [(count.says, str(count.published), count.source, "counted", audit_count(count).words) for count in counts]
    return rows


def markdown(content: Mapping[str, Any]) -> str:
    """Write ``reproduce.json`` as a page."""
    lines = [f"# {content['title']}", "", f"Made by `{content['command']}`.", ""]
    if content["cells"]:
        lines += [
            "Differences are arm minus baseline over paired seeds, in the metric's unit; intervals cover both the",
            "seeds and the test examples. Figures by themselves are shown and never judged.",
            "",
        ]
    tasks = dict.fromkeys(one["task"] for one in content["cells"])
    for task in tasks:
        judged = [one for one in content["cells"] if one["task"] == task]
        lines += [f"## {task or 'Over data sets, and what was not run'}", ""]
        lines += [f"{words}.  " for words in setting_words(task, judged, content)]
        lines += ["", *_table(RESULT, result_rows(judged)), ""]
        for study in (one for one in content["studies"] if one["task"] == task):
            lines += [f"What the arms cost ({study['folder']}), medians over the runs:", ""]
            lines += [*_table(COST, cost_rows(study["costs"])), ""]
    if content["gradients"]:
        lines += ["## Gradients at initialization", "", "![gradient norms](gradients.svg)", ""]
        lines += [*_table(RESULT, gradient_rows(content["gradients"]["lines"])), ""]
    elif content["not_drawn"]:
        lines += ["## Gradients at initialization", "", f"Not run here: {content['not_drawn']}.", ""]
    if content["cells"]:
        lines += ["## What the published figures rest on", "", *_table(AUDIT, audit_rows(content["cells"])), ""]
    reasons = dict.fromkeys(one["epsilon_reason"] for one in content["cells"] if one["epsilon_reason"])
    lines += ["Epsilon is " + "; or ".join(reasons) + "."] if reasons else []
    return "\n".join(lines).rstrip() + "\n"


def gradient_rows(lines: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Give a row of :data:`RESULT` for every line of the gradient figure."""
    rows = []
    for line in lines:
        ends = "" if line["interval"] is None else " ({:+.3f} to {:+.3f})".format(*line["interval"])
        ours = "" if line["ours"] is None else f"{line['ours']:+.3f}{ends}"
        rows.append(
            (
                line["says"],
                "above 0" if line["growth"] else f"{line['published']:+.3f}",
                ours,
                "" if line["growth"] else f"±{line['epsilon']:.2g}",
                line["verdict"],
                line["because"],
            )
        )
    return rows


def number(value: float | None, one: Mapping[str, Any]) -> str:
    """Write a figure with the paper's decimals, a difference with its sign; nothing where there is none."""
    if value is None:
        return "diverges" if one["kind"] == "diverges" else ""
    if one["kind"] == "count":
        return f"{value:g}"
    places = {"%": 2, "bpc": 2, "BLEU": 1}.get(one["unit"], 1)
    if one["unit"] == "BLEU" and round(value, 1) != value:
        places = 2
    return f"{value:+.{places}f}" if one["kind"] == "difference" else f"{value:.{places}f}"


def _ours(one: Mapping[str, Any]) -> str:
    if one["ours"] is None:
        return ""
    if one["kind"] == "count":
        return f"{one['ours']:g}"
    places = 3 if one["unit"] == "bpc" else 2
    sign = "+" if one["kind"] == "difference" else ""
    if one["interval"] is None:
        return f"{one['ours']:{sign}.{places}f}"
    low, high = one["interval"]
    return f"{one['ours']:{sign}.{places}f} ({low:{sign}.{places}f} to {high:{sign}.{places}f})"


def setting_words(task: str, judged: Sequence[Mapping[str, Any]], content: Mapping[str, Any]) -> list[str]:
    """Say what was run for a task, and what differs from the paper."""
    study = [one for one in content["studies"] if one["task"] == task]
    own = next((one["paper_task"] for one in judged if one["stand_in"]), "")
    said = [f"**A stand-in for {own}**: {content['stand_ins'].get(task, 'other data')}"] if own else []
    said += [f"Ours ({one['folder']}): {one['regime']}; seeds {', '.join(map(str, one['seeds']))}" for one in study]
    said += [f"Our scorer: {one['signature']}" for one in study if one["signature"]]
    said += [f"Norms replaced: {PLACES[one['norms_at']]}" for one in study]
    said += [
        f"**Cut short**: {one['steps']:,} of the preset's {one['preset_steps']:,} updates"
        for one in study
        if one["steps"] < one["preset_steps"]
    ]
    differs = dict.fromkeys(one["differs"] for one in judged if one["differs"]) if task else {}
    return said + [f"What differs from the paper's setting: {words}" for words in differs]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    return lines + [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows]


def _escaped(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|").replace("<", "&lt;")


def _described(cell: Cell) -> dict[str, Any]:
    return {"kind": cell.kind, "unit": cell.metric.unit}
