"""Runs in SQLite: ``mlflow.db`` of MLflow, and ``<project>.db`` of Trackio."""

import json
import math
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from normscope.results.foreign.delimited import flatten
from normscope.results.foreign.table import MAX_ROWS, ForeignRow, TableUnusable, check_rows, check_size, printable

_MLFLOW = {"runs", "metrics", "params", "tags", "experiments"}
_TRACKIO = {"metrics", "configs"}


def read_database(path: Path) -> tuple[str, list[ForeignRow], list[str]]:
    """Read the runs of MLflow or of Trackio from their database, without changing it.

    Returns:
        The kind of the table, its rows, and notes.

    Raises:
        TableUnusable: If it is damaged, or belongs to another program.
    """
    check_size(path)
    name = printable(path)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            tables = {row["name"] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables >= _MLFLOW:
                return _read_mlflow(database, name)
            if tables >= _TRACKIO:
                return _read_trackio(database, name)
    except sqlite3.Error as error:
        raise TableUnusable(f"{name} is not a readable SQLite database: {error}") from error
    raise TableUnusable(
        f"{name} is a database of neither MLflow nor Trackio; its tables are {', '.join(sorted(tables)[:10]) or 'none'}"
    )


def _count(database: sqlite3.Connection, name: str) -> None:
    (count,) = database.execute("SELECT count(*) FROM metrics").fetchone()
    check_rows(count, f"the table of metrics in {name}")


def _read_mlflow(database: sqlite3.Connection, name: str) -> tuple[str, list[ForeignRow], list[str]]:
    """Read a row per run and logged step; deleted runs are left out and counted."""
    _count(database, name)
    runs: dict[str, dict[str, Any]] = {}
    deleted = 0
    query = "SELECT run_uuid, runs.name AS run, status, runs.lifecycle_stage AS stage, experiments.name AS experiment"
    for row in database.execute(f"{query} FROM runs JOIN experiments USING (experiment_id) ORDER BY start_time"):
        if row["stage"] == "deleted":
            deleted += 1
        else:
            runs[row["run_uuid"]] = {
                "run_id": row["run_uuid"],
                "run_name": row["run"],
                "experiment": row["experiment"],
                "status": row["status"],
            }
    for table in ("params", "tags"):
        for row in database.execute(f"SELECT run_uuid, key, value FROM {table}"):
            if row["run_uuid"] in runs and not row["key"].startswith("mlflow."):
                runs[row["run_uuid"]][f"{table}.{row['key']}"] = row["value"]
    steps: dict[str, dict[int, dict[str, float]]] = {run: {} for run in runs}
    for row in database.execute("SELECT run_uuid, key, value, step, is_nan FROM metrics"):
        if row["run_uuid"] in runs:
            value = math.nan if row["is_nan"] else unclamped(row["value"])
            steps[row["run_uuid"]].setdefault(row["step"], {})[f"metrics.{row['key']}"] = value
    return "MLflow database", mlflow_rows(runs, steps), deleted_note(deleted)


def unclamped(value: float) -> float:
    """Return infinity where MLflow's database has the largest number of its type in its place."""
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value


def deleted_note(count: int) -> list[str]:
    """Write the note on deleted runs."""
    return [f"{count} deleted runs are left out"] if count else []


def mlflow_rows(
    runs: Mapping[str, Mapping[str, Any]], steps: Mapping[str, Mapping[int, Mapping[str, float]]]
) -> list[ForeignRow]:
    """Build a row per run and step; a run that logged no metric has one row without any."""
    rows = []
    for run, values in runs.items():
        place = f"run {values.get('run_name') or ''} ({run[:8]})".replace("  ", " ")
        rows += [
            ForeignRow(place=f"{place} at step {step}", values={**values, "step": step, **metrics})
            for step, metrics in sorted(steps[run].items())
        ] or [ForeignRow(place=place, values=values)]
    return rows


def _read_trackio(database: sqlite3.Connection, name: str) -> tuple[str, list[ForeignRow], list[str]]:
    """Read a row per logged step; the configuration is that of the run."""
    _count(database, name)
    columns = {row["name"] for row in database.execute("PRAGMA table_info(metrics)")}
    key = "run_id" if "run_id" in columns else "run_name"
    configs = {
        row[key]: {
            name: cell
            for name, cell in flatten(_parse(row["config"], name), "config.").items()
            if not name.startswith("config._")
        }
        for row in database.execute("SELECT * FROM configs")
    }
    rows = []
    for row in database.execute(f"SELECT {key} AS run_key, run_name, step, metrics FROM metrics ORDER BY id"):
        if len(rows) > MAX_ROWS:
            break
        values = {"run_id": row["run_key"], "run_name": row["run_name"], **configs.get(row["run_key"], {})}
        values |= {"step": row["step"], **flatten(_parse(row["metrics"], name))}
        rows.append(ForeignRow(place=f"run {row['run_name']} at step {row['step']}", values=values))
    return "Trackio database", rows, []


def _parse(blob: bytes | str, name: str) -> dict[str, Any]:
    try:
        content = json.loads(blob)
    except (ValueError, RecursionError) as error:
        raise TableUnusable(f"{name} has a record that is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise TableUnusable(f"{name} has a record that is not an object")
    return content
