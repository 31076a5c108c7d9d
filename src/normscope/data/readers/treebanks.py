"""Dependency trees from CoNLL-U and CoNLL-X files: ten columns per word, a blank line after each sentence."""

import io
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from normscope.arguments import check_arguments
from normscope.data.download import Progress
from normscope.data.readers.files import decode_lines, read_lines, read_zip, shuffled, split_stream
from normscope.data.registry import SETS
from normscope.data.store import found_hashes, locate

COLUMNS = 10

_RANGE = re.compile(r"[0-9]{1,6}-[0-9]{1,6}")
_EMPTY_NODE = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")


@dataclass(frozen=True, kw_only=True)
class ParsedSentence:
    """A sentence of n words with its dependency tree; every field has n entries."""

    forms: tuple[str, ...]
    lemmas: tuple[str, ...]
    upos: tuple[str, ...]
    """Universal tags; coarse tags in CoNLL-X."""
    xpos: tuple[str, ...]
    """Language-specific tags; fine tags in CoNLL-X."""
    heads: tuple[int, ...]
    """Number of the head of each word, from 1; 0 for a root."""
    relations: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of words."""
        return len(self.forms)


@dataclass(kw_only=True)
class TreeCount:
    """Counts of a reader; complete when it is exhausted."""

    sentences: int = 0
    words: int = 0
    ranges: int = 0
    """Multiword tokens (``1-2``), skipped, since their words follow."""
    empty_nodes: int = 0
    """Empty nodes (``1.1``) of enhanced dependencies, skipped."""


@check_arguments
def read_conllu(path: Path, *, count: TreeCount | None = None) -> Iterator[ParsedSentence]:
    """Yield the sentences of a file; one is in memory at a time.

    The columns read here are the same in both formats: number, form, lemma, coarse tag, fine tag, and, after the
    features, head and relation. Lines with ``#`` before a sentence are comments. Underscores are kept. A sentence may
    have several roots. The blank line after the last sentence may be missing.

    Args:
        path: A UTF-8 file, plain, ``.gz`` or ``.bz2``.
        count: Updated while sentences are read.

    Raises:
        ValueError: If a line does not have ten columns separated by tabs; if the words are not numbered consecutively;
            if a form is empty; if a head is not a number or exceeds the sentence's length; if a sentence has no word,
            no root, or a cycle; and as for ``read_lines``. The message contains file and line.
    """
    return _read_rows(read_lines(path), path, TreeCount() if count is None else count)


def _read_rows(
    lines: Iterable[str], path: Path | str, count: TreeCount, columns: int = COLUMNS
) -> Iterator[ParsedSentence]:
    """Yield the sentences of rows of ten columns, or of three: form, tag and head.

    Raises:
        ValueError: As for :func:`read_conllu`.
    """
    rows: list[list[str]] = []
    begin = number = 0
    commented = False
    for number, line in enumerate(lines, start=1):
        if not line:
            if rows:
                yield _sentence(rows, path, begin, count)
            elif commented:
                raise ValueError(f"{path}, line {number}: the sentence that ends here has no word")
            rows, commented = [], False
        elif columns == COLUMNS and line.startswith("#") and not rows:
            commented = True
        else:
            begin = begin if rows else number
            row = _columns(line, f"{path}, line {number}", columns)
            rows.append(row if columns == COLUMNS else _widened(row, len(rows) + 1))
    if rows:
        yield _sentence(rows, path, begin, count)
    elif commented:
        raise ValueError(f"{path}, line {number}: the file ends after a comment, before its sentence")


def _columns(line: str, where: str, wanted: int) -> list[str]:
    """Split a line into its columns.

    Raises:
        ValueError: If there are not as many as wanted.
    """
    columns = line.split("\t")
    if len(columns) != wanted:
        raise ValueError(f"{where}: {len(columns)} columns separated by tabs, expected {wanted}: {line[:60]!r}")
    return columns


def _widened(row: list[str], number: int) -> list[str]:
    """Return form, tag and head as ten columns; the file has no relations, so an arc is a ``root`` or a ``dep``."""
    form, tag, head = row
    return [str(number), form, "_", tag, tag, "_", head, "root" if head == "0" else "dep", "_", "_"]


def _sentence(rows: list[list[str]], path: Path | str, begin: int, count: TreeCount) -> ParsedSentence:
    """Check the rows of a sentence, and convert them to its columns.

    Raises:
        ValueError: As for :func:`read_conllu`.
    """
    words: list[list[str]] = []
    lines: list[int] = []
    for line, row in enumerate(rows, start=begin):
        if _RANGE.fullmatch(row[0]):
            count.ranges += 1
        elif _EMPTY_NODE.fullmatch(row[0]):
            count.empty_nodes += 1
        elif not _NUMBER.fullmatch(row[0]):
            raise ValueError(f"{path}, line {line}: {row[0]!r} is not a word's number")
        elif int(row[0]) != len(words) + 1:
            raise ValueError(f"{path}, line {line}: word {row[0]}, expected word {len(words) + 1}")
        elif not row[1]:
            raise ValueError(f"{path}, line {line}: word {row[0]} has no form")
        else:
            words.append(row)
            lines.append(line)
    if not words:
        raise ValueError(f"{path}, line {begin}: the sentence has no word")
    for line, row in zip(lines, words, strict=True):
        if not _NUMBER.fullmatch(row[6]) or int(row[6]) > len(words):
            raise ValueError(
                f"{path}, line {line}: the head of word {row[0]} is {row[6]!r}, expected 0 to {len(words)}"
            )
    heads = tuple(int(row[6]) for row in words)
    if 0 not in heads:
        raise ValueError(f"{path}, line {begin}: no word of the sentence is a root (head 0)")
    cyclic = _word_in_cycle(heads)
    if cyclic:
        raise ValueError(f"{path}, line {lines[cyclic - 1]}: word {cyclic} is its own ancestor: the heads form a cycle")
    count.sentences += 1
    count.words += len(words)
    _, forms, lemmas, upos, xpos, _, _, relations, _, _ = zip(*words, strict=True)
    return ParsedSentence(forms=forms, lemmas=lemmas, upos=upos, xpos=xpos, heads=heads, relations=relations)


def _word_in_cycle(heads: tuple[int, ...]) -> int:
    """Return the number of a word that is its own ancestor, or 0, in linear time."""
    known = [True] + [False] * len(heads)
    for start in range(1, len(heads) + 1):
        path: list[int] = []
        here, on_path = start, set()
        while not known[here]:
            if here in on_path:
                return here
            path.append(here)
            on_path.add(here)
            here = heads[here - 1]
        for word in path:
            known[word] = True
    return 0


@dataclass(frozen=True, kw_only=True)
class Treebank:
    """The parts of a treebank."""

    train: tuple[ParsedSentence, ...]
    valid: tuple[ParsedSentence, ...]
    test: tuple[ParsedSentence, ...]
    hashes: dict[str, str]
    """sha256 of every source file by name, with the prefix ``unverified:`` if it is not published."""


def load_ewt(*, progress: Progress | None = None) -> Treebank:
    """Read UD English EWT v2.16: 12,544 / 2,001 / 2,077 sentences of web text, dev as valid.

    A substitute for the Penn Treebank with other text, relations and tokens; attachment scores of the two cannot be
    compared.

    Raises ``DataNotFound`` or ``DataDamaged`` if the files are not available.

    Source: Silveira et al. (2014), "A gold standard dependency corpus for English".

    Args:
        progress: Callback for the progress of a download.
    """
    dataset = SETS["ud-english-ewt"]
    paths = locate(dataset, progress=progress)
    train, valid, test = (tuple(_shared(paths[f"en_ewt-ud-{part}.conllu.gz"])) for part in ("train", "dev", "test"))
    return Treebank(train=train, valid=valid, test=test, hashes=dataset.hashes)


def load_ptb(*, progress: Progress | None = None) -> Treebank:
    """Read the user's Penn Treebank: ``$NORMSCOPE_DATA/ptb/{train,dev,test}.conllx``, or ``.conllu``, packed or not.

    The trees are licensed and their conversions differ, so there is no published sha256: the hashes of the files are
    recorded, with the warning ``DataUnverified``. Raises ``DataNotFound`` if a file is missing, and ``ValueError`` as
    ``read_conllu`` does.

    Args:
        progress: Unused: nothing is downloaded.
    """
    dataset = SETS["ptb"]
    paths = locate(dataset, progress=progress)
    train, valid, test = (tuple(_shared(paths[f"{part}.conllx"])) for part in ("train", "dev", "test"))
    return Treebank(train=train, valid=valid, test=test, hashes=found_hashes(dataset, paths))


SAMPLE_VALID, SAMPLE_TEST = 160, 180
"""Numbers of the first file of the Penn Treebank sample that validates, and of the first that tests."""

_SAMPLE_FILE = re.compile(r"dependency_treebank/wsj_0([0-9]{3})\.dp")


@check_arguments
def load_ptb_sample(*, seed: int | None = None, progress: Progress | None = None) -> Treebank:
    """Read NLTK's sample of the Penn Treebank: 3,914 sentences of 199 articles of the Wall Street Journal.

    The files ``wsj_0001`` to ``wsj_0199`` are sections 00 and 01 of the treebank, about 5 % of it, with the tags of the
    treebank and heads converted from its constituents; there are no relations, so only UAS can be measured. The usual
    parts (sections 2 to 21, 22 and 23) are not among them, and the sample has no test set. By default, the files from
    160 validate and those from 180 test. With a seed, whole articles are drawn: about a tenth of the sentences for each
    of the two, at the first article that is beyond.

    Raises ``DataNotFound`` or ``DataDamaged`` if the file is not available.

    Source: Marcus, Santorini, Marcinkiewicz (1993), "Building a large annotated corpus of English: the Penn Treebank".

    Args:
        seed: Seed of the split of a run, equal in all arms; None for the fixed one.
        progress: Callback for the progress of a download.

    Raises:
        ValueError: If the archive holds another file than articles, or as ``read_zip`` and ``read_conllu`` do.
    """
    dataset = SETS["ptb-wsj-sample"]
    path = locate(dataset, progress=progress)["dependency_treebank.zip"]
    articles: dict[str, tuple[ParsedSentence, ...]] = {}
    for name, content in read_zip(path).items():
        if not _SAMPLE_FILE.fullmatch(name):
            raise ValueError(f"{path} has the member {name!r}, expected dependency_treebank/wsj_0001.dp and the like")
        lines = decode_lines(io.BytesIO(content), encoding="utf-8", where=f"{path}:{name}")
        articles[name] = tuple(_interned(_read_rows(lines, f"{path}:{name}", TreeCount(), columns=3)))
    parts: dict[str, list[ParsedSentence]] = {"train": [], "valid": [], "test": []}
    total, before = sum(map(len, articles.values())), 0
    for name in articles if seed is None else shuffled(articles, split_stream(seed)):
        if seed is None:
            number = int(name[-6:-3])
            part = "train" if number < SAMPLE_VALID else "valid" if number < SAMPLE_TEST else "test"
        else:
            part = "test" if 10 * before < total else "valid" if 5 * before < total else "train"
        parts[part] += articles[name]
        before += len(articles[name])
    return Treebank(hashes=dataset.hashes, **{part: tuple(sentences) for part, sentences in parts.items()})


def _shared(path: Path) -> Iterator[ParsedSentence]:
    """Yield the sentences of a file with interned strings."""
    return _interned(read_conllu(path))


def _interned(sentences: Iterable[ParsedSentence]) -> Iterator[ParsedSentence]:
    """Yield sentences with interned strings."""
    fields = ("forms", "lemmas", "upos", "xpos", "relations")
    for sentence in sentences:
        yield replace(sentence, **{name: tuple(map(sys.intern, getattr(sentence, name))) for name in fields})
