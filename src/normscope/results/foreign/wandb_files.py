"""Runs of W&B on disk: the ``run-<id>.wandb`` files of a ``wandb`` folder, read without wandb.

A file is a log in the layout of LevelDB (blocks of 32 KiB; chunks with checksum, length and kind) whose records are
protocol buffers (``wandb_internal.proto``). Only what was logged, configured and how the run ended is read.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from normscope.results.foreign.delimited import flatten
from normscope.results.foreign.protocol_buffers import fields
from normscope.results.foreign.table import ForeignRow, TableUnusable, check_rows, check_size, printable

_BLOCK = 32768
_HEADER = struct.Struct("<IHB")
_START = b":W&B"
_FULL, _FIRST, _MIDDLE, _LAST = range(1, 5)

# Numbers of the fields that are read, of Record and of what it may hold.
_HISTORY, _SUMMARY, _CONFIG, _RUN, _EXIT = 2, 3, 5, 17, 18
_KEY, _NESTED_KEY, _VALUE_JSON = 1, 2, 16
_TYPED = {4: bool, 5: int, 6: float, 7: str, 8: json.loads}
_RUN_ID, _RUN_CONFIG, _RUN_GROUP, _RUN_NAME = 1, 4, 6, 8


def read_wandb(folder: Path, files: list[Path]) -> tuple[str, list[ForeignRow], list[str]]:
    """Read the runs of a ``wandb`` folder: a row per step that logged something.

    Args:
        folder: The folder, for error messages.
        files: Its ``run-<id>.wandb`` files.

    Returns:
        The kind of the table, its rows, and notes.

    Raises:
        TableUnusable: If a file is damaged, or no run has logged anything.
    """
    rows: list[ForeignRow] = []
    for path in files:
        check_size(path)
        rows += _read_run(path)
    check_rows(len(rows), printable(folder))
    return "W&B run files", rows, []


def _read_run(path: Path) -> list[ForeignRow]:
    run: dict[str, Any] = {"run_id": path.stem.removeprefix("run-"), "state": "running"}
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    for record in _records(path.read_bytes(), printable(path)):
        for number, content in fields(record):
            if not isinstance(content, bytes):
                continue
            if number == _RUN:
                parts = dict(fields(content))
                run |= {
                    key: parts[at].decode("utf-8", "replace")
                    for at, key in ((_RUN_ID, "run_id"), (_RUN_NAME, "run_name"), (_RUN_GROUP, "group"))
                    if isinstance(parts.get(at), bytes)
                }
                config |= _items(parts.get(_RUN_CONFIG, b""))
            elif number == _CONFIG:
                config |= _items(content)
            elif number == _SUMMARY:
                summary |= _items(content)
            elif number == _HISTORY:
                history.append(_items(content))
            elif number == _EXIT:
                code = dict(fields(content)).get(1, 0)
                run["state"] = "failed" if code else "finished"
    config.pop("_wandb", None)
    run |= flatten(config, "config.")
    steps: dict[int, dict[str, Any]] = {}
    for row in history:
        steps.setdefault(int(row.get("_step", 0)), {}).update(flatten(_visible(row)))
    logged = {name for values in steps.values() for name in values}
    extra = {name: cell for name, cell in flatten(_visible(summary)).items() if name not in logged}
    if extra:
        steps.setdefault(max(steps, default=int(summary.get("_step", 0))), {}).update(extra)
    place = f"run {run.get('run_name') or ''} ({run['run_id']})".replace("  ", " ")
    return [
        ForeignRow(place=f"{place} at step {step}", values={**run, "_step": step, **values})
        for step, values in sorted(steps.items())
    ] or [ForeignRow(place=place, values=run)]


def _visible(items: dict[str, Any]) -> dict[str, Any]:
    """Leave out what wandb adds: names that begin with an underscore."""
    return {name: value for name, value in items.items() if not name.startswith("_")}


def _records(data: bytes, name: str) -> Iterator[bytes]:
    """Yield the records of a log; a last one that was cut short, by a killed process, is skipped.

    Raises:
        TableUnusable: If the file does not begin like one, or a checksum is wrong.
    """
    if data[:4] != _START:
        raise TableUnusable(f"{name} is not a run of W&B: it begins with {data[:4]!r}")
    at, parts = 7, []
    while at + _HEADER.size <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER.size:
            at += _BLOCK - at % _BLOCK
            continue
        checksum, length, kind = _HEADER.unpack_from(data, at)
        chunk = data[at + _HEADER.size : at + _HEADER.size + length]
        if len(chunk) < length or kind == 0:
            return
        if zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != checksum:
            raise TableUnusable(f"{name} is damaged: a checksum at byte {at} is wrong")
        at += _HEADER.size + length
        parts = [chunk] if kind in (_FULL, _FIRST) else [*parts, chunk]
        if kind in (_FULL, _LAST):
            yield b"".join(parts)


def _items(data: bytes) -> dict[str, Any]:
    """Read the items of a history, summary or configuration; their field is the first in each of the three."""
    values: dict[str, Any] = {}
    for number, content in fields(data):
        if number != 1 or not isinstance(content, bytes):
            continue
        key: list[str] = []
        value = None
        for at, part in fields(content):
            if at in (_KEY, _NESTED_KEY) and isinstance(part, bytes):
                key.append(part.decode("utf-8", "replace"))
            elif at == _VALUE_JSON and isinstance(part, bytes):
                value = _parse(part)
            elif at in _TYPED:
                value = _TYPED[at](part.decode("utf-8", "replace") if isinstance(part, bytes) else part)
        if key:
            values[".".join(key)] = value
    return values


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")


def find_wandb(folder: Path) -> list[Path]:
    """Return the run files in a folder and the folders in it, in the order of their names."""
    found = []
    for home, _, names in os.walk(folder):
        found += [Path(home) / name for name in names if name.startswith("run-") and name.endswith(".wandb")]
    return sorted(found)
