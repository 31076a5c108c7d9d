"""The page of an atlas: one self-contained HTML file."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from normscope.arguments import check_arguments
from normscope.files import write_atomically
from normscope.report.atlas.comparisons import (
    ALL_OUTCOMES,
    BASELINE,
    NO_CLAIM,
    UNFINISHED,
    Atlas,
    Comparison,
    limits,
    name_tasks,
    phrase,
    read_atlas,
)
from normscope.report.drawing.format import (
    MISSING,
    apart,
    change,
    decimals,
    name_seeds,
    number,
    significant,
    span,
    storage,
)
from normscope.report.drawing.html import breakable, data_address, fill_template, island, read_asset, script_hash
from normscope.report.drawing.svg import clean
from normscope.report.study.table import verdict_rows
from normscope.results.summary import Summary

NOT_RECORDED = "not recorded"
_FILTERS = {
    "placement": lambda each: each.arm.placement,
    "network": lambda each: each.network,
    "optimizer": lambda each: each.optimizer,
}
# Class and text of a badge; other outcomes are their own.
_BADGES = {
    "undecided": ("not-enough-evidence", "undecided"),
    NO_CLAIM: ("not-enough-evidence", "no claim"),
    UNFINISHED: ("not-enough-evidence", "unfinished"),
}


@check_arguments
def write_atlas(directory: Path, path: Path | None = None) -> Path:
    """Write the page of every comparison in a folder of studies.

    The page shows the numbers of the summaries, each for itself, and computes no statistic. Equal summaries give equal
    bytes. The page is written atomically.

    Args:
        directory: Folder that contains the folders of studies, at any depth.
        path: Path of the page; ``atlas.html`` in ``directory`` if None. Its links to the studies are relative to it.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: If there is no summary.json, or no folder for ``path``.
        ValueError: If a summary.json has another shape, or ``path`` does not end with ``.html``.

    Example:
        >>> from pathlib import Path
        >>> from normscope import summarize
        >>> from normscope.report import write_atlas
        >>> folder = Path("runs/digits")  # a study that compare() made
        >>> summarize(folder).write(folder)
        >>> write_atlas(Path("runs")).name
        'atlas.html'
    """
    path = Path(directory) / "atlas.html" if path is None else Path(path)
    if path.suffix != ".html":
        raise ValueError(f"the page is HTML: expected a path that ends with .html, got {path}")
    atlas = read_atlas(directory)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}: create it first")
    write_atomically(path, render(atlas, to_studies=os.path.relpath(directory, path.parent)).encode())
    return path


def render(atlas: Atlas, *, to_studies: str = ".") -> str:
    """Render the page as HTML.

    Args:
        atlas: Comparisons to show.
        to_studies: Path from the folder of the page to that of the atlas.
    """
    from markupsafe import Markup

    script, content = read_asset("atlas.js"), atlas.to_dict()
    usual = Counter(each.summary.baseline for each in atlas.comparisons).most_common(1)[0][0]
    filters = {name: atlas.values(of) for name, of in _FILTERS.items()}
    views = {id(each): _view(each, atlas, usual, to_studies) for each in atlas.comparisons}
    tasks = [_head(task, atlas) for task in atlas.tasks]
    mixed = {head["task"] for head in tasks if not head["metric"]}
    for place, (view, each) in enumerate(zip(views.values(), atlas.comparisons, strict=True)):
        view["metric"] = _describe(each.summary.metric) if view["task"] in mixed else ""
        view["id"] = f"comparison-{place}"
        view["filters"] = {name: filters[name].index(of(each)) for name, of in _FILTERS.items()}
    return fill_template(
        "atlas.html",
        tasks=tasks,
        rows=[
            {
                "norm": norm,
                "counts": atlas.counts(norm),
                "cells": [[views[id(each)] for each in atlas.at(norm, task)] for task in atlas.tasks],
            }
            for norm in atlas.norms
        ],
        views=list(views.values()),
        studies=_studies(atlas, to_studies),
        filters={name: [value or NOT_RECORDED for value in values] for name, values in filters.items()},
        outcomes=ALL_OUTCOMES,
        usual=usual,
        breakable=breakable,
        name_tasks=name_tasks,
        phrase=phrase,
        script=Markup(script),
        script_hash=script_hash(script),
        island=Markup(island(content)),
        download=data_address("application/json", json.dumps(content, indent=1, allow_nan=False) + "\n"),
    )


def _view(each: Comparison, atlas: Atlas, usual: str, to_studies: str) -> dict[str, Any]:
    """Build what the page shows of one comparison: the lines of its cell, and the facts of its detail."""
    summary, arm = each.summary, each.arm
    places = decimals(summary.margin)
    row = verdict_rows((each.baseline, arm), summary)[-1]
    is_baseline = each.outcome == BASELINE
    many = len(arm.runs) if is_baseline else arm.pairs
    kind, badge = ("fails", row.broken) if row.broken else _BADGES.get(each.outcome, (each.outcome, each.outcome))
    mean = f"{number(arm.mean, places)} {summary.metric['unit']}".strip()
    step = "" if arm.step_ms is None else f"{significant(arm.step_ms)} ms"
    size = getattr(arm, each.memory)
    ratios = [(each.times("step_ms"), step), (each.times(each.memory), "" if size is None else storage(size))]
    return {
        "norm": each.norm,
        "task": summary.task,
        "study": clean(each.study),
        "address": _page_address(each.study, to_studies) if each.has_page else None,
        "outcome": ALL_OUTCOMES.index(each.outcome),
        "kind": kind,
        "badge": badge,
        "label": arm.label if arm.label != each.norm else "",
        "against": summary.baseline if summary.baseline != usual and not is_baseline else "",
        "value": mean if is_baseline else change(arm.difference, places, summary.metric["unit"]),
        "interval": "" if arm.interval is None else span(arm.interval, places),
        "cost": [
            (name, text if ratio is None else f"\N{MULTIPLICATION SIGN}{ratio:.2f}")
            for name, (ratio, text) in zip(("time", "memory"), ratios, strict=True)
            if text
        ],
        "marks": [
            *([] if each.tuned is None else ["tuned" if each.tuned else "untuned"]),
            *(
                {NO_CLAIM: "no claim"}.get(name, name)
                for name in each.limits
                if not is_baseline and name != each.outcome
            ),
            f"{many} {'seed' if is_baseline else 'pair'}{'s' * (many != 1)}",
        ],
        "verdict": arm.verdict,
        "limits": list(each.limits.values()),
        "warnings": list(summary.warnings),
        "facts": {
            **{cell.head: (cell.text, cell.note) for cell in (*row.cells, *row.details) if cell.text != MISSING},
            **{head: (text, "") for head, text in _conditions(each)},
        },
        "summary": summary,
    }


def _conditions(each: Comparison) -> list[tuple[str, str]]:
    """Return the conditions of a comparison that the table of its study does not show, as names and values."""
    settings = each.summary.settings
    known = {
        "Baseline": each.summary.baseline,
        "Margin": _margin(each.summary),
        "Seeds": name_seeds([run.seed for run in each.arm.runs]),
        "Network": each.network or NOT_RECORDED,
        "Optimizer": each.optimizer or NOT_RECORDED,
        "Updates": settings.get("steps"),
        "Batch size": settings.get("batch_size"),
        "Precision": settings.get("precision"),
        "Device": settings.get("device_name"),
    }
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, list) else value)
        for name, value in known.items()
        if value
    ]


def _head(task: str, atlas: Atlas) -> dict[str, Any]:
    """Build the heading of a task's column; what its studies do not share is left out."""
    studies = [each for each in atlas.comparisons if each.summary.task == task]
    (metric, *others) = {_describe(each.summary.metric) for each in studies}
    return {"task": task, "network": studies[0].network or "", "metric": "" if others else metric}


