"""The treebanks by name: the English Web Treebank, and the user's own copy of the Penn Treebank."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from normscope.data.conllu import ParsedSentence, read_conllu
from normscope.data.download import Progress
from normscope.data.files import found_hashes, locate
from normscope.data.sets import SETS


@dataclass(frozen=True, kw_only=True)
class Treebank:
    """The three published parts of a treebank."""

    train: tuple[ParsedSentence, ...]
    valid: tuple[ParsedSentence, ...]
    test: tuple[ParsedSentence, ...]
    hashes: dict[str, str]
    """sha256 of every source file by name, after ``unverified:`` where none is published."""


def load_ewt(*, progress: Progress | None = None) -> Treebank:
    """Read UD English EWT v2.16: 12,544 / 2,001 / 2,077 sentences of web text, dev as valid.

    It stands in for the Penn Treebank and is not it: other text, other relations, other tokens; attachment scores of
    the two cannot be compared.

    Raises ``DataNotFound`` or ``DataDamaged`` when the files cannot be had.

    Source: Silveira et al. (2014), "A gold standard dependency corpus for English".

    Args:
        progress: Told how far a download is.
    """
    dataset = SETS["ud-english-ewt"]
    paths = locate(dataset, progress=progress)
    train, valid, test = (tuple(_shared(paths[f"en_ewt-ud-{part}.conllu.gz"])) for part in ("train", "dev", "test"))
    return Treebank(train=train, valid=valid, test=test, hashes=dataset.hashes)


def load_ptb(*, progress: Progress | None = None) -> Treebank:
    """Read the user's Penn Treebank: ``$NORMSCOPE_DATA/ptb/{train,dev,test}.conllx``, or ``.conllu``, packed or not.

    The trees are licensed and every conversion gives other files, so no sha256 can be expected: the ones that are found
    are recorded, and ``DataUnverified`` warns of each. Raises ``DataNotFound`` when a file is not there, and
    ``ValueError`` where ``read_conllu`` does.

    Args:
        progress: Not used: nothing is fetched.
    """
    dataset = SETS["ptb"]
    paths = locate(dataset, progress=progress)
    train, valid, test = (tuple(_shared(paths[f"{part}.conllx"])) for part in ("train", "dev", "test"))
    return Treebank(train=train, valid=valid, test=test, hashes=found_hashes(dataset, paths))


def _shared(path: Path) -> Iterator[ParsedSentence]:
    """Read sentences so that equal words are one string in memory."""
    fields = ("forms", "lemmas", "upos", "xpos", "relations")
    for sentence in read_conllu(path):
        yield replace(sentence, **{name: tuple(map(sys.intern, getattr(sentence, name))) for name in fields})
