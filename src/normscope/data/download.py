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
    """One original file."""

    name: str
    sha256: str | None
    """Lower-case hexadecimal digest of the file as it is fetched, still packed; None where nobody here has seen the
    file or where each user has another one. Such a file is used with a warning that names the digest found."""
    bytes: int | None = None
    """Its size; None where it is unknown."""
    urls: tuple[str, ...] = ()
    """Mirrors, tried in this order; none where the file comes inside a package or from the user."""
    other_names: tuple[str, ...] = ()
    """What the user may also call it."""


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
    """Its folder below ``$NORMSCOPE_DATA`` and below the cache; empty where that is the name."""
    bring: str = ""
    """How to come by the files that have no address; one sentence."""
    package: str | None = None
    """The Python package that ships the files; None where they are fetched."""
    folder_in_package: str = ""

    @property
    def place(self) -> str:
        """Its folder below a root, with slashes."""
        return self.folder or self.name

    @property
    def bytes(self) -> int:
        """Size of all files whose size is known, packed."""
        return sum(file.bytes or 0 for file in self.files)

    @property
    def hashes(self) -> dict[str, str]:
        """Expected sha256 of every file that has one, by name; ``files.found_hashes`` also has the others."""
        return {file.name: file.sha256 for file in self.files if file.sha256 is not None}

    @property
    def verified(self) -> bool:
        """Whether every file's sha256 is known beforehand."""
        return all(file.sha256 is not None for file in self.files)


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
