"""Lines of plain and compressed files, single members of archives, and a shuffle of texts; nothing is extracted."""

import bz2
import gzip
import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, cast

from normscope.arguments import check_arguments

LONGEST_LINE = 1 << 24
"""Maximum number of bytes; a compressed file of a few kilobytes could expand to a line that fills the memory."""


@check_arguments
def read_lines(path: Path, *, encoding: str = "utf-8") -> Iterator[str]:
    r"""Yield the lines of a file, one in memory at a time.

    ``.gz`` and ``.bz2`` files are decompressed. A line ends at ``\n``, which is removed with a preceding ``\r``. All
    other characters are kept: other Unicode line separators, spaces at the ends, a byte order mark. The last line need
    not end with ``\n``.

    Args:
        path: The file.
        encoding: An encoding that writes a newline as the byte 10, such as ``utf-8`` or ``cp1252``.

    Raises:
        ValueError: If a byte is invalid in the encoding (the message contains file and line), a line has more than
            ``LONGEST_LINE`` bytes, a compressed file is damaged, or the encoding writes a newline otherwise.
    """
    with open_unpacked(path) as stream:
        yield from decode_lines(stream, encoding=encoding, where=str(path))


def decode_lines(stream: IO[bytes], *, encoding: str, where: str) -> Iterator[str]:
    r"""Yield the lines of an open stream, see :func:`read_lines`.

    Args:
        stream: Uncompressed bytes.
        encoding: An encoding that writes a newline as the byte 10.
        where: Name of the stream in error messages.

    Raises:
        ValueError: As for :func:`read_lines`.
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
    """Open a plain, ``.gz`` or ``.bz2`` file to read its uncompressed bytes.

    Yields:
        The open file, at its beginning.

    Raises:
        ValueError: If a compressed file is damaged; also while it is read inside the ``with`` block.
        OSError: If the disk cannot be read.
    """
    if path.suffix not in {".gz", ".bz2"}:
        with path.open("rb") as stream:
            yield stream
        return
    kind = "gzip" if path.suffix == ".gz" else "bz2"
    # The gzip module accepts an empty file as an empty archive; no data set contains any.
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
        # Errors of the disk have an errno; those of the decompressors do not.
        if error.errno is not None:
            raise
        raise ValueError(f"{path} is not a whole {kind} file: {error}") from error


def tar_lines(path: Path, member: str, *, encoding: str = "utf-8") -> Iterator[str]:
    """Yield the lines of a member of a tar file.

    Raises ``ValueError`` as ``read_lines`` and ``open_tar_member`` do.
    """
    with open_tar_member(path, member) as stream:
        yield from decode_lines(stream, encoding=encoding, where=f"{path}:{member}")


MOST_MEMBERS = 10_000
"""Maximum number of members of an archive; known archives have fewer than a hundred."""


@contextmanager
def open_tar_member(path: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a regular file inside a tar file, compressed or not, after checking all its members.

    Args:
        path: The archive.
        member: Exact name of the member.

    Yields:
        The open member, at its beginning.

    Raises:
        ValueError: If the archive is damaged or has more than ``MOST_MEMBERS`` members; if a member is a link, a
            device, or has a path outside the archive's folder; or if there is not exactly one regular file of that
            name.
        OSError: If the disk cannot be read.
    """
    with _open_tar(path) as archive:
        chosen = [each for each in _members(archive, path) if each.name == member]
        _check_count(path, member, len(chosen))
        stream = archive.extractfile(chosen[0])
        if stream is None:
            raise ValueError(f"{path} has a folder, not a file, at {member!r}")
        yield stream


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar file.

    Raises:
        ValueError: If it is damaged, now or within the block.
        OSError: If the disk cannot be read.
    """
    try:
        with tarfile.open(path, "r:*") as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole tar file: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path} is not a whole tar file: {error}") from error


@contextmanager
def open_zip_member(path: Path, member: str) -> Iterator[IO[bytes]]:
    """Open the only member of a zip file.

    Args:
        path: The archive.
        member: Exact name of the member.

    Yields:
        The open member, at its beginning.

    Raises:
        ValueError: If the archive is damaged (its CRC-32 is checked), encrypted, or compressed by an unknown method; if
            a member has a path outside the archive's folder; or if there are other members.
    """
    with _open_zip(path) as archive:
        names = archive.namelist()
        for name in names:
            _check_path(path, name)
        if names != [member]:
            raise ValueError(f"{path} holds {names[:5]}, expected {[member]} alone")
        with archive.open(member) as stream:
            yield stream


def read_tar(path: Path, *, most_members: int | None = None, most_bytes: int = 1 << 24) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every regular file of a tar file, compressed or not; one is in memory at a time.

    Args:
        path: The archive.
        most_members: Maximum number of members; None for ``MOST_MEMBERS``.
        most_bytes: Maximum number of unpacked bytes of a member.

    Raises:
        ValueError: If the archive is damaged or has more members; or if a member is a link, a device, larger, or has a
            path outside the archive's folder, or a name occurs twice.
        OSError: If the disk cannot be read.
    """
    seen: set[str] = set()
    with _open_tar(path) as archive:
        for each in _members(archive, path, most_members):
            if not each.isreg():
                continue
            if each.name in seen:
                raise ValueError(f"{path} has two members named {each.name!r}")
            seen.add(each.name)
            if each.size > most_bytes:
                raise ValueError(f"{path}:{each.name} has {each.size:,} bytes, more than {most_bytes:,}")
            stream = archive.extractfile(each)
            content = b"" if stream is None else stream.read()
            if len(content) != each.size:
                raise ValueError(f"{path} is not a whole tar file: {each.name!r} ends early")
            yield each.name, content


