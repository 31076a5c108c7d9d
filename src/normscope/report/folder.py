"""A study folder as the report needs it: read once, checked for what is missing, never repaired in silence."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normscope.results.store import FINAL_STATES, StudyFolder, read_json

_CARD = (
    "question",
    "task",
    "metric",
    "margin",
    "alpha",
    "baseline",
    "arms",
    "seeds",
    "steps",
    "regime",
    "failure",
    "command",
)
_SUMMARY = (
    "task",
    "question",
    "metric",
    "baseline",
    "margin",
    "alpha",
    "complete",
    "noise",
    "arms",
    "regime",
    "command",
)
_ARM = ("label", "norm", "runs", "mean", "difference", "interval", "p_adjusted", "verdict", "failures", "pairs")
_METRIC = ("name", "unit", "higher_is_better")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, as far as it came."""

    label: str
    """The arm it belongs to."""
    seed: int
    """Its seed, which is also the name of its pair."""
    state: str
    """``done``, ``diverged``, ``failed``, ``interrupted`` or ``planned``."""
    value: float | None
    """The metric on the test set; None where it has none."""
    description: Mapping[str, Any]
    """run.json; empty for a planned run."""
    result: Mapping[str, Any]
    """result.json; empty for a run that has not ended."""
    metrics: tuple[Mapping[str, Any], ...]
    """One entry an evaluation, in the order of the steps."""

    @property
    def broke(self) -> bool:
        """Whether the run ended without a value."""
        return self.state in ("diverged", "failed")


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that a report shows."""

    directory: Path
    """Where it was read from."""
    card: Mapping[str, Any]
    """card.json."""
    summary: Mapping[str, Any]
    """summary.json."""
    runs: tuple[Run, ...]
    """Every run of the arms in the verdict, in the order of summary.json."""
    table: str | None
    """summary.csv, or None where the study has none."""

    def of(self, label: str) -> list[Run]:
        """Give the runs of one arm."""
        return [run for run in self.runs if run.label == label]


def read_study(directory: Path) -> Study:
    """Read a study folder (``docs/studies.md``).

    Raises:
        FileNotFoundError: If card.json or summary.json is not there, or a finished run has lost a file.
        ValueError: If a file is not valid JSON or lacks a field, or if card and summary are about two studies.
    """
    folder = StudyFolder(directory)
    card = folder.read_card()
    _require(card, _CARD, folder.card)
    _require(card["metric"], _METRIC, folder.card)
    if not folder.summary.exists():
        raise FileNotFoundError(f"{directory} has no summary.json: run `normscope report {directory}` to make it")
    summary = read_json(folder.summary)
    _require(summary, _SUMMARY, folder.summary)
    _require(summary["metric"], _METRIC, folder.summary)
    for arm in [*summary["arms"], *(summary.get("untuned") or [])]:
        _require(arm, _ARM, folder.summary)
    for key in ("question", "baseline", "margin"):
        if card[key] != summary[key]:
            raise ValueError(
                f"{directory}: card.json has {key} {card[key]!r}, summary.json has {summary[key]!r};"
                " they are not about the same study"
            )
    labels = [arm["label"] for arm in summary["arms"]]
    if summary["baseline"] not in labels:
        raise ValueError(f"{folder.summary}: the baseline {summary['baseline']!r} is not among the arms {labels}")
    runs = tuple(_read_run(folder, arm["label"], entry) for arm in summary["arms"] for entry in arm["runs"])
    table = folder.table.read_text(encoding="utf-8") if folder.table.exists() else None
    return Study(directory=directory, card=card, summary=summary, runs=runs, table=table)


def _read_run(folder: StudyFolder, label: str, entry: Mapping[str, Any]) -> Run:
    """Read one run that summary.json names.

    Raises:
        FileNotFoundError: If a finished run has lost its run.json or result.json.
    """
    _require(entry, ("seed", "state", "value"), folder.summary)
    description: Mapping[str, Any] = {}
    result: Mapping[str, Any] = {}
    metrics: list[dict[str, Any]] = []
    if entry.get("id") is not None:
        run = folder.run(entry["id"])
        if run.description.exists():
            description = read_json(run.description)
            metrics = run.read_metrics()
        if run.finished():
            result = read_json(run.result)
    if entry["state"] in FINAL_STATES and not (description and result):
        missing = "run.json" if not description else "result.json"
        raise FileNotFoundError(
            f"{folder.path}: the run of {label} with seed {entry['seed']} is {entry['state']} in summary.json,"
            f" but its {missing} (runs/{entry.get('id')}) is not there"
        )
    return Run(
        label=label,
        seed=entry["seed"],
        state=entry["state"],
        value=entry["value"],
        description=description,
        result=result,
        metrics=tuple(metrics),
    )


def _require(content: Mapping[str, Any], fields: tuple[str, ...], path: Path) -> None:
    """Check that a file has its fields.

    Raises:
        ValueError: If it lacks any; the message names all of them.
    """
    missing = [field for field in fields if field not in content]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; see docs/studies.md")
