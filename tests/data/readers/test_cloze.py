"""Cloze questions cut from novels: sentences, names, nouns and questions against a few lines done by hand."""

import numpy as np
import pytest

from normscope.data.readers.cloze import (
    BLANK,
    FIRST_IDENTIFIER,
    UNKNOWN,
    ClozeQuestions,
    ClozeSplits,
    Size,
    baselines,
    cut_questions,
    load_novels_cloze,
    stack,
)
from normscope.data.readers.prose import find_names, find_nouns, sentences

TEXT = """CHAPTER I

[Illustration: A dog]

It was late. "Where is Mr. Hale?" asked Ann--poor
Ann! J. B. Hale's old dog didn't bark . . . Nobody
came.

"No," said Ann, "I saw the dog-cart."
"""


def test_sentences_end_where_a_reader_ends_them() -> None:
    found = [" ".join(tokens) for tokens in sentences(TEXT)]
    assert found == [
        "It was late .",
        '" Where is Mr . Hale ? " asked Ann -- poor Ann !',
        "J . B . Hale 's old dog didn't bark . . .",
        "Nobody came .",
        '" No , " said Ann , " I saw the dog-cart . "',
    ]


def test_names_have_a_capital_within_sentences() -> None:
    book = [
        line.split() for line in ("then Ann saw the Dog and I", "so Ann , Bob and the dog", "Ann ran", "he , Bob ,")
    ]
    assert find_names(book, least=2) == {"Ann", "Bob"}
    assert find_names(book, least=1) == {"Ann", "Bob"}
    assert find_names([["the", "Dog"]] * 3, least=3) == {"Dog"}
    assert find_names([["saw", "Mr", ".", "Ann"], ["Mr", "Hale"], ["saw", "YES", "I'll"]], least=1) == {"Hale"}


def test_nouns_stand_between_a_determiner_and_the_end_of_a_phrase() -> None:
    book = [line.split() for line in ("the old dog ran .", "an old dog , a dog and old", "the other , the ox .")]
    assert find_nouns(book, least=2, share=0.3) == {"dog"}
    # "dog" stands three times, once between a determiner and a follower: behind "old" it is not counted.
    assert find_nouns(book, least=2, share=0.34) == set()
    assert find_nouns(book, least=4, share=0.0) == set()


LINES = [
    ["the", "cat", "saw", "a", "dog"],
    ["a", "bird", "and", "the", "dog", "sang"],
    ["the", "dog", "and", "the", "cat", "ate", "the", "fish"],
    ["the", "bird", "saw", "the", "dog", ",", "a", "dog", "and", "the", "cat"],
]
KIND = frozenset(("cat", "dog", "bird", "fish"))


def test_questions_are_those_made_by_hand() -> None:
    # Sentence 2 has "dog" and "cat" from the two before it, sentence 3 has "bird" and "cat"; "dog" stands there twice,
    # and "fish" is not in the passage of sentence 2.
    cuts = list(cut_questions(LINES, KIND, "a book", context=2, count=3))
    assert [(cut.sentence, LINES[cut.sentence][cut.place]) for cut in cuts] == [
        (2, "dog"),
        (2, "cat"),
        (3, "bird"),
        (3, "cat"),
    ]
    assert [cut.candidates for cut in cuts[:2]] == [("bird", "cat", "dog")] * 2
    for cut in cuts[2:]:
        assert len(set(cut.candidates)) == 3
        assert LINES[3][cut.place] in cut.candidates
        assert list(cut.candidates) == sorted(cut.candidates)


def test_passages_with_too_few_words_of_the_kind_make_no_question() -> None:
    assert [cut.sentence for cut in cut_questions(LINES, KIND, "a book", context=2, count=4)] == [3, 3]
    assert not list(cut_questions(LINES, KIND, "a book", context=3, count=5))
    assert not list(cut_questions(LINES, KIND, "a book"))