MOST_BYTES = 1 << 28
"""Maximum number of unpacked bytes of a zip file that is read as a whole."""


def read_zip(path: Path) -> dict[str, bytes]:
    """Read every file of a zip file into memory, after checking all its members.

    Args:
        path: The archive.

    Returns:
        The content by the name of the member, in the order of the names; folders are left out.

    Raises:
        ValueError: If the archive is damaged (CRC-32), encrypted, or compressed by an unknown method; if it has more
            than ``MOST_MEMBERS`` members or ``MOST_BYTES`` unpacked bytes; if a name occurs twice, or a member has a
            path outside the archive's folder.
    """
    with _open_zip(path) as archive:
        members = sorted(archive.infolist(), key=lambda each: each.filename)
        if len(members) > MOST_MEMBERS:
            raise ValueError(f"{path} has more than {MOST_MEMBERS} members")
        if (size := sum(each.file_size for each in members)) > MOST_BYTES:
            raise ValueError(f"{path} unpacks to {size:,} bytes, more than {MOST_BYTES:,}")
        for before, each in zip([None, *members], members, strict=False):
            _check_path(path, each.filename)
            if before is not None and before.filename == each.filename:
                raise ValueError(f"{path} has two members named {each.filename!r}")
        return {each.filename: archive.read(each) for each in members if not each.is_dir()}


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file.

    Raises:
        ValueError: If it is damaged, encrypted, or compressed by an unknown method, now or within the block.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole zip file: {error}") from error
    # zipfile raises these for an unknown method and for a password.
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from error


def _members(archive: tarfile.TarFile, path: Path, most: int | None = None) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an archive.

    Raises:
        ValueError: As for :func:`open_tar_member`.
    """
    most = MOST_MEMBERS if most is None else most
    count = 0
    while (each := archive.next()) is not None:
        # The list of members would grow by a kilobyte per file.
        archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
        _check_path(path, each.name)
        if not (each.isreg() or each.isdir()):
            raise ValueError(f"{path} has the member {each.name!r}, which is a link or a device, not a file or folder")
        if count == most:
            raise ValueError(f"{path} has more than {most} members")
        count += 1
        yield each
    # Read to the end: the checksum of a compressed tar file is behind the end of the tar.
    while archive.fileobj is not None and archive.fileobj.read(1 << 20):
        pass


def _check_count(path: Path, member: str, count: int) -> None:
    """Check that a member occurs exactly once.

    Raises:
        ValueError: If it does not.
    """
    if count != 1:
        raise ValueError(f"{path} has {count} members named {member!r}, expected one")


def _check_path(path: Path, name: str) -> None:
    """Check that the path of a member stays in the archive's folder, by the rules of Unix and of Windows.

    Raises:
        ValueError: If it does not.
    """
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise ValueError(f"{path} has the member {name!r}, whose path leaves the archive's folder")


def split_stream(seed: int) -> str:
    """Return the name of the random stream that splits a data set for a run's seed, the same in every arm."""
    return f"{seed}/split"


def shuffled(texts: Iterable[str], stream: str) -> list[str]:
    """Order different texts by the sha256 of the stream's name, a newline and the text, in UTF-8.

    This is as good as a random permutation, and independent of platform and library versions.

    Args:
        texts: The texts, in any order.
        stream: Name of the random stream, such as that of :func:`split_stream`.
    """
    return sorted(texts, key=lambda text: hashlib.sha256(f"{stream}\n{text}".encode()).digest())
