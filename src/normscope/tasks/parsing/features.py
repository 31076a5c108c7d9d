"""What a transition-based parser sees of a state: 18 words, 18 tags and 12 labels by number, and examples of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from normscope.tasks.parsing.transitions import (
    ABSENT,
    PROJECTIVE,
    ParserState,
    Transitions,
    Trees,
    kind_of_tree,
    oracle,
    pad,
    run,
)

NULL, ROOT, UNKNOWN = range(3)
"""Numbers of the symbols before the words and the tags: no such word, the artificial root, not in the vocabulary.
Of the labels only the first: label l is feature 1 + l."""

SYMBOLS = 3
"""How many symbols stand before the first word and the first tag."""

TAGS = ("xpos", "upos")
"""Columns that tags can be read from."""


class Sentence(Protocol):
    """A sentence with its gold tags and tree; every sequence has one entry a word."""

    @property
    def forms(self) -> Sequence[str]:
        """Words as they are written."""
        ...

    @property
    def upos(self) -> Sequence[str]:
        """Universal part-of-speech tags."""
        ...

    @property
    def xpos(self) -> Sequence[str]:
        """The treebank's own part-of-speech tags."""
        ...

    @property
    def heads(self) -> Sequence[int]:
        """Heads, counted from 1; 0 for the root."""
        ...

    @property
    def relations(self) -> Sequence[str]:
        """Labels of the arcs from the heads."""
        ...


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Numbers of words and tags, and the transitions; all from training sentences alone."""

    words: Mapping[str, int]
    """From a form to its number, from ``SYMBOLS`` on, the most frequent first."""
    tags: Mapping[str, int]
    """From a tag to its number, from ``SYMBOLS`` on."""
    transitions: Transitions
    """What the parser can do."""
    column: str
    """Where tags are read: a member of :data:`TAGS`."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many numbers words, tags and labels have, symbols included."""
        return SYMBOLS + len(self.words), SYMBOLS + len(self.tags), 1 + len(self.transitions.labels)


def vocabulary(sentences: Sequence[Sentence], *, column: str = "xpos", least_count: int = 2) -> Vocabulary:
    """Number what the training sentences hold.

    Args:
        sentences: The training part, non-projective sentences included.
        column: Where tags are read, ``"xpos"`` or ``"upos"``.
        least_count: How often a form must occur to have a number of its own. The rarer ones are :data:`UNKNOWN`
            everywhere, in training, too: this is how the parser learns what to do with words that it does not know.

    Raises:
        ValueError: If ``column`` is neither, or there are no sentences.
    """
    if column not in TAGS:
        raise ValueError(f"column must be one of {', '.join(TAGS)}, got {column!r}")
    if not sentences:
        raise ValueError("a vocabulary needs at least one sentence, got none")
    counts = Counter(form for sentence in sentences for form in sentence.forms)
    common = sorted((form for form, count in counts.items() if count >= least_count), key=lambda f: (-counts[f], f))
    tags = sorted({tag for sentence in sentences for tag in getattr(sentence, column)})
    arcs = {pair for sentence in sentences for pair in zip(sentence.heads, sentence.relations, strict=True)}
    return Vocabulary(
        words={form: number for number, form in enumerate(common, start=SYMBOLS)},
        tags={tag: number for number, tag in enumerate(tags, start=SYMBOLS)},
        transitions=Transitions(
            arc_labels=tuple(sorted({relation for head, relation in arcs if head})),
            root_labels=tuple(sorted({relation for head, relation in arcs if not head})),
        ),
        column=column,
    )


POSITIONS = (
    *("s1", "s2", "s3", "b1", "b2", "b3"),
    *("lc1(s1)", "rc1(s1)", "lc2(s1)", "rc2(s1)", "lc1(lc1(s1))", "rc1(rc1(s1))"),
    *("lc1(s2)", "rc1(s2)", "lc2(s2)", "rc2(s2)", "lc1(lc1(s2))", "rc1(rc1(s2))"),
)
"""The 18 positions in their order: stack and buffer from their near ends, the outermost (1) and second (2) left (lc)
and right (rc) children of the two top words, and the outermost children's own. Words and tags are taken at all of them,
labels at the 12 children."""

FEATURES = 48
"""Columns: 18 words, 18 tags, 12 labels."""

UNSEEN_LABEL = "unseen label"
"""Why a projective sentence is left out: a relation that the training sentences have not."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """Sentences by number, padded. Column 0 is the root, the last column is :data:`NULL` in every row."""

    words: np.ndarray
    """``[S, W + 2]`` int32."""
    tags: np.ndarray
    """``[S, W + 2]`` int32."""
    lengths: np.ndarray
    """Words without the root, ``[S]``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """What the oracle does in every state on its way, sentence after sentence in their order.

    One example takes 98 bytes while every number fits in int16, 194 beyond; a sentence of n words gives 2n examples.
    """

    features: np.ndarray
    """``[M, 48]`` int16, or int32 where a number is above 32,767."""
    targets: np.ndarray
    """Numbers of the transitions, ``[M]`` int16."""
    sentences: int
    """How many sentences they come from."""
    left_out: Mapping[str, int]
    """How many sentences were left out, and why: a kind of tree, or :data:`UNSEEN_LABEL`."""


