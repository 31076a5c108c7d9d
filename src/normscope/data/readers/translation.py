"""Parallel corpora: the training, validation and test parts of every data set of sentence pairs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from itertools import zip_longest
from pathlib import Path
from typing import Literal, Protocol

from normscope.arguments import check_arguments
from normscope.data.download import Progress
from normscope.data.readers.files import read_lines, tar_lines
from normscope.data.readers.parallel import Empty, PairCount, PairFiles, align
from normscope.data.registry import SETS
from normscope.data.store import found_hashes, locate

IWSLT14_EVERY = 23
"""Every 23rd pair is for validation, as usual for this data set."""

TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
"""Their concatenation in this order is the usual test set."""

_DROPPED = ("<url>", "<talkid>", "<keywords>")
_TAG = re.compile(r"</?(?:title|description)>")
_SEGMENT = re.compile(r'<seg id="[0-9]+">(.*?)</seg>')


@dataclass(frozen=True, kw_only=True)
class TalkPairs:
    """Pairs of the distribution, untokenized and in original case; read again at every iteration.

    The usual 160,239 / 7,283 / 6,750 pairs result from the Moses tokenizer, a limit of 175 tokens and a ratio of 1.5,
    and lower-casing, before every 23rd is selected. These steps are not applied here, so training and validation parts
    differ from the usual ones; the data set ``iwslt14-de-en-sample`` contains the usual validation and test parts.

    Untested on the original archive: the reader follows the published preparation, and is tested on synthetic archives.
    """

    path: Path
    """``de-en.tgz``."""
    part: Literal["train", "valid", "test"]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield the pairs, German first, in archive order; training pairs with an empty side are excluded."""
        if self.part == "test":
            for test in TESTS:
                sides = [f"de-en/IWSLT14.{test}.de-en.{language}.xml" for language in ("de", "en")]
                yield from self._aligned(*sides, segments=True)
            return
        train = self._aligned("de-en/train.tags.de-en.de", "de-en/train.tags.de-en.en", segments=False)
        for number, pair in enumerate(train, start=1):
            if (number % IWSLT14_EVERY == 0) == (self.part == "valid"):
                yield pair

    def _aligned(self, source: str, target: str, *, segments: bool) -> Iterator[tuple[str, str]]:
        strip = segments_of if segments else talk_lines
        sides = (strip(tar_lines(self.path, member)) for member in (source, target))
        names = (f"{self.path}:{source}", f"{self.path}:{target}")
        return align(*sides, names=names, empty="refuse" if segments else "skip")


def talk_lines(lines: Iterator[str]) -> Iterator[str]:
    """Yield lines without those of URL, id and keywords of a talk, and without the tags of title and description."""
    for line in lines:
        if not any(tag in line for tag in _DROPPED):
            yield _TAG.sub("", line).strip()


def segments_of(lines: Iterator[str]) -> Iterator[str]:
    """Yield the text of each segment, with XML escapes decoded."""
    for line in lines:
        match = _SEGMENT.search(line)
        if match is not None:
            yield unescape(match[1]).strip()


EVBNEWS_EVERY = 20
"""Documents with a number divisible by this are held out: N0020, N0040, …, fifty of the 1,000 documents."""


@dataclass(frozen=True, kw_only=True)
class DocumentPairs:
    """Pairs of a part of the documents; read again at every iteration.

    Training pairs that also occur in a held-out document are excluded; the held-out pairs, about three percent of all,
    are kept in memory for this.
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
    """Return whether a document is held out: its number is divisible by ``EVBNEWS_EVERY``.

    Args:
        document: Document id, such as ``N0020``.
    """
    return int(document.removeprefix("N")) % EVBNEWS_EVERY == 0


def read_documents(files: PairFiles, ids: Path) -> Iterator[tuple[str, int, tuple[str, str]]]:
    """Yield the pairs with their document and the number of the sentence in it.

    Args:
        files: The two sides.
        ids: A file of lines ``document.sentence``, such as ``N0001.3``.

    Raises:
        ValueError: If the numbers of ids and pairs differ, an id is malformed, or a side is empty, which would shift
            the ids; and as for ``read_pairs``.
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


class Pairs(Protocol):
    """Sentence pairs on disk, read again at every iteration."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield source and target."""
        ...


@dataclass(frozen=True, kw_only=True)
class ParallelSplits:
    """A corpus in three parts; unpublished parts are None."""

    train: Pairs | None
    valid: Pairs | None
    test: Pairs | None
    source: str
    """Language code of the source side."""
    target: str
    hashes: dict[str, str]
    """sha256 of every source file by name, with the prefix ``unverified:`` if it is not published."""


