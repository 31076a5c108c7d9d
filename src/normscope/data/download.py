"""Published data sets and their files, and the download of a file from its mirrors."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from normscope.errors import NormscopeError
from normscope.files import atomic_file


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A file of a published data set."""

    name: str
    sha256: str | None
    """Hexadecimal digest of the file as downloaded, still packed; None if it is unknown or differs between users. Such
    a file is used with a warning that contains its digest."""
    bytes: int | None = None
    """Size; None if unknown."""
    urls: tuple[str, ...] = ()
    """Mirrors, in the order in which they are tried; empty if a package or the user provides the file."""
    other_names: tuple[str, ...] = ()
    """Alternative names of the user's file."""


def known_file(name: str, size: int, sha256: str, base: str = "") -> DataFile:
    """Describe a file of known size and hash; its URL is the base and its name."""
    return DataFile(name=name, sha256=sha256, bytes=size, urls=(base + name,) if base else ())


def unseen_file(name: str, address: str) -> DataFile:
    """Describe a file of unknown size and hash."""
    return DataFile(name=name, sha256=None, urls=(address,))


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A published data set."""

    name: str
    """Key in ``SETS``."""
    what: str
    files: tuple[DataFile, ...]
    licence: str
    home: str
    folder: str = ""
    """Folder below ``$NORMSCOPE_DATA`` and below the cache; ``name`` if empty."""
    bring: str = ""
    """How to obtain the files that have no URL; one sentence."""
    package: str | None = None
    """Python package that contains the files; None if they are downloaded."""
    folder_in_package: str = ""

    @property
    def place(self) -> str:
        """Folder below a root, with slashes."""
        return self.folder or self.name

    @property
    def bytes(self) -> int:
        """Total packed size of the files of known size."""
        return sum(file.bytes or 0 for file in self.files)

    @property
    def hashes(self) -> dict[str, str]:
        """Published sha256 by file name; :func:`normscope.data.found_hashes` also covers files without one."""
        return {file.name: file.sha256 for file in self.files if file.sha256 is not None}

    @property
    def verified(self) -> bool:
        """Whether the sha256 of every file is published."""
        return all(file.sha256 is not None for file in self.files)


Progress = Callable[[str, int, int], None]
"""Called with a file name, the number of bytes downloaded and the total, which is 0 if unknown."""

STALL_SECONDS = 30
"""Timeout of a mirror that sends no data."""


def sha256(path: Path) -> str:
    """Compute the sha256 of a file, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def download(file: DataFile, target: Path, *, progress: Progress | None = None) -> list[str]:
    """Download a file from the first mirror that serves the right bytes.

    The file is written under a temporary name, checked, and renamed, so that a killed download leaves no incomplete
    file. Without a published sha256, only the length announced by the mirror is checked. Write errors (a full disk, a
    read-only folder) are raised.

    Args:
        file: File to download.
        target: Destination; an existing file is replaced.
        progress: Callback for the progress of a download.

    Returns:
        The failures of the mirrors, one sentence each; empty if ``target`` was written.
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
    """Download from a mirror; return the reason of a failure, or None."""
    from pooch import HTTPDownloader
    from requests import RequestException

    # pooch accepts any object with these four attributes, but is annotated with bool.
    meter: Any = _Meter(file, progress)
    # Transparent decompression by the mirror would change the bytes.
    fetch = HTTPDownloader(progressbar=meter, timeout=STALL_SECONDS, headers={"Accept-Encoding": "identity"})
    try:
        with atomic_file(target) as stream:
            fetch(url, stream, None)
            stream.flush()
            _check_bytes(Path(stream.name), file)
    except _WrongBytes as error:
        return str(error)
    except RequestException as error:
        return f"{type(error).__name__}: {error}"
    return None


class _WrongBytes(NormscopeError):
    """A mirror served a file with another hash."""


def _check_bytes(path: Path, file: DataFile) -> None:
    """Compare a downloaded file with its published hash.

    Raises:
        _WrongBytes: If they differ.
    """
    found = sha256(path)
    if file.sha256 is not None and found != file.sha256:
        raise _WrongBytes(
            f"served {path.stat().st_size} bytes with sha256 {found}, wanted {file.bytes} with {file.sha256}"
        )


class _Meter:
    """Progress bar for pooch, which reports full chunks even if the last is shorter."""

    def __init__(self, file: DataFile, progress: Progress | None) -> None:
        self.total = file.bytes or 0
        self._file, self._progress, self._done = file, progress, 0

    def update(self, count: int) -> None:
        # pooch sets total to the length announced by the mirror.
        size = self._file.bytes or self.total
        self._done = min(self._done + count, size) if size else self._done + count
        if self._progress is not None:
            self._progress(self._file.name, self._done, size)

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass
