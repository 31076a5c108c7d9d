"""The arc-standard transition system: its transitions, its static oracle, greedy parsing of many sentences at once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

SHIFT, LEFT, RIGHT, ROOT = range(4)
"""Kinds of transitions. ``ROOT`` is the right-arc from the artificial root, the last transition of every sentence."""

ABSENT = -1
"""Absent word, head or label. As an index it is the last column of a state's arrays, which is never written."""

BELOW = 2
"""Number of empty places below the root of every stack, so that the third word from the top always exists."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ParserState:
    """State of the parser for N sentences; its arrays are modified in place.

    Word 0 is the artificial root; words 1 to n are those of the sentence. Columns beyond a sentence's length are
    unused, and the last column, which is the index ``ABSENT``, always contains ``ABSENT``.
    """

    sentences: np.ndarray
    """Index of the caller's sentence for every row, ``[N]``."""
    lengths: np.ndarray
    """Number of words of every sentence without the root, ``[N]``."""
    stack: np.ndarray
    """Words from the bottom up, after ``BELOW`` empty places, ``[N, BELOW + 1 + W]``."""
    depths: np.ndarray
    """Number of words on the stack, the root included, ``[N]``."""
    following: np.ndarray
    """First word of the buffer, ``[N]``; the length plus one if the buffer is empty."""
    heads: np.ndarray
    """Heads assigned so far, ``[N, W + 2]``."""
    labels: np.ndarray
    """Ids of the labels assigned so far, ``[N, W + 2]``."""
    leftmost: np.ndarray
    """The outermost left child and the second, ``[N, W + 2, 2]``."""
    rightmost: np.ndarray
    """The outermost right child and the second, ``[N, W + 2, 2]``."""
    children: np.ndarray
    """Number of children so far, ``[N, W + 2]``."""

    @classmethod
    def start(cls, lengths: np.ndarray, sentences: np.ndarray | None = None) -> "ParserState":
        """Put the root on the stack and all words into the buffer.

        Args:
            lengths: Number of words of every sentence, ``[N]``, at least 1.
            sentences: Indices of the sentences, ``[N]``; 0 to N - 1 by default.

        Raises:
            ValueError: If a sentence has no words.
        """
        rows, width = len(lengths), int(max(lengths, default=0))
        if rows and min(lengths) < 1:
            raise ValueError(f"a sentence must have at least one word, got none in number {int(np.argmin(lengths))}")

        def absent(*shape: int) -> np.ndarray:
            return np.full((rows, *shape), ABSENT, np.int32)

        stack = absent(BELOW + 1 + width)
        stack[:, BELOW] = 0
        return cls(
            sentences=np.arange(rows) if sentences is None else sentences,
            lengths=np.asarray(lengths, np.int32),
            stack=stack,
            depths=np.ones(rows, np.int32),
            following=np.ones(rows, np.int32),
            heads=absent(width + 2),
            labels=absent(width + 2),
            leftmost=absent(width + 2, 2),
            rightmost=absent(width + 2, 2),
            children=np.zeros((rows, width + 2), np.int32),
        )

    def first(self, rows: int) -> "ParserState":
        """Return the first rows as views of the same arrays."""
        return ParserState(**{field.name: getattr(self, field.name)[:rows] for field in fields(self)})

    def from_top(self, count: int) -> np.ndarray:
        """Return the top words of the stack, ``[N, count]``, up to 3; ``ABSENT`` below the root."""
        places = self.depths[:, None] + BELOW - 1 - np.arange(count)
        return np.take_along_axis(self.stack, places, axis=1)

    def buffered(self, count: int) -> np.ndarray:
        """Return the first words of the buffer, ``[N, count]``; ``ABSENT`` beyond its end."""
        words = self.following[:, None] + np.arange(count, dtype=np.int32)
        return np.where(words <= self.lengths[:, None], words, ABSENT)

    def legal_kinds(self) -> np.ndarray:
        """Return the legal kinds of transitions, ``[N, 4]`` bool; all False for a parsed sentence."""
        waiting = self.following <= self.lengths
        arcs = self.depths > 2
        return np.stack([waiting, arcs, arcs, (self.depths == 2) & ~waiting], axis=1)

    def apply(self, kinds: np.ndarray, labels: np.ndarray) -> None:
        """Apply a transition in every row.

        Args:
            kinds: ``SHIFT``, ``LEFT``, ``RIGHT`` or ``ROOT``, ``[N]``.
            labels: Ids of the arc labels, ``[N]``; ignored for shifts.

        Raises:
            ValueError: If a transition is not legal; the state is then unchanged.
        """
        rows = np.arange(len(self.lengths))
        illegal = np.flatnonzero(~self.legal_kinds()[rows, kinds])
        if len(illegal):
            row = illegal[0]
            raise ValueError(
                f"{('shift', 'left-arc', 'right-arc', 'root arc')[kinds[row]]} is not legal in sentence "
                f"{self.sentences[row]} with {self.depths[row]} on the stack, the root among them, and "
                f"{self.lengths[row] + 1 - self.following[row]} in the buffer"
            )
        shifted = rows[kinds == SHIFT]
        self.stack[shifted, BELOW + self.depths[shifted]] = self.following[shifted]
        self.following[shifted] += 1
        self.depths[shifted] += 1
        for here, children in ((rows[kinds == LEFT], self.leftmost), (rows[kinds >= RIGHT], self.rightmost)):
            top = BELOW - 1 + self.depths[here]
            s1, s2 = self.stack[here, top], self.stack[here, top - 1]
            head, child = (s1, s2) if children is self.leftmost else (s2, s1)
            self.heads[here, child] = head
            self.labels[here, child] = labels[here]
            # A new child is always further out than earlier ones.
            children[here, head, 1] = children[here, head, 0]
            children[here, head, 0] = child
            self.children[here, head] += 1
            self.stack[here, top - 1] = head
            self.depths[here] -= 1


