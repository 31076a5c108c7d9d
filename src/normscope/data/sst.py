"""The Stanford Sentiment Treebank from its trees: 8,544 / 1,101 / 2,210 sentences with labels 0 to 4."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normscope.data.download import Progress
from normscope.data.files import locate
from normscope.data.labelled_text import LabelledText, LabelledTextSplits
from normscope.data.lines import read_lines
from normscope.data.sets import SETS

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
        progress: Told how far a download is.
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
