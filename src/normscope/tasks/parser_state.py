"""Where a transition-based parser stands: stack, buffer and arcs so far, of many sentences at once."""

from dataclasses import dataclass, fields

import numpy as np

SHIFT, LEFT, RIGHT, ROOT = range(4)
"""Kinds of transitions. ``ROOT`` is the right-arc from the artificial root, the last transition of every sentence."""

ABSENT = -1
"""No such word, head or label. As a position it is the last column of a state's arrays, which nothing is put in."""

BELOW = 2
"""Empty places below the root on every stack, so that the third word from the top can always be asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """Where the parsing of N sentences stands; its arrays change in place.

    Word 0 is the artificial root, words 1 to n are the sentence's. Columns beyond a sentence's length are never used,
    and the last one, which ``ABSENT`` means as an index, holds ``ABSENT`` for ever.
    """

    sentences: np.ndarray
    """Which of the caller's sentences a row is, ``[N]``."""
    lengths: np.ndarray
    """Words of a sentence without the root, ``[N]``."""
    stack: np.ndarray
    """Words from the bottom up, after ``BELOW`` empty places, ``[N, BELOW + 1 + W]``."""
    depths: np.ndarray
    """Words on the stack, the root among them, ``[N]``."""
    following: np.ndarray
    """The first word of the buffer, ``[N]``; one more than the length where it is empty."""
    heads: np.ndarray
    """Heads given so far, ``[N, W + 2]``."""
    labels: np.ndarray
    """Numbers of the labels given so far, ``[N, W + 2]``."""
    leftmost: np.ndarray
    """The outermost left child and the second, ``[N, W + 2, 2]``."""
    rightmost: np.ndarray
    """The outermost right child and the second, ``[N, W + 2, 2]``."""
    children: np.ndarray
    """How many children a word has so far, ``[N, W + 2]``."""

    @classmethod
    def start(cls, lengths: np.ndarray, sentences: np.ndarray | None = None) -> "State":
        """Put the root on the stack and all words into the buffer.

        Args:
            lengths: Words of every sentence, ``[N]``, at least one each.
            sentences: Their numbers at the caller's, ``[N]``; by default 0 to N - 1.

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

    def first(self, rows: int) -> "State":
        """Give the first rows, as views: what changes there changes here."""
        return State(**{field.name: getattr(self, field.name)[:rows] for field in fields(self)})

    def from_top(self, count: int) -> np.ndarray:
        """Give the top words of the stack, ``[N, count]``, up to 3; ``ABSENT`` below the root."""
        places = self.depths[:, None] + BELOW - 1 - np.arange(count)
        return np.take_along_axis(self.stack, places, axis=1)

    def buffered(self, count: int) -> np.ndarray:
        """Give the first words of the buffer, ``[N, count]``; ``ABSENT`` beyond its end."""
        words = self.following[:, None] + np.arange(count, dtype=np.int32)
        return np.where(words <= self.lengths[:, None], words, ABSENT)

    def legal_kinds(self) -> np.ndarray:
        """Say which kinds of transitions are legal, ``[N, 4]`` bool; none is when a sentence has ended."""
        waiting = self.following <= self.lengths
        arcs = self.depths > 2
        return np.stack([waiting, arcs, arcs, (self.depths == 2) & ~waiting], axis=1)

    def apply(self, kinds: np.ndarray, labels: np.ndarray) -> None:
        """Make one transition in every row.

        Args:
            kinds: ``SHIFT``, ``LEFT``, ``RIGHT`` or ``ROOT``, ``[N]``.
            labels: Numbers of the labels of the arcs, ``[N]``; unread for shifts.

        Raises:
            ValueError: If a transition is not legal; nothing has changed then.
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
            # A new child always lies further out than those before it.
            children[here, head, 1] = children[here, head, 0]
            children[here, head, 0] = child
            self.children[here, head] += 1
            self.stack[here, top - 1] = head
            self.depths[here] -= 1
