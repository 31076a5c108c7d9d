"""Sentence pairs from two aligned files, or from two members of a packed tar file, one pair at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from normscope.data.readers.files import read_lines, tar_lines


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


def _side(path: Path, member: str, encoding: str) -> Iterator[str]:
    return tar_lines(path, member, encoding=encoding) if member else read_lines(path, encoding=encoding)


def _name(path: Path, member: str) -> str:
    return f"{path}:{member}" if member else str(path)
