"""Which program wrote a file or folder, by its content and names; and its rows."""

import hashlib
import os
import re
from pathlib import Path

from normscope.results.foreign.databases import read_database
from normscope.results.foreign.delimited import read_delimited, read_text
from normscope.results.foreign.json_rows import read_json_rows
from normscope.results.foreign.mlflow_files import find_mlflow, read_mlflow
from normscope.results.foreign.parquet import read_parquet
from normscope.results.foreign.table import ForeignRow, ForeignTable, TableUnusable, check_rows, printable
from normscope.results.foreign.tensorboard import find_events, read_events
from normscope.results.foreign.wandb_files import find_wandb, read_wandb

_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a ZIP archive (or a spreadsheet)",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_DOWNLOAD = ["Wall time", "Step", "Value"]
_DOWNLOAD_NAME = re.compile(r"run-(?P<run>.*)-tag-(?P<tag>.*)")
_CHART = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<bound>__MIN|__MAX)?")
_RUNS_TABLE = {"State", "Created", "Runtime", "Sweep"}
"""Columns of W&B's table of runs beside the name."""

_MOST_FILES = 10_000


def read_table(path: Path) -> ForeignTable:
    """Read a table of runs, in whatever format it is.

    Args:
        path: A file (CSV, TSV, JSON, JSON lines, Parquet, ``mlflow.db``, Trackio's ``<project>.db``), or a folder
            (``mlruns``, ``wandb``, TensorBoard's log folder, or one with a table per run).

    Returns:
        Its rows.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If a package that reads the format is not installed.
        TableUnusable: If it cannot be read as a table.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {printable(path)}")
    name, notes = printable(path.name or path.absolute().name), []
    if path.is_dir():
        kind, rows, notes = _read_folder(path)
        return ForeignTable(source=name, kind=kind, rows=tuple(rows), notes=tuple(notes))
    kind, rows, notes = _read_file(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ForeignTable(source=name, kind=kind, rows=tuple(rows), digest=digest, notes=tuple(notes))


def _read_file(path: Path) -> tuple[str, list[ForeignRow], list[str]]:
    if not path.is_file():
        raise TableUnusable(f"{printable(path)} is neither a file nor a folder")
    with path.open("rb") as file:
        start = file.read(16)
    for mark, program in _PACKED.items():
        if start.startswith(mark):
            raise TableUnusable(f"{printable(path)} is packed as {program}: unpack it, or save the table as CSV")
    if start.startswith(b"PAR1"):
        return *read_parquet(path), []
    if start.startswith(b"SQLite format 3"):
        return read_database(path)
    if "tfevents" in path.name:
        return read_events(path.parent, [path])
    if path.name.startswith("run-") and path.suffix == ".wandb":
        return read_wandb(path, [path])
    text = read_text(path)
    name = printable(path)
    if text.lstrip()[:1] in ("{", "["):
        return *read_json_rows(text, name), []
    kind, rows = read_delimited(text, name)
    return _recognize(kind, rows, path)


def _recognize(kind: str, rows: list[ForeignRow], path: Path) -> tuple[str, list[ForeignRow], list[str]]:
    """Name the program that wrote a table, and unfold those that have a run per column."""
    columns = list(rows[0].values)
    if columns == _DOWNLOAD:
        return f"{kind} download of TensorBoard", _unfold_download(rows, path), []
    charts = [_CHART.fullmatch(column) for column in columns[1:]]
    if columns[0].casefold() in ("step", "_step", "relative time (process)") and charts and all(charts):
        return f"W&B export of a chart ({kind})", _unfold_chart(rows, columns), []
    if {"run_id", "experiment_id", "status"} <= {*columns}:
        return f"MLflow export of an experiment ({kind})", rows, []
    if {"_step", "_runtime", "_timestamp"} & {*columns} or ("Name" in columns and _RUNS_TABLE & {*columns}):
        return f"W&B export ({kind})", rows, []
    return kind, rows, []


def _unfold_download(rows: list[ForeignRow], path: Path) -> list[ForeignRow]:
    """Name the run and the metric of a TensorBoard download, which only its file name has."""
    match = _DOWNLOAD_NAME.fullmatch(path.stem)
    run, tag = (match["run"], match["tag"]) if match else (path.stem, "Value")
    return [
        ForeignRow(
            place=f"{printable(path.name)}, {row.place}",
            values={"run_name": printable(run), "step": row.values["Step"], printable(tag): row.values["Value"]},
        )
        for row in rows
    ]


def _unfold_chart(rows: list[ForeignRow], columns: list[str]) -> list[ForeignRow]:
    """Turn the columns of a W&B chart, ``<run> - <metric>``, into rows; the bounds of smoothing are left out."""
    unfolded = []
    for column in columns[1:]:
        match = _CHART.fullmatch(column)
        if match is not None and not match["bound"]:
            unfolded += [
                ForeignRow(
                    place=f"{row.place}, column {column!r}",
                    values={
                        "run_name": match["run"],
                        "step": row.values[columns[0]],
                        match["metric"]: row.values[column],
                    },
                )
                for row in rows
            ]
    return unfolded


def _read_folder(path: Path) -> tuple[str, list[ForeignRow], list[str]]:
    """Read a folder by what lies in it.

    Raises:
        TableUnusable: If it holds no runs, or those of several programs.
    """
    found = {
        "W&B": (find_wandb(path), read_wandb),
        "MLflow": (find_mlflow(path), read_mlflow),
        "TensorBoard": (find_events(path), read_events),
    }
    present = [program for program, (files, _) in found.items() if files]
    if len(present) > 1:
        raise TableUnusable(f"{printable(path)} holds runs of {' and '.join(present)}: name one of their folders")
    if present:
        files, read = found[present[0]]
        if len(files) > _MOST_FILES:
            raise TableUnusable(f"{printable(path)} holds {len(files):,} runs; at most {_MOST_FILES:,} are read")
        return read(path, files)
    tables = sorted(each for each in path.iterdir() if each.suffix.casefold() in (".csv", ".tsv", ".jsonl", ".json"))
    databases = [each for each in sorted(path.iterdir()) if each.suffix == ".db"]
    if len(databases) == 1 and not tables:
        return read_database(databases[0])
    if not tables:
        raise TableUnusable(
            f"{printable(path)} holds no runs: expected mlruns, wandb or TensorBoard's log folder, or a table per run; "
            f"it has {', '.join(sorted(map(printable, os.listdir(path)))[:8]) or 'nothing'}"
        )
    return _read_tables(path, tables)


def _read_tables(path: Path, tables: list[Path]) -> tuple[str, list[ForeignRow], list[str]]:
    """Read a folder with a table per run: the name of a file is that of its run, if the table has no name."""
    kinds, rows = set(), []
    for table in tables[:_MOST_FILES]:
        kind, found, _ = _read_file(table)
        kinds.add(kind)
        for row in found:
            values = row.values if "run_name" in row.values else {"run_name": printable(table.stem), **row.values}
            place = (
                row.place if row.place.startswith(printable(table.name)) else f"{printable(table.name)}, {row.place}"
            )
            rows.append(ForeignRow(place=place, values=values))
        check_rows(len(rows), printable(path))
    return f"{len(tables)} tables ({', '.join(sorted(kinds))})", rows, []
