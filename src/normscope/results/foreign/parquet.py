"""Tables in Parquet, read by pyarrow where it is installed; Trackio's configurations are joined to its metrics."""

from pathlib import Path
from typing import Any

from normscope.results.foreign.table import (
    MAX_BYTES,
    ForeignRow,
    TableUnusable,
    check_rows,
    check_size,
    is_empty,
    printable,
)


def read_parquet(path: Path) -> tuple[str, list[ForeignRow]]:
    """Read a Parquet file with flat columns.

    Returns:
        The kind of the table, and its rows.

    Raises:
        ModuleNotFoundError: If pyarrow is not installed.
        TableUnusable: If it is damaged, too large when unpacked, or has a nested column.
    """
    rows = _read(path)
    configs = [path.with_name(f"{path.stem}_configs.parquet"), path.parent / "aux" / "configs.parquet"]
    beside = next((each for each in configs if each.is_file()), None)
    if beside is None or not {"run_name", "step", "timestamp"} <= rows[0].keys():
        return "Parquet", _numbered(rows)
    key = "run_id" if "run_id" in rows[0] else "run_name"
    known = {row.get(key): {f"config.{name}": cell for name, cell in row.items()} for row in _read(beside)}
    used = {name for config in known.values() for name, cell in config.items() if not is_empty(cell)}
    joined = [row | {name: cell for name, cell in known.get(row.get(key), {}).items() if name in used} for row in rows]
    return f"Trackio's Parquet, with its configurations in {printable(beside.name)}", _numbered(joined)


def _numbered(rows: list[dict[str, Any]]) -> list[ForeignRow]:
    """Number the rows; Parquet has no absent cells, so an empty one of a row with others stays there."""
    return [ForeignRow(place=f"row {number}", values=row) for number, row in enumerate(rows, 1)]


def _read(path: Path) -> list[dict[str, Any]]:
    check_size(path)
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{printable(path)} is Parquet, which pyarrow reads, and pyarrow is not installed: `pip install pyarrow`, "
            "or save the table as CSV"
        ) from error
    name = printable(path)
    try:
        file = parquet.ParquetFile(path)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        if unpacked > MAX_BYTES:
            raise TableUnusable(f"{name} unpacks to {unpacked:,} bytes; at most {MAX_BYTES:,} are read")
        check_rows(file.metadata.num_rows, name)
        nested = [field.name for field in file.schema_arrow if pyarrow.types.is_nested(field.type)]
        lists = [field.name for field in file.schema_arrow if _is_numbers(field.type, pyarrow)]
        if refused := [column for column in nested if column not in lists]:
            raise TableUnusable(f"{name} has the nested column {refused[0]!r}: keep flat columns, one per value")
        return file.read().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise TableUnusable(f"{name} is not a readable Parquet file: {error}") from error


def _is_numbers(kind: Any, pyarrow: Any) -> bool:
    """Return whether a column has lists of numbers, such as the scores of test examples."""
    types = pyarrow.types
    return (types.is_list(kind) or types.is_large_list(kind)) and (
        types.is_floating(kind.value_type) or types.is_integer(kind.value_type)
    )
