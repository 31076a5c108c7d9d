"""Lines of text from a plain or a packed file, one at a time; what is not text in the encoding is an error."""

import bz2
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
