"""Assembles the page: one HTML file that needs nothing but itself."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from normscope.files import write_atomically
from normscope.report.drawing import curves, palette
from normscope.report.drawing import format as words
from normscope.report.study import (
    figures,
    table,
)
from normscope.report.study import (
    figures as gradients,
)
from normscope.report.study import (
    figures as tuning,
)
from normscope.report.study import (
    paired as beside,
)
from normscope.report.study import (
    paired as pairs,
)
from normscope.report.study.folder import Study, read_study
from normscope.results.store import FINAL_STATES, StudyFolder

_MUST_AGREE = ("task", "steps", "batch_size", "precision", "device", "device_name", "backend")

_ELSEWHERE = ("data", "foreign_runs")


def facts(study: Study) -> dict[str, list[tuple[str, str]]]:
    """List settings, versions and data hashes as name and value, in that order of groups."""
    counts = _counts(study)
    seen = {name: ", ".join(values) for name, values in counts.items()}
    settings = {name: seen[name] for name in _MUST_AGREE if name in seen}
    more = {key: value for key, value in (study.summary.get("settings") or {}).items() if key not in _ELSEWHERE}
    settings |= {name: value for name, value in _flat(more) if name not in settings}
    versions = {name.removeprefix("versions."): value for name, value in seen.items() if name.startswith("versions.")}
    data = {name.removeprefix("data."): value for name, value in seen.items() if name.startswith("data.")}
    groups = {"Settings": settings, "Versions": versions, "Data (SHA-256)": data}
    return {head: list(group.items()) for head, group in groups.items() if group}


def strangers(study: Study) -> list[str]:
    """Name the run folders that belong to no planned run; they are left out of every number."""
    return list((study.summary.get("settings") or {}).get("foreign_runs") or [])


def disagreements(study: Study) -> list[str]:
    """Say in which settings, versions or data the runs differ; such runs are not one experiment."""
    return [
        f"{name.replace('.', ': ', 1)}: " + ", ".join(f"{value} in {count} runs" for value, count in values.items())
        for name, values in _counts(study).items()
        if len(values) > 1
    ]


def _counts(study: Study) -> dict[str, Counter[str]]:
    """Count, for everything that must be equal in all runs, how many runs have which value."""
    descriptions = [run.description for run in study.runs if run.description]
    table: dict[str, Counter[str]] = {}
    for description in descriptions:
        for name in _MUST_AGREE:
            if description.get(name) is not None:
                table.setdefault(name, Counter())[str(description[name])] += 1
        for group in ("versions", "data"):
            for name, value in (description.get(group) or {}).items():
                table.setdefault(f"{group}.{name}", Counter())[str(value)] += 1
    return table


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Spread nested settings into names with dots."""
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows


_POINTS = 60_000
"""The most points of all learning curves together: what keeps a study of hundreds of runs a small page."""


def write_report(directory: Path) -> Path:
    """Write ``report.html`` from the files of a study.

    The page shows the numbers of summary.json and computes no statistic of its own. Equal files give equal bytes.
    It is written whole or not at all; what `read_study` refuses, this refuses with the same error.

    Args:
        directory: A study folder (``docs/studies.md``) that has its summary.json.

    Returns:
        Where the page is.
    """
    folder = StudyFolder(Path(directory))
    write_atomically(folder.report, render(read_study(folder.path)).encode())
    return folder.report


def render(study: Study) -> str:
    """Write the page of a study as HTML."""
    summary = study.summary
    looks = palette.looks([arm["label"] for arm in summary["arms"]], summary["baseline"])
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _own("page.js")
    states = [run["state"] for arm in [*summary["arms"], *(summary.get("untuned") or [])] for run in arm["runs"]]
    return environment.from_string(_own("page.html")).render(
        card=study.card,
        summary=summary,
        looks=looks,
        style=Markup(palette.style_sheet() + _own("page.css")),
        script=Markup(script),
        # Only this very script may run, whatever a card is called.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        headline=words.headline(summary),
        answers=_answers(summary),
        ended=sum(state in FINAL_STATES for state in states),
        planned=len(states),
        rows=table.verdict_rows(summary["arms"], summary),
        untuned_rows=table.verdict_rows(summary.get("untuned") or [], summary),
        beside=beside.tuned_beside_untuned(summary) if summary.get("untuned") else [],
        breakages=table.breakages(study),
        published=beside.published_tables(study),
        facts=facts(study),
        strangers=strangers(study),
        disagreements=disagreements(study),
        pictures=_pictures(study, looks),
        island=_island(summary),
        downloads=_downloads(study),
        number=words.number,
        level=words.level(summary["alpha"]),
        unit=words.apart(summary["metric"]["unit"]),
        margin=f"{summary['margin']:g} {words.apart(summary['metric']['unit'])}".strip(),
    )


