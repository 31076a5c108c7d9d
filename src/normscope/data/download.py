"""One member of a tar or zip file from outside, read where it lies: nothing is ever extracted."""

import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any


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


MOST_MEMBERS = 10_000
"""The archives that are read here have fewer than a hundred."""


@contextmanager
def open_tar_member(path: Path, member: str) -> Iterator[IO[bytes]]:
    """Open one regular file inside a tar file, packed or not, after a look at every member of it.

    Args:
        path: The archive.
        member: Its exact name there.

    Raises:
        ValueError: If the archive is not whole; any member's path is absolute or climbs out, or it is a link or a
            device; there is none of that name, or two, or it is a folder; or there are over ``MOST_MEMBERS``.
        OSError: If the disk cannot be read.
    """
    try:
        with tarfile.open(path, "r:*") as archive:
            chosen = [one for one in _members(archive, path) if one.name == member]
            _exactly_one(path, member, len(chosen))
            stream = archive.extractfile(chosen[0])
            if stream is None:
                raise ValueError(f"{path} has a folder, not a file, at {member!r}")
            yield stream
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole tar file: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path} is not a whole tar file: {error}") from error


@contextmanager
def open_zip_member(path: Path, member: str) -> Iterator[IO[bytes]]:
    """Open the one file of a zip file that must have no other.

    Args:
        path: The archive.
        member: Its exact name there.

    Raises:
        ValueError: If the archive is not whole (zip keeps a CRC-32 of each member), is encrypted or packed in a way
            that is not understood; a member's path is absolute or climbs out; or it has any other member.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in names:
                _refuse_climbing(path, name)
            if names != [member]:
                raise ValueError(f"{path} holds {names[:5]}, expected {[member]} alone")
            with archive.open(member) as stream:
                yield stream
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole zip file: {error}") from error
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from error


def _members(archive: tarfile.TarFile, path: Path) -> list[tarfile.TarInfo]:
    """List the members.

    Raises:
        ValueError: As ``open_tar_member``.
    """
    members = []
    for one in archive:
        _refuse_climbing(path, one.name)
        if not (one.isreg() or one.isdir()):
            raise ValueError(f"{path} has the member {one.name!r}, which is a link or a device, not a file or a folder")
        if len(members) == MOST_MEMBERS:
            raise ValueError(f"{path} has more than {MOST_MEMBERS} members")
        members.append(one)
    # A packed tar file keeps its check sum at its very end, behind the end of the tar.
    while archive.fileobj is not None and archive.fileobj.read(1 << 20):
        pass
    return members


def _exactly_one(path: Path, member: str, count: int) -> None:
    """Refuse an archive without the member, and one that has it twice.

    Raises:
        ValueError: If it is not there once.
    """
    if count != 1:
        raise ValueError(f"{path} has {count} members named {member!r}, expected one")


def _refuse_climbing(path: Path, name: str) -> None:
    """Refuse a member's path that leaves the archive's folder, in the manner of Unix or of Windows.

    Raises:
        ValueError: If it does.
    """
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise ValueError(f"{path} has the member {name!r}, whose path leaves the archive's own folder")
