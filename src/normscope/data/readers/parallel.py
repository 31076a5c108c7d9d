"""Sentence pairs from two aligned files, or from two members of a tar file, one pair in memory at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from normscope.data.readers.files import read_lines, tar_lines


@dataclass(kw_only=True)
class PairCount:
    """Numbers of pairs; complete when the reader is exhausted."""

    read: int = 0
    """All pairs of lines, excluded ones included."""
    empty: int = 0
    """Pairs with a side that is empty or only white space."""


Empty = Literal["skip", "keep", "refuse"]
"""Treatment of pairs with an empty side: exclude and count, yield to a caller that counts, or raise an error, as for
validation and test data, which must stay complete."""


@dataclass(frozen=True, kw_only=True)
class PairFiles:
    """Aligned text in two languages on disk, read again at every iteration."""

    source: Path
    target: Path
    source_member: str = ""
    """Member of ``source``, if that is a tar file."""
    target_member: str = ""
    encoding: str = "utf-8"
    empty: Empty = "skip"
    """Treatment of pairs with an empty side."""

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
    """Yield the pairs of two aligned files, plain, ``.gz`` or ``.bz2``; one pair is in memory at a time.

    Line n of one file belongs to line n of the other. Pairs with an empty side are excluded and counted. Only the ends
    of lines are stripped, see ``read_lines``. Raises ``ValueError`` if one file ends before the other, and as
    ``read_lines`` does.

    Args:
        source_path: The source side.
        target_path: The target side.
        encoding: Encoding of both files.
        count: Updated while the pairs are read.
    """
    return PairFiles(source=source_path, target=target_path, encoding=encoding).read(count)


def read_tar_pairs(
    path: Path, source_member: str, target_member: str, *, encoding: str = "utf-8", count: PairCount | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the pairs of two aligned members of a tar file, see :func:`read_pairs`.

    Raises ``ValueError`` as ``read_pairs`` and ``open_tar_member`` do.

    Args:
        path: The archive.
        source_member: Exact name of the source side.
        target_member: Exact name of the target side.
        encoding: Encoding of both members.
        count: Updated while the pairs are read.
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
    """Yield pairs of lines; the sides must have equally many lines.

    Args:
        source: Lines of the source side.
        target: Lines of the target side.
        names: Names of the sides in error messages.
        count: Updated while the pairs are read.
        empty: Treatment of pairs with an empty side.

    Raises:
        ValueError: If one side ends before the other, or if a side is empty and ``empty`` is ``"refuse"``.
    """
    count = PairCount() if count is None else count
    # A line is never None, so None marks the end of a side.
    for number, (left, right) in enumerate(zip_longest(source, target), start=1):
        if left is None or right is None:
            ended, goes_on = names if left is None else names[::-1]
            raise ValueError(f"{ended} ended after line {number - 1}, and {goes_on} goes on: they are not aligned")
        count.read += 1
        if not left.strip() or not right.strip():
            count.empty += 1
            if empty == "refuse":
                raise ValueError(
                    f"line {number} of {names[0 if not left.strip() else 1]} is empty; held-out data must be complete"
                )
            if empty == "skip":
                continue
        yield left, right


def _side(path: Path, member: str, encoding: str) -> Iterator[str]:
    return tar_lines(path, member, encoding=encoding) if member else read_lines(path, encoding=encoding)


def _name(path: Path, member: str) -> str:
    return f"{path}:{member}" if member else str(path)
