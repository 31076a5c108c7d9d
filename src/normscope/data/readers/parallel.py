"""Sentence pairs from two aligned files, or from two members of a packed tar file, one pair at a time."""

import bz2
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO, Literal, cast

from normscope.data.download import open_tar_member

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


@dataclass(kw_only=True)
class PairCount:
    """How many pairs a reader met; whole when the reader is at its end."""

    read: int = 0
    """All pairs of lines, the left-out ones included."""
    empty: int = 0
    """Pairs left out because a side is empty or only white space."""


Empty = Literal["skip", "keep", "refuse"]
"""What to do with a pair that has an empty side: leave it out and count it, give it to a caller who counts, or refuse
it, as parts that judge must: with a pair less they would be another test."""


@dataclass(frozen=True, kw_only=True)
class PairFiles:
    """Aligned text in two languages, on disk; it is read anew at every iteration and never held."""

    source: Path
    target: Path
    source_member: str = ""
    """The file inside ``source`` where that is a tar file."""
    target_member: str = ""
    encoding: str = "utf-8"
    empty: Empty = "skip"
    """What to do with a pair that has an empty side."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield the pairs, in file order."""
        return self.read()

    def read(self, count: PairCount | None = None) -> Iterator[tuple[str, str]]:
        """Yield the pairs, and count them."""
        return align(
            _side(self.source, self.source_member, self.encoding),
            _side(self.target, self.target_member, self.encoding),
            names=(_name(self.source, self.source_member), _name(self.target, self.target_member)),
            count=count,
            empty=self.empty,
        )


def read_pairs(
    source_path: Path, target_path: Path, *, encoding: str = "utf-8", count: PairCount | None = None
) -> Iterator[tuple[str, str]]:
    """Read two aligned files, plain, ``.gz`` or ``.bz2``; memory holds one pair.

    Line n of one belongs to line n of the other. A pair with an empty side is left out and counted. Nothing is
    stripped but the ends of lines, see ``read_lines``.

    Args:
        source_path: The side to be translated.
        target_path: The translation.
        encoding: Of both.
        count: Filled as the pairs go by.

    Raises ``ValueError`` where one file ends before the other, naming both and the line, and wherever ``read_lines``
    does.
    """
    return PairFiles(source=source_path, target=target_path, encoding=encoding).read(count)


def read_tar_pairs(
    path: Path, source_member: str, target_member: str, *, encoding: str = "utf-8", count: PairCount | None = None
) -> Iterator[tuple[str, str]]:
    """Read two aligned members of a tar file, as ``read_pairs`` does; nothing is extracted.

    Raises ``ValueError`` as ``read_pairs`` and ``open_tar_member`` do.

    Args:
        path: The archive.
        source_member: The exact name of the side to be translated.
        target_member: The exact name of the translation.
        encoding: Of both.
        count: Filled as the pairs go by.
    """
    files = PairFiles(
        source=path, target=path, source_member=source_member, target_member=target_member, encoding=encoding
    )
    return files.read(count)


def align(
    source: Iterator[str],
    target: Iterator[str],
    *,
    names: tuple[str, str],
    count: PairCount | None = None,
    empty: Empty = "skip",
) -> Iterator[tuple[str, str]]:
    """Pair lines up, and refuse sides of different length.

    Args:
        source: Lines.
        target: Lines.
        names: What an error calls the two sides.
        count: Filled as the pairs go by.
        empty: What to do with a pair that has an empty side.

    Raises:
        ValueError: If one side ends before the other, or one is empty where that is refused.
    """
    count = PairCount() if count is None else count
    # No line is None, so None marks the end.
    for number, (left, right) in enumerate(zip_longest(source, target), start=1):
        if left is None or right is None:
            ended, goes_on = names if left is None else names[::-1]
            raise ValueError(f"{ended} ended after line {number - 1}, and {goes_on} goes on: they are not aligned")
        count.read += 1
        if not left.strip() or not right.strip():
            count.empty += 1
            if empty == "refuse":
                raise ValueError(
                    f"line {number} of {names[0 if not left.strip() else 1]} is empty: no pair to judge by"
                )
            if empty == "skip":
                continue
        yield left, right


def tar_lines(path: Path, member: str, *, encoding: str = "utf-8") -> Iterator[str]:
    """Read the lines of one member of a tar file.

    Raises ``ValueError`` as ``read_lines`` and ``open_tar_member`` do.
    """
    with open_tar_member(path, member) as stream:
        yield from decode_lines(stream, encoding=encoding, where=_name(path, member))


def _side(path: Path, member: str, encoding: str) -> Iterator[str]:
    return tar_lines(path, member, encoding=encoding) if member else read_lines(path, encoding=encoding)


def _name(path: Path, member: str) -> str:
    return f"{path}:{member}" if member else str(path)
