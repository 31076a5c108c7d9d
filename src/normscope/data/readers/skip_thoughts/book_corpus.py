"""Running text as sentences, one a line: BookCorpus, and novels cut into the same form."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from normscope.arguments import check_arguments
from normscope.data.download import Progress
from normscope.data.readers.files import read_lines
from normscope.data.readers.novels import read_novels
from normscope.data.readers.prose import sentences
from normscope.data.registry import SETS
from normscope.data.store import found_hashes, locate

Sentences = Callable[[], Iterator[str]]
"""Starts anew to read sentences, tokens between single spaces; an empty text stands between two books."""


@dataclass(frozen=True, kw_only=True)
class BookSplits:
    """Books in three parts; none is held in memory."""

    train: Sentences
    tune_valid: Sentences
    """Part of the training data that serves to validate where a learning rate is chosen."""
    valid: Sentences
    hashes: dict[str, str]
    """sha256 of every source file by name, with the prefix ``unverified:`` if it is not published."""


TUNE_VALID, VALID = "The Little Colonel's Hero", "Katrine"
"""Novels that are held out whole."""

HELD_LINES = 10_000
"""First lines of each file of BookCorpus, which are held out."""

_WORD = re.compile(r"n't\b|[a-z]+(?=n't\b)|'(?:s|m|d|re|ve|ll)\b|[^\W_]+|[^\w\s]|_", flags=re.IGNORECASE)


def tokenize(text: str) -> list[str]:
    """Cut a text into lower-case words, numbers and single marks; ``don't`` becomes ``do n't``, ``it's`` ``it 's``.

    Args:
        text: The text, tokenized or not.
    """
    return [word.lower() for word in _WORD.findall(text)]


@check_arguments
def load_novel_sentences(*, progress: Progress | None = None) -> BookSplits:
    """Read the sentences of ``gutenberg-novels``, with two whole novels held out.

    They are cut by :func:`normscope.data.readers.prose.sentences`, which leaves headings out, and :func:`tokenize`.

    Raises ``DataNotFound`` or ``DataDamaged`` if the files are not available, and ``ValueError`` as
    :func:`normscope.data.readers.novels.read_novels`.

    Args:
        progress: Callback for the progress of a download.

    Raises:
        ValueError: If a novel that is to be held out is missing.
    """
    books = read_novels(progress=progress)
    if missing := {TUNE_VALID, VALID} - set(books):
        raise ValueError(f"gutenberg-novels has no {sorted(missing)}, which are held out; there are {sorted(books)}")
    return BookSplits(
        train=partial(_of_books, [text for title, text in books.items() if title not in {TUNE_VALID, VALID}]),
        tune_valid=partial(_of_books, [books[TUNE_VALID]]),
        valid=partial(_of_books, [books[VALID]]),
        hashes=SETS["gutenberg-novels"].hashes,
    )


@check_arguments
def load_book_corpus(*, held: int = HELD_LINES, progress: Progress | None = None) -> BookSplits:
    """Read BookCorpus: one tokenized sentence a line, books one after another in two files.

    The files do not say where a book ends, except where an empty line stands between two. The first lines of the second
    file are for validation, those of the first file for validation where a learning rate is chosen.

    Raises ``DataNotFound`` if a file is missing, and warns with ``DataUnverified``: no hash is published. The sentences
    raise ``ValueError`` as :func:`normscope.data.read_lines` does.

    Source: Zhu et al. (2015), "Aligning books and movies".

    Args:
        held: Number of lines that are held out of each file.
        progress: Callback for the progress of a download.
    """
    dataset = SETS["book-corpus"]
    paths = locate(dataset, progress=progress)
    first, second = (partial(_of_lines, paths[file.name]) for file in dataset.files)

    def train() -> Iterator[str]:
        yield from first(held, None)
        yield ""
        yield from second(held, None)

    return BookSplits(
        train=train,
        tune_valid=partial(first, 0, held),
        valid=partial(second, 0, held),
        hashes=found_hashes(dataset, paths),
    )


def _of_books(texts: list[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        if number:
            yield ""
        yield from (" ".join(tokenize(" ".join(tokens))) for tokens in sentences(text))


def _of_lines(path: Path, begin: int, end: int | None) -> Iterator[str]:
    return (" ".join(line.lower().split()) for line in islice(read_lines(path), begin, end))
