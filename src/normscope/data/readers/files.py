"""Lines of plain and packed files, and single members of archives: nothing is ever extracted to disk."""

import bz2
import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, cast

LONGEST_LINE = 1 << 24
"""Bytes; a packed file of a few kilobytes can unpack to one line that fills the memory."""


def read_lines(path: Path, *, encoding: str = "utf-8") -> Iterator[str]:
    r"""Read a file's lines; memory holds one of them.

    ``.gz`` and ``.bz2`` are unpacked, whatever else is read as it is. A line ends at ``\n``; that is taken off, and one
    ``\r`` before it. Nothing else is: not the other line separators of Unicode, which are characters here, not spaces
    at the ends, not a byte order mark. A last line need not end.

    Args:
        path: The file.
        encoding: One that writes a newline as the byte 10, such as ``utf-8`` or ``cp1252``.

    Raises:
        ValueError: If a byte is not valid in the encoding (file and line number are named), a line has more than
            ``LONGEST_LINE`` bytes, the file is not whole gzip or bz2, or the encoding writes a newline otherwise.
    """
    with open_unpacked(path) as stream:
        yield from decode_lines(stream, encoding=encoding, where=str(path))


def decode_lines(stream: IO[bytes], *, encoding: str, where: str) -> Iterator[str]:
    r"""Decode an open stream's lines, as ``read_lines`` does.

    Args:
        stream: Bytes, unpacked.
        encoding: As in ``read_lines``.
        where: What an error calls the stream.

    Raises:
        ValueError: As ``read_lines``.
    """
    if "\n".encode(encoding) != b"\n":
        raise ValueError(f"{encoding} does not write a newline as the byte 10; {where} cannot be read line by line")
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise ValueError(f"{where}, line {number}, has more than {LONGEST_LINE} bytes")
        line = line.removesuffix(b"\n").removesuffix(b"\r") if line.endswith(b"\n") else line
        try:
            yield line.decode(encoding)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{where}, line {number}, byte {error.start + 1}, is {line[error.start : error.end].hex()}, "
                f"which is not {encoding}: {error.reason}"
            ) from error


@contextmanager
def open_unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain, ``.gz`` or ``.bz2`` file to read its unpacked bytes.

    Raises:
        ValueError: If it is not whole gzip or bz2; also while it is being read inside the ``with`` block.
        OSError: If the disk cannot be read.
    """
    if path.suffix not in {".gz", ".bz2"}:
        with path.open("rb") as stream:
            yield stream
        return
    kind = "gzip" if path.suffix == ".gz" else "bz2"
    # An empty file counts as an empty archive with gzip; none of ours is.
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is not a whole {kind} file: it has no bytes")
    try:
        if kind == "gzip":
            with gzip.open(path) as stream:
                yield cast("IO[bytes]", stream)
        else:
            with bz2.open(path) as stream:
                yield stream
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole {kind} file: {error}") from error
    except OSError as error:
        # The unpackers' own complaints have no number; those of the disk have.
        if error.errno is not None:
            raise
        raise ValueError(f"{path} is not a whole {kind} file: {error}") from error


def tar_lines(path: Path, member: str, *, encoding: str = "utf-8") -> Iterator[str]:
    """Read the lines of one member of a tar file.

    Raises ``ValueError`` as ``read_lines`` and ``open_tar_member`` do.
    """
    with open_tar_member(path, member) as stream:
        yield from decode_lines(stream, encoding=encoding, where=f"{path}:{member}")


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
