"""The 48 features against two states worked out by hand and a slow reading of the definition."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from normscope.tasks.parsing.features import (
    NULL,
    POSITIONS,
    ROOT,
    SYMBOLS,
    UNKNOWN,
    UNSEEN_LABEL,
    Vocabulary,
    encode,
    examples,
    extract,
    vocabulary,
)
from normscope.tasks.parsing.transitions import NON_PROJECTIVE, SEVERAL_ROOTS, ParserState, Trees, parse
from support.treebank import CAT, CROSSED, Sentence, read_treebank

pytestmark = pytest.mark.usefixtures("small_data")

KNOWN = vocabulary([CAT], least_count=1)


def named(words: str, tags: str, labels: str) -> list[int]:
    """Write features by name; '-' is no word, 'ROOT' the root."""
    symbols = {"-": NULL, "ROOT": ROOT}
    names = {name: 1 + number for number, name in enumerate(KNOWN.transitions.labels)}
    return [
        *(symbols[word] if word in symbols else KNOWN.words[word] for word in words.split()),
        *(symbols[tag] if tag in symbols else KNOWN.tags[tag] for tag in tags.split()),
        *(NULL if label == "-" else names[label] for label in labels.split()),
    ]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, named("ROOT - - my cat today" + " -" * 12, "ROOT - - PRP$ NN NN" + " -" * 12, "- " * 12)),
        (
            14,  # the stack is ROOT saw ., and dogs running fast hang below saw
            named(
                ". saw ROOT - - -" + " -" * 6 + " cat dogs today - my running",
                ". VBD ROOT - - -" + " -" * 6 + " NN NNS NN - PRP$ VBG",
                "- " * 6 + "nsubj obj advmod - poss acl",
            ),
        ),
        (
            15,  # the stack is ROOT saw
            named(
                "saw ROOT - - - - cat . today dogs my -" + " -" * 6,
                "VBD ROOT - - - - NN . NN NNS PRP$ -" + " -" * 6,
                "nsubj punct advmod obj poss -" + " -" * 6,
            ),
        ),
    ],
)
def test_features_worked_out_by_hand(step: int, expected: list[int]) -> None:
    assert examples([CAT], KNOWN).features[step].tolist() == expected


def test_targets_are_the_oracles() -> None:
    made = examples([CAT, CAT], KNOWN)
    # labels: 0 acl, 1 advmod, 2 nsubj, 3 obj, 4 poss, 5 punct; left-arcs from 1, right-arcs from 7, the root arc 13
    assert made.targets.tolist() == [0, 0, 5, 0, 0, 2, 3, 0, 0, 0, 8, 7, 10, 0, 12, 13] * 2
    assert (made.sentences, made.left_out) == (2, {})
    assert np.array_equal(made.features[:16], made.features[16:])


def slow_features(sentence: Sentence, known: Vocabulary, state: ParserState, row: int) -> list[int]:
    """Read positions off the definition: children sorted by place, no arrays of outermost children."""
    heads, labels = state.heads[row].tolist(), state.labels[row].tolist()
    length = len(sentence.forms)
    stack = [int(word) for word in state.stack[row] if word >= 0][: state.depths[row]][::-1]
    buffer = list(range(state.following[row], length + 1))

    def child(side: str, rank: int, word: int | None) -> int | None:
        if word is None:
            return None
        left = [each for each in range(1, word) if heads[each] == word]
        right = [each for each in range(length, word, -1) if heads[each] == word]
        found = left if side == "l" else right
        return found[rank - 1] if len(found) >= rank else None

    def position(name: str) -> int | None:
        if "(" in name:
            outer, inner = name[:-1].split("(", 1)
            return child(outer[0], int(outer[2]), position(inner))
        words = stack if name[0] == "s" else buffer
        return words[int(name[1]) - 1] if len(words) >= int(name[1]) else None

    at = [position(name) for name in POSITIONS]
    numbers = [
        [NULL if word is None else ROOT if word == 0 else table.get(names[word - 1], UNKNOWN) for word in at]
        for table, names in ((known.words, sentence.forms), (known.tags, sentence.xpos))
    ]
    return [*numbers[0], *numbers[1], *(NULL if word is None else 1 + labels[word] for word in at[6:])]


def test_features_of_a_treebank_equal_a_slow_reading_of_the_definition() -> None:
    sentences = read_treebank("dev")[::15]
    known = vocabulary(sentences)
    encoded = encode(sentences, known)
    rng = np.random.default_rng(0)

    def score(state: ParserState) -> np.ndarray:
        found = extract(state, encoded)
        assert found.dtype == np.int32
        for row in range(len(found)):
            assert found[row].tolist() == slow_features(sentences[state.sentences[row]], known, state, row)
        return rng.standard_normal((len(found), len(known.transitions)))

    trees = parse(known.transitions, encoded.lengths, score)
    assert (trees.lengths == [len(each.forms) for each in sentences]).all()


def test_a_batch_parsed_by_its_features_equals_one_by_one() -> None:
    sentences = read_treebank("dev")[:60]
    known = vocabulary(sentences)
    weights = np.random.default_rng(1).integers(1, 1000, (48, len(known.transitions)))

    def parsed(some: list[Sentence]) -> Trees:
        encoded = encode(some, known)
        # Whole numbers, so that a batch's sums cannot round otherwise than a single sentence's.
        return parse(
            known.transitions, encoded.lengths, lambda state: (extract(state, encoded) @ weights % 997).astype(float)
        )

    batch = parsed(sentences)
    assert len({tuple(row) for row in batch.heads.tolist()}) > 40
    for row, sentence in enumerate(sentences):
        here = slice(0, 1 + len(sentence.forms))
        alone = parsed([sentence])
        assert np.array_equal(alone.heads[0], batch.heads[row, here])
        assert np.array_equal(alone.labels[0], batch.labels[row, here])


def test_sentences_that_cannot_be_followed_are_counted() -> None:
    two_roots = replace(CAT, heads=(2, 4, 4, 0, 4, 5, 6, 0))
    unseen = replace(CAT, relations=("poss", "csubj", *CAT.relations[2:]))
    known = vocabulary([CAT, CROSSED, two_roots], least_count=1)
    made = examples([CROSSED, CAT, two_roots, unseen, CROSSED], known)
    assert made.left_out == {NON_PROJECTIVE: 2, SEVERAL_ROOTS: 1, UNSEEN_LABEL: 1}
    assert (made.sentences, len(made.targets)) == (1, 16)
    with pytest.raises(ValueError, match=r"all 1 sentences were left out: \{'non-projective': 1\}"):
        examples([CROSSED], known)


def test_heads_that_are_no_tree_are_refused_with_their_sentence() -> None:
    with pytest.raises(ValueError, match=r"sentence 1, 'my cat today .*': word 1 must descend from the root"):
        examples([CAT, replace(CAT, heads=(2, 1, 4, 0, 4, 5, 6, 4))], KNOWN)


@pytest.mark.slow
@pytest.mark.real_data("ud-english-ewt")
def test_examples_of_the_treebank_are_compact_and_their_number_is_known() -> None:
    sentences = read_treebank("train")
    made = examples(sentences, vocabulary(sentences))
    assert made.left_out == {NON_PROJECTIVE: 288}
    words = sum(len(each.forms) for each in sentences)
    assert len(made.targets) == 392_214 < 2 * words
    assert (made.features.dtype, made.targets.dtype) == (np.int16, np.int16)
    assert made.features.nbytes + made.targets.nbytes == 98 * len(made.targets)
    assert Counter((made.targets == 0).tolist())[True] * 2 == len(made.targets)


def test_numbers_above_int16_take_int32() -> None:
    forms = [f"w{number}" for number in range(32_768)]
    many = [replace(CAT, forms=tuple(forms[first : first + 8])) for first in range(0, len(forms), 8)]
    made = examples(many, vocabulary(many, least_count=1))
    assert made.features.dtype == np.int32
    assert made.features[:, :18].max() == 32_768 + SYMBOLS - 1
