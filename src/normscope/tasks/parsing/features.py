"""Features of a transition-based parser: ids of 18 words, 18 tags and 12 labels per state, and training examples."""

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
"""Ids of the special symbols of words and tags: absent word, artificial root, not in the vocabulary. Labels have only
the first: label l has the id 1 + l."""

SYMBOLS = 3
"""Number of special symbols, and so the id of the first word and of the first tag."""

TAGS = ("xpos", "upos")
"""Columns with tags."""


class Sentence(Protocol):
    """A sentence with its gold tags and tree; every sequence has one entry per word."""

    @property
    def forms(self) -> Sequence[str]:
        """Word forms."""
        ...

    @property
    def upos(self) -> Sequence[str]:
        """Universal part-of-speech tags."""
        ...

    @property
    def xpos(self) -> Sequence[str]:
        """Treebank-specific part-of-speech tags."""
        ...

    @property
    def heads(self) -> Sequence[int]:
        """Heads, counted from 1; 0 for the root."""
        ...

    @property
    def relations(self) -> Sequence[str]:
        """Labels of the arcs from the heads to the words."""
        ...


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Ids of words and tags, and the transitions, from training sentences only."""

    words: Mapping[str, int]
    """Form to id, from ``SYMBOLS``, by decreasing frequency."""
    tags: Mapping[str, int]
    """Tag to id, from ``SYMBOLS``."""
    transitions: Transitions
    """Transitions of the parser."""
    column: str
    """Column of the tags: a member of :data:`TAGS`."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of ids of words, tags and labels, special symbols included."""
        return SYMBOLS + len(self.words), SYMBOLS + len(self.tags), 1 + len(self.transitions.labels)


def vocabulary(sentences: Sequence[Sentence], *, column: str = "xpos", least_count: int = 2) -> Vocabulary:
    """Build the vocabulary of the training sentences.

    Args:
        sentences: The training part, non-projective sentences included.
        column: Column of the tags, ``"xpos"`` or ``"upos"``.
        least_count: Minimum count of a form in the vocabulary. Rarer forms are :data:`UNKNOWN` in training, too, so
            that the parser learns to handle unknown words.

    Raises:
        ValueError: If ``column`` is not one of these, or there are no sentences.
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
"""The 18 positions in their order: top of the stack and front of the buffer, the outermost (1) and second (2) left (lc)
and right (rc) children of the two top words, and the outermost children of these. Words and tags are taken at all
positions, labels at the 12 children."""

FEATURES = 48
"""Number of features: 18 words, 18 tags, 12 labels."""

UNSEEN_LABEL = "unseen label"
"""Reason to exclude a projective sentence: a relation that does not occur in the training sentences."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """Ids of sentences, padded. Column 0 is the root, the last column is :data:`NULL` in every row."""

    words: np.ndarray
    """``[S, W + 2]`` int32."""
    tags: np.ndarray
    """``[S, W + 2]`` int32."""
    lengths: np.ndarray
    """Numbers of words without the root, ``[S]``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """The oracle's transition for every state on its path, sentence by sentence.

    An example takes 98 bytes if all ids fit in int16, else 194; a sentence of n words yields 2n examples.
    """

    features: np.ndarray
    """``[M, 48]`` int16, or int32 if an id exceeds 32,767."""
    targets: np.ndarray
    """Ids of the transitions, ``[M]`` int16."""
    sentences: int
    """Number of source sentences."""
    left_out: Mapping[str, int]
    """Numbers of excluded sentences by reason: a kind of tree, or :data:`UNSEEN_LABEL`."""


def encode(sentences: Sequence[Sentence], known: Vocabulary) -> Encoded:
    """Return the ids of words and tags; :data:`UNKNOWN` if not in the vocabulary."""
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
    """Return the gold trees; labels without a transition are ``ABSENT``."""
    numbers = (known.transitions.numbers(sentence.heads, sentence.relations) for sentence in sentences)
    return pad([sentence.heads for sentence in sentences], numbers)


def positions(state: ParserState) -> np.ndarray:
    """Return the indices of the words at :data:`POSITIONS`, ``[N, 18]``, or ``ABSENT``."""
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
    """Return the features of every row of a state, ``[N, 48]`` int32.

    Args:
        state: Parser state; ``state.sentences`` are rows of ``encoded``.
        encoded: Ids of the sentences.

    References:
        Chen & Manning (2014). A fast and accurate dependency parser using neural networks, section 3.1.
        Departs from it in: the order of the columns, which is :data:`POSITIONS`.
    """
    at = positions(state)
    sentences = state.sentences[:, None]
    labels = state.labels[np.arange(len(at))[:, None], at[:, 6:]] + 1
    return np.concatenate([encoded.words[sentences, at], encoded.tags[sentences, at], labels], axis=1, dtype=np.int32)


def examples(sentences: Sequence[Sentence], known: Vocabulary) -> Examples:
    """Compute the static oracle's examples for every sentence that it can build.

    Sentences are excluded and counted if their tree is not projective or has several roots, or if a relation did not
    occur in training.

    Raises:
        ValueError: If the heads of a sentence are not a tree, or every sentence is excluded.
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
        raise ValueError(f"all {len(sentences)} sentences were left out: {dict(left_out)}")
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
