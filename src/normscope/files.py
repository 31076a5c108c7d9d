"""Atomic writes: a reader, or a process that is killed, never sees a part of a file. And the folder of the cache."""

import errno
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from normscope.errors import NormscopeError


class CacheUnusable(NormscopeError, OSError):
    """Raised if there is no folder for the cache, or it cannot be written; the message says how to name another one."""


def not_writable(folder: Path, reason: object = "no permission, or a read-only disk") -> str:
    """Write the message about a folder of the cache that cannot be written."""
    return f"{folder} cannot be written: {reason}; set XDG_CACHE_HOME to a folder that can be"


def cache_folder() -> Path:
    """Return the folder of what can be built or downloaded again, which XDG_CACHE_HOME determines.

    Raises:
        CacheUnusable: If there is no home directory and XDG_CACHE_HOME is not set.
    """
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "normscope"
    try:
        return Path.home() / _CACHES.get(sys.platform, ".cache") / "normscope"
    except RuntimeError as error:
        raise CacheUnusable(
            "there is no home directory for the cache: set HOME, or XDG_CACHE_HOME, to a folder"
        ) from error


def create_in_cache(folder: Path) -> None:
    """Create a folder of the cache, if it does not exist.

    Raises:
        CacheUnusable: If it cannot be created, or nothing can be written in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheUnusable(not_writable(folder, error)) from error
    if not is_writable(folder):
        raise CacheUnusable(not_writable(folder))


def is_writable(folder: Path) -> bool:
    """Return whether files can be created in a folder, or the folder can be created."""
    existing = nearest_existing(folder)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def nearest_existing(path: Path) -> Path:
    """Return a path, or its nearest parent that exists."""
    return next(each for each in (path, *path.absolute().parents) if os.path.exists(each))


_CACHES = {"darwin": "Library/Caches", "win32": "AppData/Local"}


def no_check() -> None:
    """Allow every write."""


def write_atomically(
    path: Path, data: bytes, *, check: Callable[[], None] = no_check, replace: bool = True, sync: bool = True
) -> None:
    """Write a file whole or not at all; see :func:`atomic_file`."""
    with atomic_file(path, check=check, replace=replace, sync=sync) as file:
        file.write(data)


@contextmanager
def atomic_file(
    path: Path, *, check: Callable[[], None] = no_check, replace: bool = True, sync: bool = True
) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` for writing, and rename it over ``path`` on exit, after a flush to disk.

    If the block or the write raises, ``path`` stays as it was and the temporary file is removed. A process that is
    killed leaves it behind, see :func:`leftovers`.

    Args:
        path: The file to write; missing folders are created.
        check: Called when the temporary file is complete, right before it gets its name; may raise to prevent that.
        replace: Whether an existing file is replaced. If not, the first of several writers wins: the temporary file is
            linked to its name, which no file system does where the name exists.
        sync: Whether to wait for the disk.

    Yields:
        The temporary file; its ``name`` is its path.

    Raises:
        FileExistsError: If ``path`` exists and must not be replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=_SUFFIX, delete=False) as file:
        try:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
            file.close()
            Path(file.name).chmod(0o644)
            check()
            (os.replace if replace else _link)(file.name, path)
        except BaseException as error:
            if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
                error.filename = str(path)
            # The buffer cannot be written on a full disk either.
            with suppress(OSError):
                file.close()
            Path(file.name).unlink(missing_ok=True)
            raise


def _link(source: str, target: Path) -> None:
    """Give a file its final name, which must not exist.

    Where the file system has no hard links, a file that exists is noticed, but not one that another process writes in
    the same instant; it is replaced.

    Raises:
        FileExistsError: If the name exists.
        OSError: If it cannot be written.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        # The reply to a link may be lost on a network, and the repeated request finds what the first one made.
        if not os.path.samefile(source, target):
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.replace(source, target)
        return
    os.unlink(source)


def leftovers(path: Path) -> Iterator[Path]:
    """List the temporary files that killed processes left beside ``path``."""
    return path.parent.glob(f".{path.name}.*{_SUFFIX}")


def is_abandoned(path: Path) -> bool:
    """Return whether nobody has written to a temporary file or folder for an hour.

    The lock of a cache on a network file system may exclude only the processes of one machine: another one may still
    be writing.
    """
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
    return False


_ABANDONED_SECONDS = 3600.0
_SUFFIX = ".part"
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)
"""Numbers of the errors with which file systems refuse hard links."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of errors that name no file, although the user needs to know which disk is full."""
