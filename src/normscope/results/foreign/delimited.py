"""Tables in text: CSV and TSV in any dialect, with cells that hold a Python dictionary or a JSON object."""

import ast
import contextlib
import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from normscope.results.foreign.table import MAX_ROWS, ForeignRow, TableUnusable, check_rows, check_size, printable

_DELIMITERS = {",": "CSV", "\t": "TSV", ";": "CSV with semicolons", "|": "CSV with bars"}
_DEEPEST = 50
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or with a byte order mark in UTF-16.

    Raises:
        TableUnusable: If it is too large, has another encoding, or is not text.
    """
    check_size(path)
    data = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TableUnusable(
            f"{printable(path)}, line {line}, has the byte 0x{data[error.start]:02x}, which is not {encoding}: save "
            "the table as UTF-8"
        ) from error
    if "\0" in text:
        raise TableUnusable(f"{printable(path)} has null bytes: it is not a table in text")
    return text


def read_delimited(text: str, name: str) -> tuple[str, list[ForeignRow]]:
    """Read CSV or TSV; the delimiter is the one with which the header and the rows have equally many cells.

    Args:
        text: Content of the file.
        name: Its name for error messages.

    Returns:
        The kind of the table, and its rows.

    Raises:
        TableUnusable: If there is no header, a row has another number of cells, or two columns have one name.
    """
    lines, first = text, 1
    if text[:4] == "sep=" and text[5:6] in ("\r", "\n"):
        lines, first = text[5:].lstrip("\r").removeprefix("\n"), 2
    delimiter = _find_delimiter(lines, name)
    records = _records(lines, delimiter, name, first)
    _, header = next(records)
    columns = [cell.strip() or f"column {number}" for number, cell in enumerate(header, 1)]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise TableUnusable(f"{name} has the column {twice[0]!r} twice: rename one of them")
    rows = []
    for line, cells in records:
        if len(cells) != len(columns):
            hint = " (a decimal comma needs quotes, or better a point)" if delimiter == "," else ""
            raise TableUnusable(f"{name}, line {line}, has {len(cells)} cells; the header has {len(columns)}{hint}")
        rows.append(ForeignRow(place=f"line {line}", values=dict(zip(columns, cells, strict=True))))
        if len(rows) > MAX_ROWS:
            break
    check_rows(len(rows), name)
    return _DELIMITERS[delimiter], _expand(rows, columns)


def _find_delimiter(text: str, name: str) -> str:
    """Return the delimiter that splits the first rows into the most cells, equally many in each.

    Raises:
        TableUnusable: If no delimiter gives two columns, or the text cannot be read as CSV.
    """
    if not text.strip():
        raise TableUnusable(f"{name} is empty")
    best, most, failure = "", 1, None
    for delimiter in _DELIMITERS:
        try:
            records = [cells for _, (_, cells) in zip(range(20), _records(text, delimiter, name, 1), strict=False)]
        except TableUnusable as error:
            failure = failure or error
            continue
        # The header decides; that the rows agree with it is checked later, with the line.
        agrees = sum(len(cells) == len(records[0]) for cells in records) if records else 0
        if records and len(records[0]) > 1 and (agrees, len(records[0])) > (len(records) // 2, most):
            best, most = delimiter, len(records[0])
    if failure is not None and not best:
        raise failure
    if not best:
        raise TableUnusable(f"{name} is not a table: its first line has no comma, tab or semicolon between columns")
    return best


def _records(text: str, delimiter: str, name: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the records with the line on which each begins; empty lines are skipped.

    Raises:
        TableUnusable: If the text is not CSV.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begin = first
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield begin, cells
            begin = first + reader.line_num
    except csv.Error as error:
        raise TableUnusable(f"{name}, line {begin}, cannot be read: {error}") from error


def _expand(rows: list[ForeignRow], columns: list[str]) -> list[ForeignRow]:
    """Replace the columns whose cells are all dictionaries by one column per key, such as ``config.seed``."""
    nested = [
        column
        for column in columns
        if (cells := [cell for row in rows if (cell := str(row.values[column]).strip())])
        and all(cell[0] == "{" and cell[-1] == "}" for cell in cells)
    ]
    if not nested:
        return rows
    expanded = []
    for row in rows:
        values = {name: cell for name, cell in row.values.items() if name not in nested}
        for name in nested:
            if cell := str(row.values[name]).strip():
                values |= flatten(_parse_nested(cell, name, row.place), f"{name}.")
        expanded.append(ForeignRow(place=row.place, values=values))
    return expanded


def _parse_nested(cell: str, column: str, place: str) -> Any:
    """Parse a dictionary in JSON or as Python prints one; nothing in it is evaluated.

    Raises:
        TableUnusable: If it is neither.
    """
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(cell)
    try:
        return _literal(ast.parse(cell, mode="eval").body)
    except (TypeError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise TableUnusable(f"{place} has a {column} that is not a dictionary: {error}") from error


def _literal(node: ast.AST) -> Any:
    """Return the value of a literal; ``nan`` and ``inf`` are printed as names.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Dict):
        return {str(_literal(key)): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(each) for each in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_literal(node.operand)
    if isinstance(node, ast.Name) and node.id in ("nan", "NaN", "inf", "Infinity"):
        return math.nan if node.id in ("nan", "NaN") else math.inf
    raise ValueError(f"it has {ast.unparse(node)[:40]!r}")


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested objects to names with dots; lists stay as they are.

    Raises:
        TableUnusable: If they are nested deeper than any configuration is.
    """
    if prefix.count(".") > _DEEPEST:
        raise TableUnusable(f"a cell is nested deeper than {_DEEPEST} levels: {prefix[:40]}...")
    values: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            values |= flatten(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values
