"""Files whole or not at all: atomic writes, and JSON that is read with suspicion; needs no torch."""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SCHEMA = 1
"""The version of every file below; a reader refuses a newer one."""

# Deeper than any file of ours; what writes JSON again, and what compares it, would stop at about 1000.
_DEEPEST = 100


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: to a temporary neighbour, flushed to disk, then renamed over ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically; a number that is not finite is a ValueError: NaN is a state, never a number."""
    write_bytes(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that this package wrote.

    Raises:
        ValueError: If the file is not JSON, is somebody else's, or was written by a newer version; the message names
            the file.
    """
    content = parse_json(path.read_bytes(), path)
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema is None:
        raise ValueError(f"{path} is no file of normscope's: it has no schema, which says how to read it")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise ValueError(
            f"{path} has schema {schema!r}; this normscope reads 1 to {SCHEMA}: a newer one may have written it"
        )
    return content


def parse_json(data: bytes, name: Path | str) -> Any:
    """Parse JSON that may be anybody's.

    Args:
        data: The bytes.
        name: Where they come from, for the message.

    Raises:
        ValueError: If they are not JSON, hold NaN or infinity, or are nested deeper than any file of ours.
    """
    try:
        content = json.loads(data.decode("utf-8"), parse_constant=_refuse)
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON ({error}); was it edited or cut short?") from error
    except RecursionError:
        raise ValueError(f"{name} is nested too deep to be a file of a study; was it edited?") from None
    level = [content]
    for _ in range(_DEEPEST):
        level = [each for one in level if isinstance(one, dict | list) for each in _inside(one)]
        if not level:
            return content
    raise ValueError(f"{name} is nested too deep to be a file of a study; was it edited?")


def _inside(content: Mapping[str, Any] | list[Any]) -> Iterable[Any]:
    return content if isinstance(content, list) else content.values()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")
