"""Word vocabularies: numbered by hand, and counted anew over a training part."""

from collections import Counter
from itertools import pairwise

import pytest

from normscope.data import load_rt
from normscope.tasks.sentences import PAD, UNKNOWN, Words, learn_words

pytestmark = pytest.mark.usefixtures("small_data")


def test_words_are_numbered_by_count_and_then_by_their_letters() -> None:
    words = learn_words(["the film , The end", "a film , a Film", "bad end ."], at_least=2)
    # film 3; then ",", "a", "end", "the" with 2 each, in the order of their code points; "bad" and "." once.
    assert words.numbers == {"film": 2, ",": 3, "a": 4, "end": 5, "the": 6}
    assert words.size == 7
    assert (PAD, UNKNOWN) == (0, 1)


def test_sentences_are_lower_cased_cut_and_never_empty() -> None:
    words = Words(numbers={"film": 2, "end": 3})
    assert words.encode("FILM of the End", at_most=64) == [2, UNKNOWN, UNKNOWN, 3]
    assert words.encode("FILM of the End", at_most=2) == [2, UNKNOWN]
    assert words.encode("", at_most=64) == [UNKNOWN]
    assert PAD not in words.encode(" film  end ", at_most=64)


def test_the_order_of_the_sentences_does_not_matter() -> None:
    sentences = load_rt().train.sentences[:500]
    assert learn_words(sentences, at_least=2) == learn_words(sentences[::-1], at_least=2)


@pytest.mark.parametrize("at_least", [1, 2, 5])
def test_a_vocabulary_is_counted_anew(at_least: int) -> None:
    sentences = load_rt().train.sentences
    counts = Counter(" ".join(sentences).lower().split(" "))
    words = learn_words(sentences, at_least=at_least)
    assert words.numbers.keys() == {word for word, count in counts.items() if count >= at_least}
    by_number = list(words.numbers)
    assert [words.numbers[word] for word in by_number] == list(range(2, words.size))
    for first, second in pairwise(by_number):
        assert counts[first] > counts[second] or (counts[first] == counts[second] and first < second)


def test_too_rare_words_are_refused() -> None:
    with pytest.raises(ValueError, match="no word occurs 3 times or more in 4 words"):
        learn_words(["a b", "a c"], at_least=3)
