"""A study folder as the report needs it: read once, checked for what is missing, never repaired in silence."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normscope.results.schema import QUESTION, TUNING, check
from normscope.results.store import FINAL_STATES, StudyFolder, read_json

_INTERVAL = (None, [float, float])
_ARM = {
    "label": str,
    "norm": str,
    "runs": [
        {
            "seed": int,
            "state": (*FINAL_STATES, "interrupted", "planned"),
            "value": (float, None),
            "steps?": int,
            "id?": str,
        }
    ],
    **dict.fromkeys(("mean", "sd", "difference", "p_adjusted"), (float, None)),
    "interval": _INTERVAL,
    "verdict": str,
    "failures": int,
    "pairs": int,
    "placement?": str,
    "arguments?": {},
    "unpaired?": [int],
    **dict.fromkeys(("interval_bca?", "interval_examples?"), _INTERVAL),
    **dict.fromkeys(("learning_rate?", "worst?", "p?", "p_equivalent?", "effect?", "improvement?"), float),
    **dict.fromkeys(("parameters?", "seeds_needed?"), int),
    **dict.fromkeys(("step_ms?", "peak_bytes?", "saved_bytes?", "seconds?"), float),
    **dict.fromkeys(("steps_to_baseline?", "seconds_to_baseline?"), float),
}
# summary.json, as far as the page reads it.
_SUMMARY = {
    **QUESTION,
    "complete": bool,
    "noise": (None, {"words": str}),
    "arms": [_ARM, ...],
    "regime": str,
    "command": str,
    "untuned?": [_ARM],
    "tuning?": TUNING,
    "settings?": {"foreign_runs?": [str]},
}


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
    """Read a study folder (``docs/guides/studies.md``).

    Raises:
        FileNotFoundError: If card.json or summary.json is not there, or a finished run has lost a file.
        ValueError: If a file is not valid JSON or has another shape, or if card and summary are about two studies.
    """
    folder = StudyFolder(directory)
    card = folder.read_card()
    if not folder.summary.exists():
        raise FileNotFoundError(f"{directory} has no summary.json: run `normscope report {directory}` to make it")
    summary = read_json(folder.summary)
    check(summary, _SUMMARY, folder.summary)
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
    description: Mapping[str, Any] = {}
    result: Mapping[str, Any] = {}
    metrics: list[dict[str, Any]] = []
    if entry.get("id") is not None:
        run = folder.run(entry["id"])
        if run.description.exists():
            description = run.read_description()
            metrics = run.read_metrics()
        if run.finished():
            result = run.read_result()
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
