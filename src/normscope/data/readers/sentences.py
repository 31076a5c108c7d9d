"""The Stanford Sentiment Treebank from its trees: 8,544 / 1,101 / 2,210 sentences with labels 0 to 4."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normscope.data.download import Progress
from normscope.data.readers.files import read_lines
from normscope.data.registry import SETS
from normscope.data.store import locate


@dataclass(frozen=True, kw_only=True)
class LabelledText:
    """Labelled sentences, as the files hold them: nothing is lower-cased or shuffled."""

    sentences: tuple[str, ...]
    """Tokens with one space between them."""
    labels: np.ndarray
    """``[N]`` int64, classes from 0."""

    def __len__(self) -> int:
        """Return the number of sentences."""
        return len(self.sentences)


@dataclass(frozen=True, kw_only=True)
class LabelledTextSplits:
    """The three parts of a data set."""

    train: LabelledText
    valid: LabelledText
    test: LabelledText
    hashes: dict[str, str]
    """sha256 of every source file by name; recorded with every run."""


ENCODING = "cp1252"
"""The files are Windows-1252; as UTF-8 they cannot be read, as Latin-1 their dashes become control characters."""

NEGATIVE, POSITIVE = 0, 1

SEED = "rt-polarity split 1"
"""Decides both splits, together with the sentences themselves; see ``hundredths``."""

FOLDS = 10


def load_rt(fold: int | None = None, *, progress: Progress | None = None) -> LabelledTextSplits:
    """Read RT polarity: sentences, and labels 0 (negative) and 1 (positive).

    The publishers give no split. Each class is put into an order of its own and cut into hundredths, see
    ``hundredths``. Without a fold, 0 to 79 train, 80 to 89 validate and 90 to 99 test. With fold k, 10 k to 10 k + 9
    test, the nine that follow (after 99 comes 0) validate, a tenth of the rest, and the others train; over the ten
    folds every sentence is tested once.
    Inside a part sentences are in file order, the negative ones first.

    The 10,662 sentences are all distinct; were one there twice, both copies would be in one part. Sentences of one
    review may be in different parts: the files do not say which belong together.

    Raises ``DataNotFound`` or ``DataDamaged`` when the files cannot be had.

    Source: Pang and Lee (2005), "Seeing stars", the sentence polarity data set v1.0.

    Args:
        fold: Which fold tests, 0 to 9; None for the fixed split.
        progress: Callback for the progress of a download.

    Raises:
        ValueError: If there is no such fold.
    """
    if fold is not None and fold not in range(FOLDS):
        raise ValueError(f"fold is {fold}, expected None or 0 to {FOLDS - 1}")
    dataset = SETS["rt-polarity"]
    paths = locate(dataset, progress=progress)
    sides = [tuple(read_lines(paths[f"rt-polarity.{side}.gz"], encoding=ENCODING)) for side in ("neg", "pos")]
    sentences = sides[NEGATIVE] + sides[POSITIVE]
    labels = np.repeat(np.array([NEGATIVE, POSITIVE], dtype=np.int64), [len(side) for side in sides])
    test_begin = 90 if fold is None else 10 * fold
    # How far each sentence stands behind the first one of the test part, around the circle.
    distance = (hundredths(sentences, labels) - test_begin) % 100
    test = distance < 10
    valid = (distance >= 90) if fold is None else (distance >= 10) & (distance < 19)
    return LabelledTextSplits(
        train=_part(sentences, labels, ~(valid | test)),
        valid=_part(sentences, labels, valid),
        test=_part(sentences, labels, test),
        hashes=dataset.hashes,
    )


def hundredths(sentences: tuple[str, ...], labels: np.ndarray) -> np.ndarray:
    """Deal sentences into a hundred parts of nearly one size, each class apart.

    The order within a class is that of the sha256 of the seed, a newline and the sentence in UTF-8: as good as a
    random permutation, and the same with every version of every library. Equal sentences go to one part, also where
    their labels differ: the first one decides.

    Args:
        sentences: ``N`` of them.
        labels: ``[N]`` int64.

    Returns:
        ``[N]`` int64 from 0 to 99.
    """
    first = dict(zip(reversed(sentences), reversed(labels.tolist()), strict=True))
    part = {}
    for label in sorted(set(first.values())):
        members = [sentence for sentence in first if first[sentence] == label]
        members.sort(key=lambda sentence: hashlib.sha256(f"{SEED}\n{sentence}".encode()).digest())
        part |= {sentence: place * 100 // len(members) for place, sentence in enumerate(members)}
    return np.array([part[sentence] for sentence in sentences], dtype=np.int64)


def _part(sentences: tuple[str, ...], labels: np.ndarray, chosen: np.ndarray) -> LabelledText:
    return LabelledText(sentences=tuple(sentences[index] for index in np.flatnonzero(chosen)), labels=labels[chosen])


# Only the space divides: some tokens of the files have a no-break space inside, such as "1\xa01/2".
_PIECE = re.compile(r"[()]|[^() ]+")

_LABELS = {str(label): label for label in range(5)}


@dataclass(frozen=True, kw_only=True)
class SentimentTree:
    """A sentence with the sentiment of each of its phrases: 0 very negative, 2 neutral, 4 very positive."""

    label: int
    """Of the whole sentence."""
    words: tuple[str, ...]
    phrases: tuple[tuple[int, int, int], ...]
    """Label, first word and the one after the last, for every node; words before the phrases that they make up."""

    @property
    def sentence(self) -> str:
        """The words with a space between them."""
        return " ".join(self.words)


def load_sst(*, progress: Progress | None = None) -> LabelledTextSplits:
    r"""Read SST-5: whole sentences with their root labels 0 to 4, in the published parts.

    Words are as the trees have them: brackets are ``-LRB-`` and ``-RRB-``, and slashes and asterisks stand behind a
    backslash (``and\/or``). Case is kept. For the labelled phrases, which many train on, see ``read_trees``.

    Raises ``DataNotFound`` or ``DataDamaged`` when the files cannot be had.

    Source: Socher et al. (2013), "Recursive deep models for semantic compositionality over a sentiment treebank".

    Args:
        progress: Callback for the progress of a download.
    """
    dataset = SETS["sst"]
    paths = locate(dataset, progress=progress)
    train, valid, test = (_sentences(paths[f"{part}.txt.gz"]) for part in ("train", "dev", "test"))
    return LabelledTextSplits(train=train, valid=valid, test=test, hashes=dataset.hashes)


def read_trees(path: Path) -> Iterator[SentimentTree]:
    """Read trees, one a line; memory holds one of them.

    Raises ``ValueError`` where ``parse_tree`` and ``read_lines`` do; the message names the file and the line.

    Args:
        path: Such as ``train.txt.gz``.
    """
    for number, line in enumerate(read_lines(path), start=1):
        yield parse_tree(line, where=f"{path}, line {number}")


def parse_tree(text: str, *, where: str) -> SentimentTree:
    """Read one tree: ``(3 (2 It) (4 works))``. A node has a label and either one word or two nodes.

    Args:
        text: The tree.
        where: What an error calls its place.

    Raises:
        ValueError: If it is no such tree, or there is anything after it.
    """
    words: list[str] = []
    phrases: list[tuple[int, int, int]] = []
    # A node that is open: label, first word, nodes in it. A stack, so that no tree is too deep.
    stack: list[tuple[int, int, int]] = []
    pieces = _PIECE.findall(text)
    place = 0
    while place < len(pieces):
        piece = pieces[place]
        if phrases and not stack:
            raise ValueError(f"{where}: there is {piece!r} after the tree's end")
        if piece == "(":
            label = pieces[place + 1] if place + 1 < len(pieces) else "the end"
            if label not in _LABELS:
                raise ValueError(f"{where}: a node begins with {label!r}, expected a label 0 to 4")
            stack.append((_LABELS[label], len(words), 0))
            place += 2
            continue
        if not stack:
            raise ValueError(f"{where}: found {piece!r}, expected '('")
        label, begin, children = stack[-1]
        if piece == ")":
            if children != 2 and (children, len(words) - begin) != (0, 1):
                raise ValueError(
                    f"{where}: a node ends with {len(words) - begin} words in {children} nodes, "
                    "expected one word or two nodes"
                )
            stack.pop()
            phrases.append((label, begin, len(words)))
            if stack:
                above, its_begin, its_children = stack[-1]
                if its_children == 0 and its_begin != begin:
                    raise ValueError(f"{where}: a node holds the word {words[its_begin]!r} and a node")
                stack[-1] = (above, its_begin, its_children + 1)
        else:
            if children:
                raise ValueError(f"{where}: a node holds a node and the word {piece!r}")
            words.append(piece)
        place += 1
    if stack or not phrases:
        raise ValueError(f"{where}: the line ends inside the tree, with {len(stack)} nodes open")
    return SentimentTree(label=phrases[-1][0], words=tuple(words), phrases=tuple(phrases))


def _sentences(path: Path) -> LabelledText:
    sentences, labels = [], []
    for tree in read_trees(path):
        sentences.append(tree.sentence)
        labels.append(tree.label)
    return LabelledText(sentences=tuple(sentences), labels=np.array(labels, dtype=np.int64))
