"""The arc-standard system against a textbook's list-based one, trees made by hand or at random, and a treebank."""

from collections.abc import Sequence

import networkx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from normscope.tasks.parsing.transitions import (
    ABSENT,
    NON_PROJECTIVE,
    PROJECTIVE,
    SEVERAL_ROOTS,
    ParserState,
    Transitions,
    kind_of_tree,
    oracle,
    pad,
    parse,
    run,
)
from support.treebank import CAT, read_treebank

TRANSITIONS = Transitions(arc_labels=("acl", "advmod", "nsubj", "obj", "poss", "punct"), root_labels=("root",))
SHIFTED, LEFT_ADVMOD, LEFT_NSUBJ, LEFT_POSS = 0, 2, 3, 5
RIGHT_ACL, RIGHT_ADVMOD, RIGHT_OBJ, RIGHT_PUNCT, ROOT_ARC = 7, 8, 10, 12, 13
CAT_SEQUENCE = [
    *(SHIFTED, SHIFTED, LEFT_POSS, SHIFTED, SHIFTED, LEFT_ADVMOD, LEFT_NSUBJ),
    *(SHIFTED, SHIFTED, SHIFTED, RIGHT_ADVMOD, RIGHT_ACL, RIGHT_OBJ, SHIFTED, RIGHT_PUNCT, ROOT_ARC),
]
CROSSED = (3, 4, 0, 3)
"""1 hangs on 3, and 2 on 4: the arcs cross."""


def textbook(transitions: Transitions, length: int, sequence: Sequence[int]) -> tuple[list[int], list[str]]:
    """Build a tree with lists, one sentence and one transition at a time."""
    arcs = len(transitions.arc_labels)
    stack, buffer = [0], list(range(1, length + 1))
    heads, labels = [ABSENT] * (length + 1), [""] * (length + 1)
    for number in sequence:
        if number == 0:
            stack.append(buffer.pop(0))
            continue
        if number <= arcs:
            child, head, label = stack.pop(-2), stack[-1], transitions.arc_labels[number - 1]
        elif number <= 2 * arcs:
            child, head, label = stack.pop(), stack[-1], transitions.arc_labels[number - 1 - arcs]
        else:
            child, head, label = stack.pop(), stack[-1], transitions.root_labels[number - 1 - 2 * arcs]
            assert (stack, buffer) == ([0], [])
        heads[child], labels[child] = head, label
    assert (stack, buffer) == ([0], [])
    return heads[1:], labels[1:]


def crossing_free(heads: Sequence[int]) -> bool:
    """Test projectivity by its definition: all words between a head and its child descend from the head."""

    def ancestors(word: int) -> list[int]:
        return [word] if word == 0 else [word, *ancestors(heads[word - 1])]

    return all(
        head in ancestors(between)
        for child, head in enumerate(heads, start=1)
        for between in range(min(head, child) + 1, max(head, child))
    )


def sequences(transitions: Transitions, gold_heads: list, gold_labels: list) -> list[list[int]]:
    """Ask the oracle for the transitions of every sentence."""
    gold = pad(gold_heads, gold_labels)
    found: list[list[int]] = [[] for _ in gold_heads]

    def follow(state: ParserState) -> np.ndarray:
        chosen = oracle(transitions, gold, state)
        for sentence, number in zip(state.sentences, chosen, strict=True):
            found[sentence].append(int(number))
        return chosen

    run(transitions, gold.lengths, follow)
    return found


def test_oracle_gives_the_sequence_found_by_hand() -> None:
    assert sequences(TRANSITIONS, [CAT.heads], [TRANSITIONS.numbers(CAT.heads, CAT.relations)]) == [CAT_SEQUENCE]


def test_kinds_and_labels_of_the_transitions() -> None:
    assert len(TRANSITIONS) == 14
    assert TRANSITIONS.kinds.tolist() == [0] + [1] * 6 + [2] * 6 + [3]
    names = [TRANSITIONS.labels[number] for number in TRANSITIONS.label_numbers[1:]]
    assert names == [*TRANSITIONS.arc_labels, *TRANSITIONS.arc_labels, "root"]


def test_a_name_that_stands_on_both_sides_of_the_root_is_two_labels() -> None:
    transitions = Transitions(arc_labels=("dep",), root_labels=("dep", "root"))
    assert transitions.numbers([0, 1, 1], ["dep", "dep", "root"]).tolist() == [1, 0, ABSENT]


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_oracle_rebuilds_every_projective_tree_of_a_treebank(part: str) -> None:
    sentences = [each for each in read_treebank(part) if kind_of_tree(each.heads) == PROJECTIVE]
    names = sorted({name for each in sentences for name in each.relations})
    transitions = Transitions(arc_labels=tuple(names), root_labels=("root",))
    numbers = [transitions.numbers(each.heads, each.relations) for each in sentences]
    for sentence, sequence in zip(
        sentences, sequences(transitions, [each.heads for each in sentences], numbers), strict=True
    ):
        heads, labels = textbook(transitions, len(sentence.forms), sequence)
        assert (heads, labels) == (list(sentence.heads), list(sentence.relations))


@pytest.mark.parametrize(
    ("part", "sentences", "crossed"),
    [pytest.param("train", 12544, 288, marks=pytest.mark.slow), ("dev", 2001, 31), ("test", 2077, 26)],
)
@pytest.mark.real_data("ud-english-ewt")
def test_trees_of_a_treebank_that_are_not_projective(part: str, sentences: int, crossed: int) -> None:
    heads = [each.heads for each in read_treebank(part)]
    kinds = [kind_of_tree(each) for each in heads]
    assert (len(kinds), kinds.count(NON_PROJECTIVE), kinds.count(SEVERAL_ROOTS)) == (sentences, crossed, 0)
    assert [kind == PROJECTIVE for kind in kinds] == [crossing_free(each) for each in heads]


@pytest.mark.usefixtures("small_data")
def test_crossing_trees_of_a_treebank_are_found() -> None:
    heads = [each.heads for each in read_treebank("train")]
    kinds = [kind_of_tree(each) for each in heads]
    assert 10 < kinds.count(NON_PROJECTIVE) < 100
    assert [kind == PROJECTIVE for kind in kinds] == [crossing_free(each) for each in heads]


@given(st.integers(1, 7).flatmap(lambda n: st.lists(st.integers(0, n), min_size=n, max_size=n)))
@example([2, 0, 2])
@example(list(CROSSED))
@example([0, 0])
@example([3, 0, 2, 1])
def test_kind_of_tree_agrees_with_a_graph_library_and_the_definition(heads: list[int]) -> None:
    graph = networkx.DiGraph([(head, child) for child, head in enumerate(heads, start=1)])
    if len(graph) != len(heads) + 1 or not networkx.is_arborescence(graph):
        with pytest.raises(ValueError, match="must descend from the root"):
            kind_of_tree(heads)
    elif heads.count(0) > 1:
        assert kind_of_tree(heads) == SEVERAL_ROOTS
    else:
        assert kind_of_tree(heads) == (PROJECTIVE if crossing_free(heads) else NON_PROJECTIVE)


@pytest.mark.parametrize("heads", [[], [2], [0, -1], [0, 3]])
def test_heads_out_of_range_are_refused(heads: list[int]) -> None:
    with pytest.raises(ValueError, match=r"numbers from 0 to their count, got \["):
        kind_of_tree(heads)


SCORES = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2**32 - 1), st.lists(SCORES, max_size=4))
def test_parsing_gives_projective_trees_whatever_the_scores(lengths: list[int], seed: int, odd: list[float]) -> None:
    rng = np.random.default_rng(seed)

    def score(state: ParserState) -> np.ndarray:
        scores = rng.standard_normal((len(state.lengths), len(TRANSITIONS))).astype(np.float32)
        for value in odd:
            scores[:, rng.integers(scores.shape[1])] = value
        return scores

    trees = parse(TRANSITIONS, np.array(lengths), score)
    for row, length in enumerate(lengths):
        heads = trees.heads[row, 1 : 1 + length]
        assert kind_of_tree(heads.tolist()) == PROJECTIVE
        assert [TRANSITIONS.labels[label] == "root" for label in trees.labels[row, 1 : 1 + length]] == (
            heads == 0
        ).tolist()
        assert (trees.heads[row, 1 + length :] == ABSENT).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_equal_scores_of_any_kind_give_trees(value: float) -> None:
    trees = parse(TRANSITIONS, np.array([3]), lambda state: np.full((1, len(TRANSITIONS)), value))
    assert kind_of_tree(trees.heads[0, 1:].tolist()) == PROJECTIVE


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_a_batch_equals_its_sentences_one_by_one(lengths: list[int], seed: int) -> None:
    table = np.random.default_rng(seed).standard_normal((len(lengths), 20, len(TRANSITIONS)))

    def scorer(first: int):
        def score(state: ParserState) -> np.ndarray:
            done = state.following - 1 + np.count_nonzero(state.heads != ABSENT, axis=1)
            return table[first + state.sentences, done]

        return score

    batch = parse(TRANSITIONS, np.array(lengths), scorer(0))
    for row, length in enumerate(lengths):
        alone = parse(TRANSITIONS, np.array([length]), scorer(row))
        assert np.array_equal(alone.heads[0], batch.heads[row, : 1 + length])
        assert np.array_equal(alone.labels[0], batch.labels[row, : 1 + length])


@pytest.mark.parametrize(("heads", "wrong"), [(CROSSED, "shift"), ((0, 0), "root arc")])
def test_oracle_cannot_build_other_trees(heads: tuple[int, ...], wrong: str) -> None:
    labels = [[6 if head == 0 else 0 for head in heads]]
    with pytest.raises(ValueError, match=f"{wrong} is not legal in sentence 0"):
        sequences(TRANSITIONS, [heads], labels)


def test_oracle_refuses_a_label_that_no_transition_gives() -> None:
    with pytest.raises(ValueError, match="sentence 0 has a label without a transition"):
        sequences(TRANSITIONS, [(2, 0)], [[ABSENT, 6]])


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one label, got none"):
        Transitions(arc_labels=("a",), root_labels=())
    with pytest.raises(ValueError, match=r"arc_labels must hold every label once, got \('a', 'a'\)"):
        Transitions(arc_labels=("a", "a"), root_labels=("r",))
    with pytest.raises(ValueError, match=r"scores must be \[1, 14\], got \[1, 13\]"):
        parse(TRANSITIONS, np.array([2]), lambda state: np.zeros((1, 13)))


def test_no_sentences_give_no_trees() -> None:
    trees = parse(TRANSITIONS, np.array([], np.int64), lambda state: np.zeros((0, 14)))
    assert trees.heads.shape == (0, 1)