def encode(sentences: Sequence[Sentence], known: Vocabulary) -> Encoded:
    """Look up words and tags; :data:`UNKNOWN` stands for those that the vocabulary has not."""
    lengths = np.array([len(sentence.forms) for sentence in sentences], np.int64)
    shape = (len(sentences), int(lengths.max(initial=0)) + 2)
    words, tags = np.full(shape, NULL, np.int32), np.full(shape, NULL, np.int32)
    words[:, 0] = tags[:, 0] = ROOT
    for row, sentence in enumerate(sentences):
        here = slice(1, 1 + len(sentence.forms))
        words[row, here] = [known.words.get(form, UNKNOWN) for form in sentence.forms]
        tags[row, here] = [known.tags.get(tag, UNKNOWN) for tag in getattr(sentence, known.column)]
    return Encoded(words=words, tags=tags, lengths=lengths)


def encode_trees(sentences: Sequence[Sentence], known: Vocabulary) -> Trees:
    """Give the gold trees; the label is ``ABSENT`` where the transitions have it not."""
    numbers = (known.transitions.numbers(sentence.heads, sentence.relations) for sentence in sentences)
    return pad([sentence.heads for sentence in sentences], numbers)


def positions(state: ParserState) -> np.ndarray:
    """Give the words at :data:`POSITIONS`, ``[N, 18]``; ``ABSENT`` where there is none."""
    rows = np.arange(len(state.lengths))
    stack = state.from_top(3)
    columns = [stack, state.buffered(3)]
    for top in stack.T[:2]:
        left, right = state.leftmost[rows, top], state.rightmost[rows, top]
        children = (left[:, 0], right[:, 0], left[:, 1], right[:, 1])
        outer = (state.leftmost[rows, left[:, 0], 0], state.rightmost[rows, right[:, 0], 0])
        columns.append(np.stack((*children, *outer), axis=1))
    return np.concatenate(columns, axis=1)


def extract(state: ParserState, encoded: Encoded) -> np.ndarray:
    """Give the features of every row of a state, ``[N, 48]`` int32.

    Args:
        state: ``state.sentences`` are rows of ``encoded``.
        encoded: The sentences.

    References:
        Chen & Manning (2014). A fast and accurate dependency parser using neural networks, section 3.1.
        Departs from it in: nothing but the order of the columns, which is :data:`POSITIONS`.
    """
    at = positions(state)
    sentences = state.sentences[:, None]
    labels = state.labels[np.arange(len(at))[:, None], at[:, 6:]] + 1
    return np.concatenate([encoded.words[sentences, at], encoded.tags[sentences, at], labels], axis=1, dtype=np.int32)


def examples(sentences: Sequence[Sentence], known: Vocabulary) -> Examples:
    """Follow the static oracle through every sentence that it can build.

    Sentences whose trees are not projective or have several roots, or in which a relation was not seen in training, are
    left out and counted.

    Raises:
        ValueError: If the heads of a sentence are no tree, or no sentence is left.
    """
    left_out: Counter[str] = Counter()
    kept = []
    for number, sentence in enumerate(sentences):
        try:
            kind = kind_of_tree(sentence.heads)
        except ValueError as error:
            raise ValueError(f"sentence {number}, {' '.join(sentence.forms)!r}: {error}") from error
        if kind == PROJECTIVE and ABSENT in known.transitions.numbers(sentence.heads, sentence.relations):
            kind = UNSEEN_LABEL
        if kind == PROJECTIVE:
            kept.append(sentence)
        else:
            left_out[kind] += 1
    if not kept:
        raise ValueError(f"no sentence is left of {len(sentences)}: {dict(left_out)}")
    encoded, gold = encode(kept, known), encode_trees(kept, known)
    starts = 2 * (np.cumsum(encoded.lengths) - encoded.lengths)
    count = 2 * int(encoded.lengths.sum())
    small = max(known.sizes) <= np.iinfo(np.int16).max + 1
    features = np.empty((count, FEATURES), np.int16 if small else np.int32)
    targets = np.empty(count, np.int16)

    def follow(state: ParserState) -> np.ndarray:
        chosen = oracle(known.transitions, gold, state)
        done = state.following - 1 + (state.following - state.depths)  # shifts, and arcs
        here = starts[state.sentences] + done
        features[here] = extract(state, encoded)
        targets[here] = chosen
        return chosen

    run(known.transitions, encoded.lengths, follow)
    return Examples(features=features, targets=targets, sentences=len(kept), left_out=dict(left_out))
