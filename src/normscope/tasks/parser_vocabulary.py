"""What a transition-based parser knows by number: words, tags and transitions, from training sentences alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from normscope.tasks.arc_standard import Transitions

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
