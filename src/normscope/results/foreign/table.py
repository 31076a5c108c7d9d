"""A table of runs that another program wrote: rows with their places, before any column has a meaning."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from normscope.errors import NormscopeError

MAX_BYTES = 256 * 2**20
"""Largest file that is read; a larger one is refused."""
MAX_ROWS = 500_000
"""Largest number of rows of a table."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_EMPTY = {"", "none", "null", "na", "n/a", "nil", "-", "--", "\N{EM DASH}"}
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "infinity": math.inf}
_FAILED = {"crashed", "crash", "failed", "fail", "failure", "killed", "error", "oom", "diverged", "timeout"}


class TableUnusable(NormscopeError, ValueError):
    """Raised if a table of runs cannot be read, or no verdict can rest on it; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class ForeignRow:
    """One row of a table: a run, or one step of a run."""

    place: str
    """Where it stands, such as ``line 7``."""
    values: Mapping[str, Any]
    """Cells by column; a column that the row does not have is absent."""


@dataclass(frozen=True, kw_only=True)
class ForeignTable:
    """Rows that another program wrote."""

    source: str
    """Name of the file or folder, printable."""
    kind: str
    """What it was read as, such as ``CSV`` or ``MLflow file store``."""
    rows: tuple[ForeignRow, ...]
    """All rows, in the order of the file."""
    digest: str = ""
    """SHA-256 of a file; empty for a folder."""
    notes: tuple[str, ...] = ()
    """Sentences on what was left out or renamed."""

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.values))

    def column(self, name: str) -> list[Any]:
        """Return the cells of a column; None where a row has none."""
        return [row.values.get(name) for row in self.rows]


def printable(path: Path | str) -> str:
    """Return a name in letters that can be printed and written as UTF-8; other bytes are escaped."""
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def check_size(path: Path) -> None:
    """Check that a file is small enough to be read.

    Raises:
        TableUnusable: If it is larger than :data:`MAX_BYTES`.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise TableUnusable(
            f"{printable(path)} has {size:,} bytes; at most {MAX_BYTES:,} are read: keep the columns and the last step "
            "of every run only"
        )


def check_rows(count: int, name: str) -> None:
    """Check the number of rows.

    Raises:
        TableUnusable: If there is none, or there are more than :data:`MAX_ROWS`.
    """
    if not count:
        raise TableUnusable(f"{name} has no row")
    if count > MAX_ROWS:
        raise TableUnusable(f"{name} has more than {MAX_ROWS:,} rows: keep the last step of every run only")


def is_empty(cell: Any) -> bool:
    """Return whether a cell has no content, in one of the usual spellings."""
    return cell is None or (isinstance(cell, str) and cell.strip().casefold() in _EMPTY)


def read_number(cell: Any, column: str, place: str) -> float | str | None:
    """Return the number in a cell: NaN and infinity included, None if it is empty, a word such as ``crashed`` as text.

    Raises:
        TableUnusable: If it has a decimal comma, or is not a number.
    """
    if is_empty(cell):
        return None
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        try:
            return float(cell)
        except OverflowError:
            return math.inf if cell > 0 else -math.inf
    text = str(cell).strip()
    word = text.casefold()
    sign = -1.0 if word.startswith("-") else 1.0
    if word.lstrip("+-") in _NOT_FINITE:
        return sign * _NOT_FINITE[word.lstrip("+-")]
    if word in _FAILED:
        return word
    if _NUMBER.fullmatch(text):
        return float(text)
    if _COMMA.fullmatch(text):
        raise TableUnusable(
            f"{place} has {column} {text!r}, with a decimal comma or as two numbers: write decimal points, and no "
            "commas between thousands"
        )
    hint = ": leave out the percent sign" if _NUMBER.fullmatch(text.removesuffix("%").rstrip()) else ""
    raise TableUnusable(f"{place} has {column} {text!r}, which is not a number{hint}")


def is_number(cell: Any) -> bool:
    """Return whether a cell can be read as a number or as the failure of a run."""
    try:
        return read_number(cell, "", "") is not None
    except TableUnusable:
        return False


def as_text(cell: Any) -> str:
    """Return a cell as text: whole numbers without a fraction, so that 3 and 3.0 are the same."""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    if isinstance(cell, str):
        text = " ".join(cell.split())
        return re.sub(r"^(-?\d+)\.0+$", r"\1", text) if ".0" in text else text
    return "" if cell is None else str(cell)


def some(items: list[str], most: int = 8) -> str:
    """Join items, and say how many more there are."""
    return "; ".join(items[:most]) + (f"; and {len(items) - most} more" if len(items) > most else "")
