"""The parallel corpora by name: which files are the sides of train, valid and test."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from normscope.data.download import Progress
from normscope.data.evbnews import DocumentPairs
from normscope.data.files import found_hashes, locate
from normscope.data.iwslt14 import TalkPairs
from normscope.data.parallel import Empty, PairFiles
from normscope.data.sets import SETS


class Pairs(Protocol):
    """Sentence pairs on disk: every iteration reads them anew, and none is held."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield source and target."""
        ...


@dataclass(frozen=True, kw_only=True)
class ParallelSplits:
    """A corpus in three parts; one that is None is not published."""

    train: Pairs | None
    valid: Pairs | None
    test: Pairs | None
    source: str
    """Language code of the first of a pair."""
    target: str
    hashes: dict[str, str]
    """sha256 of every source file by name, after ``unverified:`` where none is published."""


@dataclass(frozen=True, kw_only=True)
class _Corpus:
    languages: tuple[str, str]
    """As the files' names write them: source, target."""
    train: str = ""
    """The files' name, with ``{side}`` for the language; empty where there is none."""
    valid: str = ""
    test: str = ""
    sides: tuple[str, str] | None = None
    """What the names have in place of languages."""


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


def load_parallel(name: str, *, progress: Progress | None = None) -> ParallelSplits:
    """Find a corpus; its text stays on disk.

    Tokens and case are the files'. Where they are tokenized, escapes such as ``&apos;`` are kept. Two have their own
    rules: ``evbnews-en-vi`` holds out documents to validate (see ``evbnews``) and has no test, ``iwslt14-de-en`` is
    untokenized (see ``iwslt14``).

    Raises ``DataNotFound`` or ``DataDamaged`` when the files cannot be had, and ``DataUnverified`` warns of files that
    have no published sha256.

    Args:
        name: A set of ``PARALLEL_SETS``.
        progress: Told how far a download is.

    Raises:
        ValueError: If there is no such corpus.
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
    """Find the two sides of a part; ``file.tgz:member`` is a member of a packed tar file."""
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
