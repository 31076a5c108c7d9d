"""One member of a tar or zip file from outside, read where it lies: nothing is ever extracted."""

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

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
