"""Where the numbers come from: settings, versions and data of all runs, and where runs of one study differ."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from normscope.report.folder import Study

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
