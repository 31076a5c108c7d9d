"""Tables of cells, for the terminal and for a Markdown page."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from normscope.papers.judging.audit import audit, audit_count
from normscope.papers.judging.cell import Cell, Count
from normscope.results.matching import ArmRuns, read_arms
from normscope.results.store import StudyFolder

COST = ("arm", "parameters", "ms per step", "peak memory, MB", "saved for backward, MB")
"""Columns of :func:`cost_rows`."""


def costs(directory: Path) -> list[dict[str, Any]]:
    """Return ``label``, ``parameters``, ``step_ms``, ``peak_bytes`` and ``saved_bytes`` of every arm of a study.

    The numbers are medians over the runs, as in ``summary.json``; None if no done run has measured them.

    Raises:
        FileNotFoundError: If the folder has no card.
        ValueError: If a file has another shape.
    """
    study = StudyFolder(directory)
    arms = read_arms(study, study.read_card())
    return [_cost(arm, _label(arm, arms)) for arm in arms]


def _label(arm: ArmRuns, arms: Sequence[ArmRuns]) -> str:
    """Return the label of an arm, which says "tuned" if the study has it untuned, too."""
    label = arm.entry["label"]
    twice = sum(each.entry["label"] == label for each in arms) > 1
    return f"{label}, tuned" if twice and arm.entry["tuned"] else label


def _cost(arm: ArmRuns, label: str) -> dict[str, Any]:
    medians = {key: arm.median(key) for key in ("parameters", "step_ms", "peak_bytes", "saved_bytes")}
    whole = {key: None if value is None else round(value) for key, value in medians.items()}
    return {"label": label, **whole, "step_ms": medians["step_ms"]}


def progress(directory: Path) -> list[dict[str, Any]]:
    """Return ``label``, and the numbers of ``done`` and ``planned`` runs, of every arm of a study."""
    study = StudyFolder(directory)
    arms = read_arms(study, study.read_card())
    return [{"label": _label(arm, arms), "done": len(arm.values), "planned": len(arm.seeds)} for arm in arms]


def cost_rows(arms: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return one row of :data:`COST` per arm; a cell without a measurement is empty."""
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
AUDIT = ("claim", "evidence behind the published figure")
PLACES = {
    "all": "all of the network's",
    "final": "the final norms, one at the end of each stream; layer norm elsewhere",
}
"""Meaning of the ``norms_at`` of a study."""
OBSTACLES = ("claim", "task", "verdict", "why this machine cannot")
LISTED = ("cell", "published", "where", "can be run here", "evidence behind it")


