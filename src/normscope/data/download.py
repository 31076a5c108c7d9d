"""Fetch one file: every mirror in turn, checked against its hash, and renamed into place only when it is whole."""

import os
import tempfile
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path
from typing import Any

from normscope.data.dataset import DataFile

Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes fetched so far and the bytes in all, which are 0 where nobody knows."""

STALL_SECONDS = 30
"""A mirror that sends nothing for this long is given up."""


def sha256(path: Path) -> str:
    """Compute a file's sha256, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def download(file: DataFile, target: Path, *, progress: Progress | None = None) -> list[str]:
    """Fetch a file from the first mirror that serves the right bytes.

    They are written beside ``target`` under another name, flushed to disk, checked and renamed: a killed download
    leaves nothing that looks whole. A file without a known sha256 is only checked for the length that the mirror
    announced. Failing to write (a full disk, a read-only folder) is an error of its own.

    Args:
        file: What to fetch.
        target: Where it goes; a file that is there is replaced.
        progress: Told how far the download is.

    Returns:
        Why each mirror failed, one sentence each; empty when ``target`` is there and right.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in file.urls:
        failure = _download_from(url, file, target, progress)
        if failure is None:
            return []
        failures.append(f"{url}: {failure}")
    return failures


def _download_from(url: str, file: DataFile, target: Path, progress: Progress | None) -> str | None:
    """Fetch from one mirror; return why that failed, or None."""
    from pooch import HTTPDownloader
    from requests import RequestException

    # pooch takes any object with these four names; its annotation says bool.
    meter: Any = _Meter(file, progress)
    # A mirror that unpacked the .gz on the way would change the bytes.
    fetch = HTTPDownloader(progressbar=meter, timeout=STALL_SECONDS, headers={"Accept-Encoding": "identity"})
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{file.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            try:
                fetch(url, stream, None)
            except RequestException as error:
                return f"{type(error).__name__}: {error}"
            stream.flush()
            os.fsync(stream.fileno())
        found = sha256(part)
        if file.sha256 is not None and found != file.sha256:
            return f"served {part.stat().st_size} bytes with sha256 {found}, wanted {file.bytes} with {file.sha256}"
        part.chmod(0o644)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return None


class _Meter:
    """What pooch's downloader reports to; it counts whole chunks, also for a last one that is shorter."""

    def __init__(self, file: DataFile, progress: Progress | None) -> None:
        self.total = file.bytes or 0
        self._file, self._progress, self._done = file, progress, 0

    def update(self, count: int) -> None:
        # pooch puts the length that the mirror announced into total.
        size = self._file.bytes or self.total
        self._done = min(self._done + count, size) if size else self._done + count
        if self._progress is not None:
            self._progress(self._file.name, self._done, size)

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass
