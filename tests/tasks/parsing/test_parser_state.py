"""The state of the arc-standard system, followed by hand through one sentence."""

import numpy as np
import pytest

from normscope.tasks.parsing.transitions import ABSENT, LEFT, RIGHT, ROOT, SHIFT, ParserState
from support.treebank import CAT

CAT_SEQUENCE = (
    *((SHIFT, ""), (SHIFT, ""), (LEFT, "poss"), (SHIFT, ""), (SHIFT, ""), (LEFT, "advmod"), (LEFT, "nsubj")),
    *((SHIFT, ""), (SHIFT, ""), (SHIFT, ""), (RIGHT, "advmod"), (RIGHT, "acl"), (RIGHT, "obj")),
    *((SHIFT, ""), (RIGHT, "punct"), (ROOT, "root")),
)
NAMES = sorted(set(CAT.relations))


def follow(state: ParserState, steps: int) -> None:
    """Make the first transitions of the sentence in every row."""
    rows = len(state.lengths)
    for kind, name in CAT_SEQUENCE[:steps]:
        state.apply(np.full(rows, kind), np.full(rows, NAMES.index(name) if name else ABSENT))


def test_the_sequence_found_by_hand_gives_the_tree() -> None:
    state = ParserState.start(np.array([8, 8]))
    follow(state, len(CAT_SEQUENCE))
    for row in range(2):
        assert state.heads[row, 1:9].tolist() == list(CAT.heads)
        assert [NAMES[number] for number in state.labels[row, 1:9]] == list(CAT.relations)
    assert state.from_top(2).tolist() == [[0, ABSENT], [0, ABSENT]]
    assert not state.legal_kinds().any()
    # The last column is what ABSENT reads.
    for array in (state.heads, state.labels, state.leftmost, state.rightmost):
        assert (array[:, -1] == ABSENT).all()


def test_children_counted_from_the_outermost() -> None:
    state = ParserState.start(np.array([8]))
    follow(state, len(CAT_SEQUENCE) - 1)
    assert state.leftmost[0, 4].tolist() == [2, 3]
    assert state.rightmost[0, 4].tolist() == [8, 5]
    assert state.children[0].tolist() == [0, 0, 1, 0, 4, 1, 1, 0, 0, 0]
    assert state.from_top(3).tolist() == [[4, 0, ABSENT]]
    assert state.buffered(3).tolist() == [[ABSENT, ABSENT, ABSENT]]
    assert state.legal_kinds().tolist() == [[False, False, False, True]]


def test_the_first_rows_are_views() -> None:
    state = ParserState.start(np.array([8, 8]), np.array([5, 3]))
    first = state.first(1)
    assert first.sentences.tolist() == [5]
    follow(first, 3)
    assert state.depths.tolist() == [2, 1]
    assert state.heads[:, 1].tolist() == [2, ABSENT]


def test_a_sentence_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one word, got none in number 1"):
        ParserState.start(np.array([3, 0]))
    assert ParserState.start(np.array([], np.int64)).heads.shape == (0, 2)


def test_buffer_ends_with_its_own_sentence() -> None:
    assert ParserState.start(np.array([1, 4])).buffered(3).tolist() == [[1, ABSENT, ABSENT], [1, 2, 3]]


def test_root_arc_waits_for_the_end_and_the_root_is_never_a_child() -> None:
    state = ParserState.start(np.array([2]))
    assert state.legal_kinds().tolist() == [[True, False, False, False]]
    state.apply(np.array([SHIFT]), np.array([ABSENT]))
    assert state.legal_kinds().tolist() == [[True, False, False, False]]
    state.apply(np.array([SHIFT]), np.array([ABSENT]))
    assert state.legal_kinds().tolist() == [[False, True, True, False]]


def test_an_illegal_transition_is_refused_and_changes_nothing() -> None:
    state = ParserState.start(np.array([2, 1]))
    with pytest.raises(
        ValueError, match=r"left-arc is not legal in sentence 1 with 1 on the stack, .* and 1 in the buffer"
    ):
        state.apply(np.array([SHIFT, 1]), np.array([ABSENT, 0]))
    assert state.depths.tolist() == [1, 1]
