"""Triples of sentences and their batches: by hand."""

from functools import partial

import numpy as np
import pytest
import torch

from normscope.tasks.skip_thoughts.corpus import (
    BookWords,
    LengthBatches,
    Ragged,
    Triples,
    encode_texts,
    learn_vocabulary,
    middles,
)
from normscope.training.randomness import generator

CPU = torch.device("cpu")
WORDS = BookWords(numbers={"a": 2, "b": 3, "c": 4})


def test_the_most_frequent_words_have_the_lowest_numbers() -> None:
    words = learn_vocabulary(["b a", "c b", "", "d a"], 5)
    assert words.numbers == {"a": 2, "b": 3, "c": 4}
    assert words.size == 5
    assert words.encode(["c", "d", "a"]) == [4, 1, 2]
    assert learn_vocabulary(["a"], 100).size == 3
    with pytest.raises(ValueError, match="size must be 3 to 65536 symbols, got 70000"):
        learn_vocabulary(["a"], 70_000)
    with pytest.raises(ValueError, match="expected sentences with words, got none"):
        learn_vocabulary(["", ""], 10)


def test_a_triple_does_not_reach_over_a_long_sentence_or_into_another_book() -> None:
    lengths = np.array([3, 30, 1, 2, 31, 5, 5, 5, 0, 7, 7, 7])
    assert middles(lengths).tolist() == [1, 2, 6, 10]
    assert middles(np.array([5, 5])).tolist() == []


def test_sentences_are_padded_and_end() -> None:
    triples = Triples.of(["a", "b c x", "c", "a a", "", "b", "b", "b"], WORDS)
    assert triples.middles.tolist() == [1, 2, 6]
    (words, lengths), (before, _), (after, counts) = triples.batch(np.array([0, 1]), CPU)
    assert words.tolist() == [[3, 4, 1, 0], [4, 0, 0, 0]]
    assert lengths.tolist() == [4, 2]
    assert before.tolist() == [[2, 0, 0, 0], [3, 4, 1, 0]]
    assert after.tolist() == [[4, 0, 0], [2, 2, 0]]
    assert counts.tolist() == [2, 3]
    without, lengths = triples.sentences.padded(np.array([7, 1]), CPU, end=False)
    assert without.tolist() == [[3, 0, 0], [3, 4, 1]]
    assert lengths.tolist() == [1, 3]


def test_texts_to_be_tested_are_tokenized_cut_and_never_empty() -> None:
    texts = encode_texts(["A b-c", "a " * 100, " "], WORDS)
    assert texts.lengths.tolist() == [4, 64, 1]
    assert texts.words[:4].tolist() == [2, 3, 1, 4]
    assert texts.words[-1] == 1
    assert Ragged.of([[1]]).words.dtype == np.uint16


def test_batches_have_one_length_and_every_example_once_per_epoch() -> None:
    lengths = np.array([5, 7] * 13 + [9])
    batches = LengthBatches(lengths, 4, partial(generator, 0, "data"))
    assert batches.count == 4 + 4 + 1
    epochs = [[batches.batch(step) for step in range(begin, begin + 9)] for begin in (0, 9)]
    for epoch in epochs:
        assert sorted(torch.cat(epoch).tolist()) == list(range(27))
        assert all(len(set(lengths[batch.numpy()])) == 1 for batch in epoch)
        assert sorted(len(batch) for batch in epoch) == [1, 1, 1, *[4] * 6]
    assert [batch.tolist() for batch in epochs[0]] != [batch.tolist() for batch in epochs[1]]
    again = LengthBatches(lengths, 4, partial(generator, 0, "data"))
    assert again.batch(12).tolist() == epochs[1][3].tolist()
    for size, given in ((0, lengths), (4, lengths[:0])):
        with pytest.raises(ValueError, match="expected examples and a batch size of at least 1"):
            LengthBatches(given, size, partial(generator, 0, "data"))