def _describe(metric: Mapping[str, Any]) -> str:
    unit = "" if metric["unit"] in metric["name"] else f" ({metric['unit']})"
    return f"{metric['name']}{unit}, {'higher' if metric['higher_is_better'] else 'lower'} is better"


def _studies(atlas: Atlas, to_studies: str) -> list[dict[str, Any]]:
    """Build the table of the studies."""
    rows = []
    for name in dict.fromkeys(each.study for each in atlas.comparisons):
        own = [each for each in atlas.comparisons if each.study == name]
        summary: Summary = own[0].summary
        rows.append(
            {
                "name": clean(name),
                "address": _page_address(name, to_studies) if own[0].has_page else None,
                "arms": len(summary.arms),
                "seeds": name_seeds([run.seed for run in max((arm.runs for arm in summary.arms), key=len)]),
                "looks": "" if summary.looks is None else f"looks at {', '.join(map(str, summary.looks.pairs))} pairs",
                "margin": _margin(summary),
                **{key: ", ".join(dict.fromkeys(of(each) or MISSING for each in own)) for key, of in _FILTERS.items()},
                "limits": [*limits(summary).values(), *summary.warnings],
                "regime": summary.regime,
            }
        )
    return rows


def _margin(summary: Summary) -> str:
    return f"{summary.margin:g} {apart(summary.metric['unit'])}".strip()


def _page_address(study: str, to_studies: str) -> str:
    """Return the address of a study's page, relative to the page of the atlas."""
    return quote((Path(to_studies) / study / "report.html").as_posix(), errors="surrogateescape")
