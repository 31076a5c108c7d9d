"""Atomic writes: a reader, or a process that is killed, never sees a part of a file."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; see :func:`atomic_file`."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` for writing, and rename it over ``path`` on exit, after a flush to disk.

    If the block or the write raises, ``path`` stays as it was and the temporary file is removed. A process that is
    killed leaves it behind, see :func:`leftovers`.

    Args:
        path: The file to write; missing folders are created.

    Yields:
        The temporary file; its ``name`` is its path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=_SUFFIX, delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            file.close()
            Path(file.name).chmod(0o644)
            os.replace(file.name, path)
        except BaseException:
            file.close()
            Path(file.name).unlink(missing_ok=True)
            raise


def leftovers(path: Path) -> Iterator[Path]:
    """List the temporary files that killed processes left beside ``path``."""
    return path.parent.glob(f".{path.name}.*{_SUFFIX}")


_SUFFIX = ".part"
