"""Labelled sentences: RT polarity, CR, SUBJ and MPQA by class, and the Stanford Sentiment Treebank from its trees."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from normscope.arguments import check_arguments
from normscope.data.download import Progress
from normscope.data.readers.files import read_lines, shuffled, split_stream
from normscope.data.registry import SETS
from normscope.data.store import locate


@dataclass(frozen=True, kw_only=True)
class LabelledText:
    """Labelled sentences as in the files, neither lower-cased nor shuffled."""

    sentences: tuple[str, ...]
    """Sentences as tokens separated by single spaces."""
    labels: np.ndarray
    """``[N]`` int64, classes from 0."""

    def __len__(self) -> int:
        """Return the number of sentences."""
        return len(self.sentences)


@dataclass(frozen=True, kw_only=True)
class LabelledTextSplits:
    """Training, validation and test sentences of a data set."""

    train: LabelledText
    valid: LabelledText
    test: LabelledText
    hashes: dict[str, str]
    """sha256 of every source file by name; recorded with every run."""


ENCODING = "cp1252"
"""The files are Windows-1252: they are not valid UTF-8, and in Latin-1 their dashes are control characters."""

FOLDS = 10


@check_arguments
def load_rt(
    fold: int | None = None, *, seed: int | None = None, progress: Progress | None = None
) -> LabelledTextSplits:
    """Read RT polarity: sentences, and labels 0 (negative) and 1 (positive).

    There is no published split. Each class is ordered pseudo-randomly and cut into hundredths, see ``hundredths``.
    Without a fold, hundredths 0 to 79 are for training, 80 to 89 for validation and 90 to 99 for test: in a fixed order
    without a seed, in another order for every seed. With fold k, 10 k to 10 k + 9 of the fixed order are for test, the
    following nine (cyclically) for validation, which is a tenth of the rest, and the others for training; over the ten
    folds every sentence is tested once. Within a part, sentences are in file order, the negative ones first.

    The 10,662 sentences are distinct; equal sentences would be in the same part. Sentences of the same review may be in
    different parts, since the files do not identify reviews.

    Raises ``DataNotFound`` or ``DataDamaged`` if the files are not available.

    Source: Pang and Lee (2005), "Seeing stars", the sentence polarity data set v1.0.

    Args:
        fold: Test fold, 0 to 9; None for a single split.
        seed: Seed of the split; None for the fixed one.
        progress: Callback for the progress of a download.

    Raises:
        ValueError: If ``fold`` is out of range, or given together with a seed.
    """
    # The lines end in a space, so every sentence ends in an empty word.
    return _load_classes("rt-polarity", ("rt-polarity.neg.gz", "rt-polarity.pos.gz"), fold, seed, progress, clean=False)


@check_arguments
def load_cr(
    fold: int | None = None, *, seed: int | None = None, progress: Progress | None = None
) -> LabelledTextSplits:
    """Read CR, customer reviews of products: 3,771 sentences, labels 0 (negative, 1,366) and 1 (positive, 2,405).

    Split as :func:`load_rt`. The four blank lines of the files are left out (papers count 3,775 with them), and spaces
    are single. 3,765 sentences are distinct; equal ones are in the same part.

    Raises ``DataNotFound`` or ``DataDamaged`` if the files are not available.

    Source: Hu and Liu (2004), "Mining and summarizing customer reviews".

    Args:
        fold: As for :func:`load_rt`, like the others.
        seed: Seed of the split; None for the fixed one.
        progress: Callback for the progress of a download.

    Raises:
        ValueError: If ``fold`` is out of range, or given together with a seed.
    """
    return _load_classes("custrev", ("custrev.neg.gz", "custrev.pos.gz"), fold, seed, progress)


@check_arguments
def load_subj(
    fold: int | None = None, *, seed: int | None = None, progress: Progress | None = None
) -> LabelledTextSplits:
    """Read SUBJ: 5,000 sentences of film plots, label 0 (objective), and 5,000 of reviews, label 1 (subjective).

    Split as :func:`load_rt`, with single spaces. All sentences are distinct. Sentences of the same plot or review may
    be in different parts, since the files identify neither.

    Raises ``DataNotFound`` or ``DataDamaged`` if the files are not available.

    Source: Pang and Lee (2004), "A sentimental education", the subjectivity data set v1.0.

    Args:
        fold: As for :func:`load_rt`, like the others.
        seed: Seed of the split; None for the fixed one.
        progress: Callback for the progress of a download.

    Raises:
        ValueError: If ``fold`` is out of range, or given together with a seed.
    """
    return _load_classes("subj", ("subj.objective.gz", "subj.subjective.gz"), fold, seed, progress)


@check_arguments
def load_mpqa(
    fold: int | None = None, *, seed: int | None = None, progress: Progress | None = None
) -> LabelledTextSplits:
    """Read MPQA, opinions in news: 10,603 phrases, labels 0 (negative, 7,292) and 1 (positive, 3,311).

    Split as :func:`load_rt`. The three blank lines of the files are left out (papers count 10,606 with them), and
    spaces are single. Only 8,240 phrases are distinct, and 98 of them have both labels: equal phrases are in the same
    part, so the sizes of the parts vary by a few phrases.

    Raises ``DataNotFound`` or ``DataDamaged`` if the files are not available.

    Source: Wiebe, Wilson and Cardie (2005), "Annotating expressions of opinions and emotions in language".

    Args:
        fold: As for :func:`load_rt`, like the others.
        seed: Seed of the split; None for the fixed one.
        progress: Callback for the progress of a download.

    Raises:
        ValueError: If ``fold`` is out of range, or given together with a seed.
    """
    return _load_classes("mpqa", ("mpqa.neg.gz", "mpqa.pos.gz"), fold, seed, progress)


def _load_classes(
    name: str,
    files: tuple[str, str],
    fold: int | None,
    seed: int | None,
    progress: Progress | None,
    *,
    clean: bool = True,
) -> LabelledTextSplits:
    """Read a data set with one file per class, in the order of the labels, and split it.

    With ``clean``, spaces become single and blank lines are left out.

    Raises:
        ValueError: If ``fold`` is out of range, or given together with a seed.
    """
    if fold is not None and fold not in range(FOLDS):
        raise ValueError(f"fold is {fold}, expected None or 0 to {FOLDS - 1}")
    if fold is not None and seed is not None:
        raise ValueError(f"a fold is of the fixed split: give fold or seed, got fold={fold} and seed={seed}")
    dataset = SETS[name]
    paths = locate(dataset, progress=progress)
    sides = [tuple(read_lines(paths[file], encoding=ENCODING)) for file in files]
    if clean:
        sides = [tuple(filter(None, (" ".join(line.split()) for line in side))) for side in sides]
    sentences = sides[0] + sides[1]
    labels = np.repeat(np.arange(2, dtype=np.int64), [len(side) for side in sides])
    parts = hundredths(sentences, labels, stream=f"{name} split 1" if seed is None else split_stream(seed))
    test_begin = 90 if fold is None else 10 * fold
    # Cyclic distance, in hundredths, from the beginning of the test part.
    distance = (parts - test_begin) % 100
    test = distance < 10
    valid = (distance >= 90) if fold is None else (distance >= 10) & (distance < 19)
    return LabelledTextSplits(
        train=_part(sentences, labels, ~(valid | test)),
        valid=_part(sentences, labels, valid),
        test=_part(sentences, labels, test),
        hashes=dataset.hashes,
    )


def hundredths(sentences: tuple[str, ...], labels: np.ndarray, *, stream: str) -> np.ndarray:
    """Divide sentences into a hundred parts of nearly equal size, separately for each class.

    The order within a class is that of :func:`normscope.data.readers.files.shuffled`. Equal sentences are in the same
    part; if their labels differ, the first label counts.

    Args:
        sentences: ``N`` sentences.
        labels: ``[N]`` int64.
        stream: Name of the random stream.

    Returns:
        ``[N]`` int64 from 0 to 99.
    """
    first = dict(zip(reversed(sentences), reversed(labels.tolist()), strict=True))
    counts = Counter(sentences)
    part = {}
    for label in sorted(set(first.values())):
        members = shuffled([sentence for sentence in first if first[sentence] == label], stream)
        ends = list(accumulate(counts[sentence] for sentence in members))
        begins = [0, *ends[:-1]]
        part |= {sentence: begin * 100 // ends[-1] for sentence, begin in zip(members, begins, strict=True)}
    return np.array([part[sentence] for sentence in sentences], dtype=np.int64)


def _part(sentences: tuple[str, ...], labels: np.ndarray, chosen: np.ndarray) -> LabelledText:
    return LabelledText(sentences=tuple(sentences[index] for index in np.flatnonzero(chosen)), labels=labels[chosen])


# Only spaces are separators: some tokens contain a no-break space, such as "1\xa01/2".
_PIECE = re.compile(r"[()]|[^() ]+")

_LABELS = {str(label): label for label in range(5)}


@dataclass(frozen=True, kw_only=True)
class SentimentTree:
    """A sentence with the sentiment of each phrase: 0 very negative, 2 neutral, 4 very positive."""

    label: int
    """Label of the whole sentence."""
    words: tuple[str, ...]
    phrases: tuple[tuple[int, int, int], ...]
    """Label, first word and end of every node; children before their parents."""

    @property
    def sentence(self) -> str:
        """The words, separated by spaces."""
        return " ".join(self.words)


def load_sst(*, progress: Progress | None = None) -> LabelledTextSplits:
    r"""Read SST-5: whole sentences with their root labels 0 to 4, in the published parts.

    Words are as in the trees: brackets are ``-LRB-`` and ``-RRB-``, and slashes and asterisks are escaped by a
    backslash (``and\/or``). Case is kept. For the labelled phrases, see ``read_trees``.

    Raises ``DataNotFound`` or ``DataDamaged`` if the files are not available.

    Source: Socher et al. (2013), "Recursive deep models for semantic compositionality over a sentiment treebank".

    Args:
        progress: Callback for the progress of a download.
    """
    dataset = SETS["sst"]
    paths = locate(dataset, progress=progress)
    train, valid, test = (_sentences(paths[f"{part}.txt.gz"]) for part in ("train", "dev", "test"))
    return LabelledTextSplits(train=train, valid=valid, test=test, hashes=dataset.hashes)


@check_arguments
def read_trees(path: Path) -> Iterator[SentimentTree]:
    """Yield the trees of a file, one per line; one is in memory at a time.

    Raises ``ValueError`` as ``parse_tree`` and ``read_lines`` do; the message contains the file and the line.

    Args:
        path: Such as ``train.txt.gz``.
    """
    for number, line in enumerate(read_lines(path), start=1):
        yield parse_tree(line, where=f"{path}, line {number}")


def parse_tree(text: str, *, where: str) -> SentimentTree:
    """Parse a tree such as ``(3 (2 It) (4 works))``. A node has a label and either one word or two nodes.

    Args:
        text: The tree.
        where: Location of the tree, for error messages.

    Raises:
        ValueError: If the text is not a single tree.
    """
    words: list[str] = []
    phrases: list[tuple[int, int, int]] = []
    # Open nodes: label, first word, number of children. An explicit stack allows any depth.
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