@dataclass(frozen=True, kw_only=True)
class _Corpus:
    languages: tuple[str, str]
    """Source and target, as in the names of the files."""
    train: str = ""
    """Name of the files, with ``{side}`` for the language; empty if there is no such part."""
    valid: str = ""
    test: str = ""
    sides: tuple[str, str] | None = None
    """Names of the sides in the files, if they are not the languages."""


_CORPORA = {
    "iwslt14-de-en-sample": _Corpus(
        languages=("de", "en"), train="train.sample.{side}.gz", valid="valid.{side}.gz", test="test.{side}.gz"
    ),
    "iwslt15-en-vi-tests": _Corpus(
        languages=("en", "vi"), valid="dev-2012-en-vi.tgz:tst2012.{side}", test="test-2013-en-vi.tgz:tst2013.{side}"
    ),
    "iwslt15-en-vi": _Corpus(
        languages=("en", "vi"),
        train="train.{side}",
        valid="dev-2012-en-vi.tgz:tst2012.{side}",
        test="test-2013-en-vi.tgz:tst2013.{side}",
    ),
    "wmt14-en-de": _Corpus(
        languages=("en", "de"), train="train.{side}", valid="newstest2013.{side}", test="newstest2014.{side}"
    ),
    "wmt-en-de-10k": _Corpus(
        languages=("en", "de"),
        train="{side}-train.txt.gz",
        valid="{side}-val.txt.gz",
        test="{side}-test.txt.gz",
        sides=("src", "tgt"),
    ),
    "multi30k": _Corpus(
        languages=("de", "en"), train="train.{side}.gz", valid="val.{side}.gz", test="test_2016_flickr.{side}.gz"
    ),
}


@check_arguments
def load_parallel(name: str, *, progress: Progress | None = None) -> ParallelSplits:
    """Find a corpus; its text stays on disk.

    Tokens and case are those of the files; escapes such as ``&apos;`` in tokenized text are kept. ``evbnews-en-vi``
    holds out documents for validation (:class:`DocumentPairs`) and has no test part; ``iwslt14-de-en`` is untokenized
    (:class:`TalkPairs`).

    Raises ``DataNotFound`` or ``DataDamaged`` if the files are not available, and warns with ``DataUnverified`` of
    files without a published sha256.

    Args:
        name: Key of ``PARALLEL_SETS``.
        progress: Callback for the progress of a download.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in {*_CORPORA, "evbnews-en-vi", "iwslt14-de-en"}:
        names = sorted({*_CORPORA, "evbnews-en-vi", "iwslt14-de-en"})
        raise ValueError(f"no parallel corpus {name!r}, expected one of {', '.join(names)}")
    dataset = SETS[name]
    paths = locate(dataset, progress=progress)
    hashes = found_hashes(dataset, paths)
    if name == "evbnews-en-vi":
        files = PairFiles(source=paths["evbnews.en.gz"], target=paths["evbnews.vi.gz"])
        ids = paths["evbnews.ids.gz"]
        return ParallelSplits(
            train=DocumentPairs(files=files, ids=ids, part="train"),
            valid=DocumentPairs(files=files, ids=ids, part="held out"),
            test=None,
            source="en",
            target="vi",
            hashes=hashes,
        )
    if name == "iwslt14-de-en":
        train, valid, test = (TalkPairs(path=paths["de-en.tgz"], part=part) for part in ("train", "valid", "test"))
        return ParallelSplits(train=train, valid=valid, test=test, source="de", target="en", hashes=hashes)
    corpus = _CORPORA[name]
    source, target = corpus.languages
    return ParallelSplits(
        train=_pairs(corpus.train, corpus, paths, empty="keep"),
        valid=_pairs(corpus.valid, corpus, paths, empty="refuse"),
        test=_pairs(corpus.test, corpus, paths, empty="refuse"),
        source=source,
        target=target,
        hashes=hashes,
    )


def _pairs(pattern: str, corpus: _Corpus, paths: dict[str, Path], *, empty: Empty) -> PairFiles | None:
    """Find the two sides of a part; ``file.tgz:member`` is a member of a tar file."""
    if not pattern:
        return None
    source, target = (pattern.format(side=side) for side in corpus.sides or corpus.languages)
    source_file, _, source_member = source.partition(":")
    target_file, _, target_member = target.partition(":")
    return PairFiles(
        source=paths[source_file],
        target=paths[target_file],
        source_member=source_member,
        target_member=target_member,
        empty=empty,
    )
