"""Encoded pairs: sentences and padded batches by hand."""

import numpy as np
import pytest
import torch

from normscope.tasks.translation.corpus import EncodedPairs, EncodedTexts
from normscope.tasks.translation.subwords import BOS, EOS, PAD

SOURCES = [[10, 11], [], [12, 13, 14, 15], [16]]
TARGETS = [[20], [21, 22, 23], [24, 25], []]


def texts(sentences: list[list[int]]) -> EncodedTexts:
    flat = [token for sentence in sentences for token in sentence]
    offsets = np.cumsum([0, *map(len, sentences)])
    return EncodedTexts(tokens=np.array(flat, dtype=np.uint16), offsets=offsets)


PAIRS = EncodedPairs(source=texts(SOURCES), target=texts(TARGETS), dropped={"empty": 0, "too long": 1200}, sha256="")


def test_sentences_and_lengths() -> None:
    assert len(PAIRS) == len(PAIRS.source) == 4
    assert [PAIRS.source[index].tolist() for index in range(4)] == SOURCES
    assert PAIRS.source[0].dtype == np.int64
    assert PAIRS.source.lengths.tolist() == [2, 0, 4, 1]
    # The longer side and its end.
    assert PAIRS.lengths.tolist() == [3, 4, 5, 2]
    assert PAIRS.description == "4 pairs; left out: 1,200 too long"
    with pytest.raises(IndexError, match="from 0 to 3, got 4"):
        PAIRS.source[4]
    with pytest.raises(IndexError, match="from 0 to 3, got -1"):
        PAIRS.source[-1]


@pytest.mark.parametrize("indices", [torch.tensor([2, 1, 0]), [2, 1, 0], np.array([2, 1, 0])])
def test_a_batch_by_hand(indices: torch.Tensor) -> None:
    batch = PAIRS.batch(indices)
    assert batch.source.tolist() == [
        [12, 13, 14, 15, EOS],
        [EOS, PAD, PAD, PAD, PAD],
        [10, 11, EOS, PAD, PAD],
    ]
    assert batch.target.tolist() == [
        [BOS, 24, 25, EOS, PAD],
        [BOS, 21, 22, 23, EOS],
        [BOS, 20, EOS, PAD, PAD],
    ]
    assert batch.source.dtype == batch.target.dtype == torch.int64


def test_a_batch_takes_as_many_positions_as_lengths_says() -> None:
    for indices in ([0], [1], [2, 3], [3], [0, 1, 2, 3], [3, 3]):
        batch = PAIRS.batch(indices)
        # A decoder reads the target without its last column.
        assert max(batch.source.shape[1], batch.target.shape[1] - 1) == PAIRS.lengths[indices].max()


def test_a_pair_that_is_not_there_is_refused() -> None:
    with pytest.raises(IndexError, match=r"expected sentences from 0 to 3, got \[4, -1\]"):
        PAIRS.batch([0, 4, -1])
