"""Attachment scores: how many words of a parsed sentence hang where they should."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from normscope.tasks.arc_standard import Trees
from normscope.tasks.parser_vocabulary import Sentence, Vocabulary


@dataclass(frozen=True, kw_only=True, eq=False)
class Attachment:
    r"""How many words of every sentence hang where they should.

    .. math::
        \mathrm{UAS} = 100\, \frac{\sum_s \text{right heads}_s}{\sum_s \text{words}_s}\ \%

    over the words of all sentences, not the mean of the sentences' own shares; LAS likewise.
    """

    unlabelled: np.ndarray
    """Words with the right head, and words that count, ``[S, 2]`` int64: their sums give the UAS."""
    labelled: np.ndarray
    """Words with the right head and relation, and words that count, ``[S, 2]`` int64: their sums give the LAS."""


def attachment(
    sentences: Sequence[Sentence], trees: Trees, known: Vocabulary, *, punctuation: bool = True
) -> Attachment:
    """Count the words that hang where they should.

    Args:
        sentences: With their gold heads, relations and universal tags; any trees, non-projective ones, too.
        trees: What was parsed, in the same order.
        known: Where the names of the labels are.
        punctuation: Whether every token counts. False leaves out those whose ``upos`` is PUNCT, which is another
            metric: :func:`metric_name` names it otherwise.

    Raises:
        ValueError: If there are not as many trees as sentences, a tree has another length, or punctuation is to be left
            out where no token at all is PUNCT.
    """
    if len(sentences) != len(trees.lengths):
        raise ValueError(f"{len(sentences)} sentences need as many trees, got {len(trees.lengths)}")
    if not punctuation and not any("PUNCT" in sentence.upos for sentence in sentences):
        raise ValueError("to leave out punctuation, the upos column must say PUNCT somewhere, and it never does")
    names = np.array(known.transitions.labels, dtype=object)
    counts = np.zeros((len(sentences), 3), np.int64)
    for row, sentence in enumerate(sentences):
        length = len(sentence.forms)
        if trees.lengths[row] != length:
            raise ValueError(f"sentence {row} has {length} words, its tree {trees.lengths[row]}")
        counted = np.array([punctuation or tag != "PUNCT" for tag in sentence.upos], bool)
        right = counted & (trees.heads[row, 1 : 1 + length] == sentence.heads)
        named = right & (names[trees.labels[row, 1 : 1 + length]] == np.array(sentence.relations, dtype=object))
        counts[row] = right.sum(), named.sum(), counted.sum()
    return Attachment(unlabelled=counts[:, [0, 2]], labelled=counts[:, [1, 2]])


def metric_name(*, labelled: bool, punctuation: bool = True) -> str:
    """Name the metric: UAS or LAS over all tokens, or the same "without punctuation"."""
    return ("LAS" if labelled else "UAS") + ("" if punctuation else " without punctuation")