def test_wrong_candidates_are_drawn_by_the_stream() -> None:
    one, again, other = (
        [cut.candidates for cut in cut_questions(LINES * 5, KIND, stream, context=3, count=2)]
        for stream in ("one", "one", "other")
    )
    assert one == again != other


def test_padding_stands_on_the_right() -> None:
    size = Size(passage=4, around=1, words=9)
    row = (np.array([7, 8]), np.array([BLANK, 9]), np.array([7, 8]), 8, np.array([1, 1]), np.array([0, 1]))
    questions = stack([row], size)
    assert questions.passages.tolist() == [[7, 8, 0, 0]]
    assert questions.queries.tolist() == [[BLANK, 9, 0]]


def test_guesses_without_a_reader_are_right_as_often_as_by_hand() -> None:
    def part(answers: list[int], mentions: list[list[int]], latest: list[list[int]]) -> ClozeQuestions:
        count = len(answers)
        return ClozeQuestions(
            passages=np.zeros((count, 1), dtype=np.int32),
            queries=np.zeros((count, 1), dtype=np.int32),
            candidates=np.array([[4, 5]] * count, dtype=np.int32),
            answers=np.array(answers, dtype=np.int32),
            mentions=np.array(mentions, dtype=np.int32),
            latest=np.array(latest, dtype=np.int32),
        )

    train = part([5, 5, 4], [[3, 1], [3, 1], [0, 1]], [[0, 1]] * 3)
    test = part([4, 5, 5, 5], [[2, 1], [2, 1], [1, 1], [1, 1]], [[8, 9], [8, 9], [7, 9], [9, 7]])
    splits = ClozeSplits(
        train=train,
        valid=test,
        test=test,
        held_for_tuning=1,
        vocabulary=("", "@unknown", "@blank", "@name0", "a", "b"),
        identifiers=1,
        hashes={},
        counts={},
    )
    assert baselines(splits) == {
        "chance": 50.0,
        "most frequent answer": 75.0,
        "most frequent word": 25.0,
        "most frequent in the passage": 50.0,
        "the same, then the latest": 50.0,
        "latest in the passage": 50.0,
    }


@pytest.fixture(scope="module")
def small_size() -> Size:
    return Size(near=2, passage=48, around=4, words=500)


@pytest.mark.usefixtures("small_data")
def test_questions_of_the_novels_are_whole(small_size: Size) -> None:
    splits = load_novels_cloze(small_size)
    words = np.array(splits.vocabulary)
    assert len(set(splits.vocabulary)) == len(splits.vocabulary)
    assert 0 < splits.held_for_tuning < len(splits.train)
    for part in (splits.train, splits.valid, splits.test):
        assert (part.candidates == part.answers[:, None]).sum(1).tolist() == [1] * len(part)
        assert ((part.queries == BLANK).sum(1) == 1).all()
        assert (part.mentions > 0).all()
        named = part.candidates < FIRST_IDENTIFIER + splits.identifiers
        assert (named.all(1) | ~named.any(1)).all()
        assert (part.candidates > BLANK).all()
        # What is not cut off holds every occurrence.
        whole = part.passages[:, -1] == 0
        held = (part.passages[:, None] == part.candidates[..., None]).sum(-1)
        assert np.array_equal(held[whole], part.mentions[whole])
        assert (held <= part.mentions).all()
        assert part.passages.max() < len(words)
    assert UNKNOWN in load_novels_cloze(Size(passage=48, around=4, words=70)).train.passages


@pytest.mark.real_data("gutenberg-novels")
def test_guesses_on_the_novels_are_those_of_the_guide() -> None:
    splits = load_novels_cloze(Size(near=2, passage=64, around=3, words=8000))
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (36_722, 1_688, 4_930)
    found = {name: round(value, 1) for name, value in baselines(splits).items()}
    assert found == {
        "chance": 10.0,
        "most frequent answer": 17.6,
        "most frequent word": 17.3,
        "most frequent in the passage": 20.0,
        "the same, then the latest": 21.6,
        "latest in the passage": 15.8,
    }
