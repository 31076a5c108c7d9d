"""Runs in MLflow's file store: the folder ``mlruns``, read without MLflow."""

import math
import os
import re
from pathlib import Path
from typing import Any

from normscope.results.foreign.databases import deleted_note, mlflow_rows, unclamped
from normscope.results.foreign.table import ForeignRow, TableUnusable, check_rows, check_size, printable

_STATUS = {"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}


def find_mlflow(folder: Path) -> list[Path]:
    """Return the folders of the runs in a file store, or in one of its experiments, in the order of their names."""
    found = []
    for home, folders, names in os.walk(folder):
        if "meta.yaml" in names and {"metrics", "params"} & {*folders}:
            found.append(Path(home))
            folders.clear()
        # What a run has written, and what was deleted with its experiment.
        folders[:] = [each for each in folders if each not in ("artifacts", ".trash", "models", "traces")]
    return sorted(found)


def read_mlflow(folder: Path, homes: list[Path]) -> tuple[str, list[ForeignRow], list[str]]:
    """Read the runs of a file store: a row per logged step. Deleted runs are left out and counted.

    Returns:
        The kind of the table, its rows, and notes.

    Raises:
        TableUnusable: If a file is damaged, or no run is left.
    """
    runs: dict[str, dict[str, Any]] = {}
    steps: dict[str, dict[int, dict[str, float]]] = {}
    deleted = 0
    for home in homes:
        meta = _read_meta(home / "meta.yaml")
        if meta.get("lifecycle_stage") == "deleted":
            deleted += 1
            continue
        tags = _read_values(home / "tags")
        experiment = home.parent / "meta.yaml"
        status = meta.get("status", "")
        run = home.name
        runs[run] = {
            "run_id": run,
            "run_name": tags.get("mlflow.runName") or meta.get("run_name"),
            "experiment": _read_meta(experiment).get("name") if experiment.is_file() else home.parent.name,
            "status": _STATUS.get(status, status),
            **{f"params.{key}": value for key, value in _read_values(home / "params").items()},
            **{f"tags.{key}": value for key, value in tags.items() if not key.startswith("mlflow.")},
        }
        steps[run] = _read_metrics(home / "metrics")
    rows = mlflow_rows(runs, steps)
    check_rows(len(rows), printable(folder))
    return "MLflow file store", rows, deleted_note(deleted)


def _read_meta(path: Path) -> dict[str, str]:
    """Read the top level of a ``meta.yaml``, whose values are plain or quoted scalars of one line."""
    check_size(path)
    text = path.read_text(encoding="utf-8", errors="replace")
    pairs = re.findall(r"^(\w+): *(.*?) *$", text, flags=re.MULTILINE)
    return {key: value[1:-1] if value[:1] == value[-1:] and value[:1] in "'\"" else value for key, value in pairs}


def _files(folder: Path) -> list[tuple[str, Path]]:
    """List the files in a folder; a name with slashes is a path in it."""
    found = [Path(home) / name for home, _, names in os.walk(folder) for name in names]
    return sorted((path.relative_to(folder).as_posix(), path) for path in found)


def _read_values(folder: Path) -> dict[str, str]:
    values = {}
    for key, path in _files(folder):
        check_size(path)
        values[printable(key)] = path.read_text(encoding="utf-8", errors="replace").strip()
    return values


def _read_metrics(folder: Path) -> dict[int, dict[str, float]]:
    """Read the metrics of a run: lines of time, value and step.

    Raises:
        TableUnusable: If a line has another form.
    """
    steps: dict[int, dict[str, float]] = {}
    for key, path in _files(folder):
        check_size(path)
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            parts = line.split()
            try:
                value, step = float(parts[1]), int(parts[2]) if len(parts) > 2 else 0
            except (IndexError, ValueError):
                raise TableUnusable(
                    f"{printable(path)}, line {number}, must have a time, a value and a step, got {line[:60]!r}"
                ) from None
            steps.setdefault(step, {})[f"metrics.{printable(key)}"] = value if math.isnan(value) else unclamped(value)
    return steps