def _answers(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Make the sentences: arms that fail to train first, the baseline last, the others in their order."""
    parts = [(arm, *words.split_verdict(arm)) for arm in summary["arms"]]
    parts.sort(key=lambda part: (not part[1], part[0]["label"] == summary["baseline"]))
    return [
        {"label": arm["label"], "broken": failures, "sentence": words.sentence(arm, summary)}
        for arm, failures, _ in parts
    ]


def _pictures(study: Study, looks: Mapping[str, palette.Look]) -> dict[str, Any]:
    """Draw every picture of the page.

    Raises:
        ValueError: If the tuning is about an arm that the study does not have.
    """
    summary, metric = study.summary, study.summary["metric"]
    looked = study.card.get("valid_metric") or metric
    groups = {arm["label"]: study.of(arm["label"]) for arm in summary["arms"]}
    groups = {label: runs for label, runs in groups.items() if runs}
    baseline = groups.get(summary["baseline"], [])
    others = [label for label in groups if label != summary["baseline"]]
    points = max(20, min(200, _POINTS // max(1, 2 * len(study.runs))))
    shared = curves.frame(list(groups.values()), study.card["steps"], looked)
    scales = pairs.common_scale(
        {
            label: [run.value for run in (*runs, *baseline) if run.value is not None and not run.broke]
            for label, runs in groups.items()
        }
    )
    started = {label: runs for label, runs in groups.items() if any(run.metrics for run in runs)}
    drawn: dict[str, Any] = {
        "forest": [Markup(figures.forest(summary, looks, width=width, name=f"forest-{width}")) for width in (780, 340)]
        if others
        else [],
        "pairs": {
            label: Markup(
                pairs.pairs(
                    groups[label], baseline, looks[label], summary, scales[label], name=f"pairs-{looks[label].index}"
                )
            )
            for label in others
            if any(run.state in FINAL_STATES for run in (*groups[label], *baseline))
        },
        "curves": {
            label: Markup(
                curves.learning(
                    runs, baseline, looks[label], looked, shared, points, name=f"curves-{looks[label].index}"
                )
            )
            for label, runs in started.items()
        },
        "gradients": {},
        "cost": [],
        "tuning": {},
    }
    probed = {label: runs for label, runs in started.items() if any(len(gradients.shares(run)[0]) for run in runs)}
    top = gradients.highest([run for runs in probed.values() for run in runs])
    for label, runs in probed.items():
        name = f"gradients-{looks[label].index}"
        picture = gradients.gradients(runs, looks[label], study.card["steps"], top, name=name)
        drawn["gradients"][label] = Markup(picture)
    for field, axis in (
        ("step_ms", "time per step (ms)"),
        ("peak_bytes", "peak memory (MiB)"),
        ("saved_bytes", "saved for the backward pass (MiB)"),
    ):
        arms = [arm for arm in summary["arms"] if arm["mean"] is not None and arm.get(field) is not None]
        if len(arms) > 1 and len(drawn["cost"]) < 2:
            drawn["cost"].append(Markup(figures.cost(arms, looks, metric, field, axis, name=f"cost-{field}")))
    tuned = (summary.get("tuning") or {}).get("arms", {})
    values = {
        label: [value for entry in found["curve"] for value in entry["values"] if value is not None]
        for label, found in tuned.items()
    }
    limits = pairs.common_scale(values)
    for place, (label, found) in enumerate(tuned.items()):
        if label not in looks:
            raise ValueError(f"{study.directory}/summary.json: tuning is about {label!r}, the arms are {list(looks)}")
        picture = tuning.tuning(
            found["curve"], found["chosen"], looks[label], label, looked, limits[label], name=f"tuning-{place}"
        )
        drawn["tuning"][label] = Markup(picture)
    return drawn


def _own(name: str) -> str:
    """Read a file that lies beside this one."""
    return files("normscope.report").joinpath(name).read_text(encoding="utf-8")


def _island(summary: Mapping[str, Any]) -> Markup:
    """Write summary.json for a reader's own program; no letter of it can end the element it stands in."""
    text = json.dumps(summary, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _downloads(study: Study) -> list[tuple[str, str]]:
    """Make the files that the page gives away, as name and ``data:`` address."""
    contents = [("summary.json", "application/json", json.dumps(study.summary, indent=1, allow_nan=False) + "\n")]
    if study.table is not None:
        contents.append(("summary.csv", "text/csv", study.table))
    return [(name, f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}") for name, kind, text in contents]