PROJECTIVE, NON_PROJECTIVE, SEVERAL_ROOTS = "projective", "non-projective", "several roots"
"""Kinds of trees; the arc-standard system can build only projective trees."""


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """The transitions by id: shift, a left-arc per label, a right-arc per label, the root arcs.

    With s1 the top of the stack and s2 the word below it, *shift* moves the next word of the buffer onto the stack;
    *left-arc* makes s1 the head of s2 and takes s2 off; *right-arc* makes s2 the head of s1 and takes s1 off; a *root
    arc* is the right-arc from the artificial root, legal when s1 is the only word left. A sentence of n words takes n
    shifts and n arcs, and exactly one word hangs on the root.

    Raises:
        ValueError: If there is no root label, or a label occurs twice in a list.

    References:
        Nivre (2004). Incrementality in deterministic dependency parsing, section 3.
        Chen & Manning (2014). A fast and accurate dependency parser using neural networks, section 2.
        Departs from them in: root arcs have separate labels, those of the root arcs in the training trees.
    """

    arc_labels: tuple[str, ...]
    """Labels of arcs between words."""
    root_labels: tuple[str, ...]
    """Labels of root arcs, at least one."""

    def __post_init__(self) -> None:
        if not self.root_labels:
            raise ValueError("root_labels must hold at least one label, got none")
        for name in ("arc_labels", "root_labels"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name} must hold every label once, got {getattr(self, name)}")

    def __len__(self) -> int:
        """Return the number of transitions."""
        return len(self.kinds)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels by id: those of arcs, then those of root arcs."""
        return self.arc_labels + self.root_labels

    @cached_property
    def kinds(self) -> np.ndarray:
        """Kind of every transition, ``[T]``."""
        arcs = len(self.arc_labels)
        return np.repeat([SHIFT, LEFT, RIGHT, ROOT], [1, arcs, arcs, len(self.root_labels)])

    @cached_property
    def label_numbers(self) -> np.ndarray:
        """Label assigned by every transition, ``[T]``; ``ABSENT`` for shift."""
        arcs = len(self.arc_labels)
        return np.array([ABSENT, *range(arcs), *range(len(self.labels))])

    def numbers(self, heads: Sequence[int], relations: Sequence[str]) -> np.ndarray:
        """Return the label ids of a sentence, ``[n]``; ``ABSENT`` for unknown relations."""
        arcs = {label: number for number, label in enumerate(self.arc_labels)}
        roots = {label: number for number, label in enumerate(self.root_labels, start=len(arcs))}
        pairs = zip(heads, relations, strict=True)
        return np.array([(arcs if head else roots).get(relation, ABSENT) for head, relation in pairs])


@dataclass(frozen=True, kw_only=True, eq=False)
class Trees:
    """Trees of S sentences, padded with ``ABSENT``; column j is word j, and column 0, the root, is padding."""

    heads: np.ndarray
    """``[S, 1 + W]`` int32; 0 is the root."""
    labels: np.ndarray
    """Ids of the labels, ``[S, 1 + W]`` int32."""
    lengths: np.ndarray
    """Words of every sentence, ``[S]``."""


def kind_of_tree(heads: Sequence[int]) -> str:
    """Return the kind of a tree.

    Args:
        heads: Head of every word, counted from 1; 0 for the root.

    Returns:
        :data:`PROJECTIVE`; :data:`NON_PROJECTIVE` if two arcs cross, with the root left of the first word; or
        :data:`SEVERAL_ROOTS` if several words are attached to the root.

    Raises:
        ValueError: If the heads are not a tree: a head is out of range, or the heads form a cycle.
    """
    up = np.array([0, *heads])
    if len(up) == 1 or up.min() < 0 or up.max() >= len(up):
        raise ValueError(f"heads must be one or more numbers from 0 to their count, got {list(heads)}")
    ends = up
    for _ in range(len(up).bit_length()):
        ends = ends[ends]  # twice as far up each time
    if ends.any():
        raise ValueError(f"word {np.flatnonzero(ends)[0]} must descend from the root, got heads {list(heads)}")
    if np.count_nonzero(up[1:] == 0) > 1:
        return SEVERAL_ROOTS
    words = np.arange(1, len(up))
    left, right = np.minimum(up[1:], words), np.maximum(up[1:], words)
    inside = (left[:, None] < left) & (left < right[:, None])
    return NON_PROJECTIVE if (inside & (right[:, None] < right)).any() else PROJECTIVE


def pad(heads: Iterable[Sequence[int]], labels: Iterable[Sequence[int] | np.ndarray]) -> Trees:
    """Return padded trees from their sequences of heads and of label ids."""
    pairs = list(zip(heads, labels, strict=True))
    lengths = np.array([len(each) for each, _ in pairs], np.int64)
    shape = (len(pairs), 1 + int(lengths.max(initial=0)))
    trees = Trees(heads=np.full(shape, ABSENT, np.int32), labels=np.full(shape, ABSENT, np.int32), lengths=lengths)
    for row, (each_heads, each_labels) in enumerate(pairs):
        trees.heads[row, 1 : 1 + len(each_heads)] = each_heads
        trees.labels[row, 1 : 1 + len(each_heads)] = each_labels
    return trees


def run(transitions: Transitions, lengths: np.ndarray, choose: Callable[[ParserState], np.ndarray]) -> Trees:
    """Parse many sentences in parallel, with one transition per step in each.

    Args:
        transitions: The transition system.
        lengths: Number of words of every sentence, ``[S]``.
        choose: Function of a state; returns the id of a legal transition for every row, ``[N]``. The rows are the
            unfinished sentences, longest first; ``state.sentences`` contains their indices.

    Raises:
        ValueError: If a sentence has no words or a chosen transition is not legal.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    state = ParserState.start(lengths[order], order)
    for step in range(2 * int(lengths.max(initial=0))):
        active = state.first(int(np.count_nonzero(2 * lengths > step)))
        chosen = choose(active)
        active.apply(transitions.kinds[chosen], transitions.label_numbers[chosen])
    back = np.argsort(order)
    return Trees(heads=state.heads[back, :-1], labels=state.labels[back, :-1], lengths=lengths)


