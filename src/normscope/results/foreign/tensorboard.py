"""Runs in TensorBoard's event files, read without TensorBoard.

A file is a sequence of records (length, checksum, content, checksum) of the protocol buffer ``Event``; a scalar is a
``simple_value`` or, of newer writers, a tensor with one number.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from normscope.results.foreign.protocol_buffers import fields
from normscope.results.foreign.table import ForeignRow, TableUnusable, check_rows, check_size, printable

_LENGTH = struct.Struct("<QI")
_EVENT_STEP, _EVENT_SUMMARY = 2, 5
_VALUE, _TAG, _SIMPLE, _TENSOR = 1, 1, 2, 8
_TYPE, _CONTENT, _FLOATS, _DOUBLES = 1, 4, 5, 6
_FORMATS = {1: "<f", 2: "<d"}


def find_events(folder: Path) -> list[Path]:
    """Return the event files in a folder and the folders in it, in the order of their names."""
    return sorted(Path(home) / name for home, _, names in os.walk(folder) for name in names if "tfevents" in name)


def read_events(folder: Path, files: list[Path]) -> tuple[str, list[ForeignRow], list[str]]:
    """Read the scalars of event files: a row per run and step. A run is a folder, as TensorBoard has it.

    Returns:
        The kind of the table, its rows, and notes.

    Raises:
        TableUnusable: If a file is damaged, or has no scalar.
    """
    runs: dict[str, dict[int, dict[str, float]]] = {}
    for path in files:
        check_size(path)
        name = printable(path.parent.relative_to(folder)) if path.parent != folder else printable(folder.name)
        steps = runs.setdefault(name, {})
        for step, tag, value in _scalars(path.read_bytes(), printable(path)):
            steps.setdefault(step, {})[tag] = value
    rows = [
        ForeignRow(place=f"run {run} at step {step}", values={"run_name": run, "step": step, **values})
        for run, steps in runs.items()
        for step, values in sorted(steps.items())
    ]
    check_rows(len(rows), f"{printable(folder)} with its {len(files)} event files")
    return "TensorBoard event files", rows, []


def _scalars(data: bytes, name: str) -> Iterator[tuple[int, str, float]]:
    at = 0
    while at + _LENGTH.size <= len(data):
        length, _ = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        event = data[at : at + length]
        if len(event) < length:
            if at == _LENGTH.size:
                raise TableUnusable(f"{name} is not an event file of TensorBoard")
            return  # A process that was killed leaves an incomplete record.
        at += length + 4
        parts = list(fields(event))
        step = next((content for number, content in parts if number == _EVENT_STEP), 0)
        for number, summary in parts:
            if number == _EVENT_SUMMARY and isinstance(summary, bytes):
                for inner, value in fields(summary):
                    if inner == _VALUE and isinstance(value, bytes):
                        content = dict(fields(value))
                        scalar = content.get(_SIMPLE, _single(content.get(_TENSOR)))
                        if isinstance(scalar, float) and isinstance(content.get(_TAG), bytes):
                            yield step, content[_TAG].decode("utf-8", "replace"), scalar


def _single(tensor: Any) -> float | None:
    """Return the one number of a tensor, or None if it is something else."""
    if not isinstance(tensor, bytes):
        return None
    content = dict(fields(tensor))
    form = _FORMATS.get(content.get(_TYPE, 0))
    packed = content.get(_CONTENT) or content.get(_FLOATS) or content.get(_DOUBLES)
    if isinstance(packed, float):
        return packed
    if form is None or not isinstance(packed, bytes) or len(packed) != struct.calcsize(form):
        return None
    return struct.unpack(form, packed)[0]
