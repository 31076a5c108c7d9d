"""EVBNews: English-Vietnamese news with the document of every pair, so that whole documents can be held out."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from normscope.data.lines import read_lines
from normscope.data.parallel import PairCount, PairFiles

EVERY = 20
"""Of the 1,000 documents, numbers divisible by this one are held out: N0020, N0040 and so on, fifty of them."""


@dataclass(frozen=True, kw_only=True)
class DocumentPairs:
    """The pairs of some documents; read anew at every iteration.

    Pairs that are also in a held-out document, word for word, are left out of training; memory holds the held-out
    pairs, about three per cent of all.
    """

    files: PairFiles
    ids: Path
    part: Literal["train", "held out", "all"]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield the pairs, in file order."""
        held = set(self._of_part("held out")) if self.part == "train" else set()
        return (pair for pair in self._of_part(self.part) if pair not in held)

    def _of_part(self, part: str) -> Iterator[tuple[str, str]]:
        for document, _, pair in read_documents(self.files, self.ids):
            if part == "all" or (part == "held out") == is_held_out(document):
                yield pair


def is_held_out(document: str) -> bool:
    """Say whether a document's number is divisible by ``EVERY``.

    Args:
        document: Such as ``N0020``.
    """
    return int(document.removeprefix("N")) % EVERY == 0


def read_documents(files: PairFiles, ids: Path) -> Iterator[tuple[str, int, tuple[str, str]]]:
    """Read the pairs with their places: document, number of the sentence there, and the two sides.

    Args:
        files: The two sides.
        ids: A file of lines ``document.sentence``, such as ``N0001.3``.

    Raises:
        ValueError: If there are more or fewer ids than pairs, an id is of another form, or a side is empty, which
            would shift the ids. Also wherever ``read_pairs`` raises it.
    """
    count = PairCount()
    for number, (line, pair) in enumerate(zip_longest(read_lines(ids), files.read(count)), start=1):
        if count.empty:
            raise ValueError(f"{files.source} and {files.target} have an empty side on line {number}")
        if line is None or pair is None:
            ended = ids if line is None else files.source
            raise ValueError(f"{ended} ended after line {number - 1}: ids and pairs do not belong together")
        document, dot, sentence = line.partition(".")
        if not (document[:1] == "N" and _is_number(document[1:]) and dot and _is_number(sentence)):
            raise ValueError(f"{ids}, line {number}, is {line[:40]!r}, expected an id such as N0001.3")
        yield document, int(sentence), pair


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10