def parse(transitions: Transitions, lengths: np.ndarray, score: Callable[[ParserState], np.ndarray]) -> Trees:
    """Parse greedily by the legal transition with the highest score; the first if several are equal.

    Args:
        transitions: The transition system.
        lengths: Number of words of every sentence, ``[S]``.
        score: Function of a state of N rows, see :func:`run`; returns scores ``[N, T]``. NaN counts as the lowest
            score, so that a diverged network still yields trees; its loss shows the divergence.

    Raises:
        ValueError: If a sentence has no words, or the scores have another shape.
    """

    def choose(state: ParserState) -> np.ndarray:
        scores = score(state)
        if scores.shape != (len(state.lengths), len(transitions)):
            raise ValueError(f"scores must be [{len(state.lengths)}, {len(transitions)}], got {list(scores.shape)}")
        finite = np.nan_to_num(scores, nan=np.finfo(scores.dtype).min)
        return np.where(state.legal_kinds()[:, transitions.kinds], finite, -np.inf).argmax(axis=1)

    return run(transitions, lengths, choose)


def oracle(transitions: Transitions, gold: Trees, state: ParserState) -> np.ndarray:
    """Return the static oracle's next transition for every row, ``[N]``: arcs as early as possible, left-arcs first.

    Left-arc if s1 is the head of s2; right-arc or root arc if s2 is the head of s1 and s1 has all its children; else
    shift.

    Args:
        transitions: The transition system.
        gold: Projective trees with a single root, see :func:`kind_of_tree`, and known labels.
        state: A state on the path to these trees; ``state.sentences`` are rows of ``gold``.

    Raises:
        ValueError: If the label of an arc is ``ABSENT``.

    References:
        Nivre (2008). Algorithms for deterministic incremental dependency parsing, section 4.
    """
    rows = np.arange(len(state.lengths))
    s1, s2 = state.from_top(2).T
    heads = gold.heads[state.sentences]
    wanted = np.count_nonzero(heads == s1[:, None], axis=1)
    left = (state.depths > 2) & (heads[rows, s2] == s1)
    right = (state.depths > 1) & (heads[rows, s1] == s2) & (state.children[rows, s1] == wanted)
    label = gold.labels[state.sentences, np.where(left, s2, s1)]
    unknown = np.flatnonzero((left | right) & (label == ABSENT))
    if len(unknown):
        raise ValueError(f"sentence {state.sentences[unknown[0]]} has a label without a transition")
    return np.where(left, 1 + label, np.where(right, 1 + len(transitions.arc_labels) + label, 0))
