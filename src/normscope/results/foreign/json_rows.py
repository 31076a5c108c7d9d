"""Tables in JSON: lines, a list of objects, an object with one such list, or an object of columns."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from normscope.results.foreign.delimited import flatten
from normscope.results.foreign.table import ForeignRow, TableUnusable, check_rows


def read_json_rows(text: str, name: str) -> tuple[str, list[ForeignRow]]:
    """Read JSON; NaN and Infinity are accepted, as Python writes them.

    Returns:
        The kind of the table, and its rows.

    Raises:
        TableUnusable: If it is not JSON, or not a table.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(lines) > 1 and _is_object(lines[0][1]):
        check_rows(len(lines), name)
        objects = [_parse(line, f"{name}, line {number},") for number, line in lines]
        places = [f"line {number}" for number, _ in lines]
        other = next(
            (place for place, each in zip(places, objects, strict=True) if not isinstance(each, Mapping)), None
        )
        if other is not None:
            raise TableUnusable(f"{name}, {other}, is not an object: JSON lines have one per run")
        return "JSON lines", [_row(content, place) for content, place in zip(objects, places, strict=True)]
    content = _parse(text, name)
    if isinstance(content, Mapping):
        content = _rows_inside(content, name)
    if not isinstance(content, list) or not all(isinstance(each, Mapping) for each in content):
        raise TableUnusable(f"{name} is not a table: JSON must be a list of objects, one per run, or a line per run")
    check_rows(len(content), name)
    return "JSON", [_row(each, f"entry {number}") for number, each in enumerate(content, 1)]


def _is_object(line: str) -> bool:
    """Return whether a line is a whole object, as only the first of JSON lines is; a later one may be cut short."""
    try:
        return isinstance(json.loads(line), Mapping)
    except (ValueError, RecursionError):
        return line.lstrip()[0] == "{" and line.rstrip()[-1] == "}"


def _row(content: Mapping[str, Any], place: str) -> ForeignRow:
    return ForeignRow(place=place, values=flatten(content))


def _rows_inside(content: Mapping[str, Any], name: str) -> Any:
    """Return the rows of an object: its one list of objects, its columns, or itself as the only row.

    Raises:
        TableUnusable: If it has several lists of objects.
    """
    lists = {key: each for key, each in content.items() if isinstance(each, list) and each}
    tables = [key for key, each in lists.items() if all(isinstance(row, Mapping) for row in each)]
    if len(tables) > 1:
        raise TableUnusable(
            f"{name} has {len(tables)} lists of objects, {', '.join(tables)}: keep the one with the runs"
        )
    if tables:
        return content[tables[0]]
    # As DataFrame.to_json writes it: per column an object from the index of a row to its cell.
    columns = {
        key: list(each.values()) if isinstance(each, Mapping) else each
        for key, each in content.items()
        if isinstance(each, list | Mapping)
    }
    lengths = {len(each) for each in columns.values()}
    if len(columns) == len(content) and len(lengths) == 1:
        return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return [content]


def _parse(text: str, name: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except ValueError as error:
        raise TableUnusable(f"{name} is not valid JSON: {error}") from error
    except RecursionError:
        raise TableUnusable(f"{name} is nested too deep to be a table") from None


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return content