def result_rows(judged: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return one row of :data:`RESULT` per judgement, given as its ``to_dict``."""
    return [
        (
            row["says"] + (" (ours: the final norms)" if row["norms_at"] == "final" else ""),
            number(row["published"], row),
            _ours(row),
            "" if row["epsilon"] is None else f"±{row['epsilon']:.2g}",
            row["verdict"],
            "; ".join([*([row["because"]] if row["because"] else []), *_beside(row)]),
        )
        for row in judged
    ]


def _beside(row: Mapping[str, Any]) -> list[str]:
    """Write ours under the other conditions: ``untuned: -0.61 (-1.20 to -0.02), cannot tell: …``."""
    others = []
    for each in row["beside"]:
        ours = _ours({**row, **each})
        others.append(f"{each['condition']}: " + ", ".join(filter(None, (ours, each["verdict"]))))
    return others


def audit_rows(judged: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return one row of :data:`AUDIT` per judged cell."""
    return list({row["id"]: (row["says"], row["audit"]["words"]) for row in judged}.values())


def obstacle_rows(judged: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return one row of :data:`OBSTACLES` per undecided claim."""
    rows = (row for row in judged if row["obstacle"])
    return [(row["says"], row["task"] or row["paper_task"], row["verdict"], row["obstacle"]["words"]) for row in rows]


def list_rows(cells: Iterable[Cell], counts: Iterable[Count], missing: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Return one row of :data:`LISTED` per cell and count.

    Args:
        cells: Cells of a paper.
        counts: Counts of the same paper.
        missing: Reason why a task cannot be run, by its name; empty if it can.
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
        rows.append((cell.says, number(cell.published, _describe(cell)), cell.source, words, audit(cell).words))
    rows += [(count.says, str(count.published), count.source, "counted", audit_count(count).words) for count in counts]
    return rows


def markdown(content: Mapping[str, Any]) -> str:
    """Render the content of ``reproduce.json`` as a Markdown page."""
    lines = [f"# {content['title']}", "", f"Made by {_code(content['command'])}.", ""]
    if content["cells"]:
        lines += [
            "Differences are arm minus baseline over paired seeds, in the metric's unit; intervals cover the noise of",
            "seeds and, where the runs have a score per example, of test examples. Single figures are shown with their",
            "interval over seeds and never judged.",
            "",
        ]
    tasks = dict.fromkeys(row["task"] for row in content["cells"])
    for task in tasks:
        judged = [row for row in content["cells"] if row["task"] == task]
        lines += [f"## {task or 'Over data sets, and what was not run'}", ""]
        lines += [f"{words}.  " for words in setting_words(task, judged, content)]
        lines += ["", *_table(RESULT, result_rows(judged)), ""]
        for study in (row for row in content["studies"] if row["task"] == task):
            lines += [f"Cost of the arms ({study['folder']}), medians over the runs that are done:", ""]
            lines += [*_table(COST, cost_rows(study["costs"])), ""]
    obstacles = obstacle_rows(content["cells"])
    if obstacles:
        lines += ["## What this machine cannot tell", "", *_table(OBSTACLES, obstacles), ""]
    if content["gradients"]:
        lines += ["## Gradients at initialization", "", "![gradient norms](gradients.svg)", ""]
        lines += [*_table(RESULT, gradient_rows(content["gradients"]["lines"])), ""]
    elif content["not_drawn"]:
        lines += ["## Gradients at initialization", "", f"Not run here: {content['not_drawn']}.", ""]
    for probe in content.get("probes", ()):
        lines += [f"## {probe['source']}: {probe['what']}", "", *_table(STATEMENT, statement_rows(probe)), ""]
    if content["cells"]:
        lines += ["## Evidence behind the published figures", "", *_table(AUDIT, audit_rows(content["cells"])), ""]
    reasons = dict.fromkeys(row["epsilon_reason"] for row in content["cells"] if row["epsilon_reason"])
    lines += ["Epsilon is " + "; or ".join(reasons) + "."] if reasons else []
    return "\n".join(lines).rstrip() + "\n"


def gradient_rows(lines: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return one row of :data:`RESULT` per line of the gradient figure."""
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


PLACES_OF = {"%": 2, "bpc": 2, "BLEU": 1, "nats": 2, "correlation": 3, "squared points": 3}
"""Number of decimals of a published figure by its unit; 1 for other units."""

WORDS = {"diverges": "diverges", "faster": "faster", "difference": "better"}
"""Published results without a figure."""


STATEMENT = ("statement", "published", "ours", "verdict", "because")


def statement_rows(probe: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return one row of :data:`STATEMENT` per statement of a probe."""
    return [tuple(each[name] for name in ("says", *STATEMENT[1:])) for each in probe["statements"]]


def number(value: float | None, row: Mapping[str, Any]) -> str:
    """Write a figure with the decimals of the paper, a difference with its sign; words if only words are printed."""
    if value is None:
        return WORDS.get(row["kind"], "")
    if row["kind"] == "count":
        return f"{value:g}"
    if row["kind"] == "faster":
        return f"×{value:.2f}"
    places = PLACES_OF.get(row["unit"], 1)
    if row["unit"] == "BLEU" and round(value, 1) != value:
        places = 2
    if value and not round(value, places):
        return f"{value:g}"
    return f"{value:+.{places}f}" if row["kind"] == "difference" else f"{value:.{places}f}"


def _ours(row: Mapping[str, Any]) -> str:
    if row["kind"] == "faster":
        # Censored runs may leave the ratio, or an end of its interval, open.
        ends = " to ".join(f"×{end:.2f}" if end else "any" for end in row["interval"] or ())
        return " ".join(filter(None, (row["ours"] and f"×{row['ours']:.2f}", ends and f"({ends})")))
    if row["ours"] is None:
        return ""
    if row["kind"] == "count":
        return f"{row['ours']:g}"
    places = 3 if row["unit"] in ("bpc", "correlation", "squared points") else 2
    sign = "+" if row["kind"] == "difference" else ""
    if row["interval"] is None:
        return f"{row['ours']:{sign}.{places}f}"
    low, high = row["interval"]
    return f"{row['ours']:{sign}.{places}f} ({low:{sign}.{places}f} to {high:{sign}.{places}f})"


def setting_words(task: str, judged: Sequence[Mapping[str, Any]], content: Mapping[str, Any]) -> list[str]:
    """Describe what was run for a task and how much of it is done, and the differences from the paper."""
    study = [row for row in content["studies"] if row["task"] == task]
    original = next((row["paper_task"] for row in judged if row["stand_in"]), "")
    lines = [f"**A stand-in for {original}**: {content['stand_ins'].get(task, 'other data')}"] if original else []
    for row in study:
        lines.append(f"Ours ({row['folder']}): {row['regime']}; {_seed_words(row)}")
        lines += [f"**{row['exploratory'].capitalize()}**"] if row["exploratory"] else []
    lines += [f"Our scorer: {row['signature']}" for row in study if row["signature"]]
    for row in study:
        lines += [_tuning_words(row["tuning"])] if row["tuning"] else []
        lines += [_choice_words(row["without_norms"])] if row["without_norms"] else []
    lines += [f"Norms replaced: {PLACES[row['norms_at']]}" for row in study]
    lines += [
        f"**Cut short**: {row['steps']:,} of the preset's {row['preset_steps']:,} updates"
        for row in study
        if row["steps"] < row["preset_steps"]
    ]
    differs = dict.fromkeys(row["differs"] for row in judged if row["differs"]) if task else {}
    return lines + [f"Differences from the paper's setting: {words}" for words in differs]


def _tuning_words(tuning: Mapping[str, Any]) -> str:
    chosen = ", ".join(f"{label} {arm['chosen']:g}" for label, arm in tuning["arms"].items())
    grid = ", ".join(f"{rate:g}" for rate in tuning["grid"])
    return (
        f"Learning rates, tuned for every arm on a split of its own over {grid} with seed "
        f"{', '.join(map(str, tuning['seeds']))}: {chosen}; verdicts are those of the tuned arms"
    )


def _choice_words(choice: Mapping[str, Any]) -> str:
    unit = choice["unit"]
    tried = ", ".join(
        f"{name} {'failed' if each['value'] is None else format(each['value'], '.4g')} at {each['learning_rate']:g}"
        for name, each in choice["candidates"].items()
    )
    return (
        f"The network without norms is {choice['chosen']}, the best {choice['metric']} ({unit}) of "
        f"{len(choice['candidates'])} initializations made for it, on the tuning split, in {choice['trials']} trials: "
        f"{tried}; the plain one, without any, stands beside it"
    )


def _seed_words(row: Mapping[str, Any]) -> str:
    seeds = f"seeds {', '.join(map(str, row['seeds']))}"
    if row["looks"]:
        seeds += f" at most, looks at {', '.join(map(str, row['looks']['pairs']))} ({row['looks']['spending']})"
    if all(arm["done"] == arm["planned"] for arm in row["runs"]):
        return seeds
    done = ", ".join(f"{arm['label']} {arm['done']} of {arm['planned']}" for arm in row["runs"])
    return f"{seeds} planned; runs that are done: {done}"


def _code(text: str) -> str:
    """Return a text as code in Markdown, whatever backticks it has."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    return lines + [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows]


def _escaped(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|").replace("<", "&lt;")


def _describe(cell: Cell) -> dict[str, Any]:
    return {"kind": cell.kind, "unit": cell.metric.unit}
