"""Word vectors against a whole SVD of the matrix, built pair by pair."""

import math

import numpy as np
import pytest

from normscope.data.readers.word_vectors import word_vectors


@pytest.mark.parametrize("near", [1, 2])
def test_vectors_are_those_of_the_definition(near: int) -> None:
    rng = np.random.default_rng(1)
    text = rng.choice(20, size=900, p=(w := 1 / np.arange(3, 23)) / w.sum()).astype(np.int32)
    found = word_vectors(text, 20, 4, np.random.default_rng(2), first=2, near=near)
    counts = np.zeros((20, 20))
    for place, word in enumerate(text):
        for other in [*range(place - near, place), *range(place + 1, place + near + 1)]:
            if 0 <= other < len(text) and word >= 2 and text[other] >= 2:
                counts[word, text[other]] += 1
    weights = counts.sum(0) ** 0.75
    matrix = np.zeros((20, 20))
    for w in range(20):
        for c in range(20):
            if counts[w, c]:
                share = weights[c] / weights.sum()
                matrix[w, c] = max(0.0, math.log(counts[w, c] / (counts[w].sum() * share)))
    left, sizes, _ = np.linalg.svd(matrix)
    wanted = left[:, :4] * np.sqrt(sizes[:4])
    wanted[:2] = 0
    wanted[2:] /= np.linalg.norm(wanted[2:], axis=1, keepdims=True)
    assert not found[:2].any()
    # The subspace is the whole space here. The columns have arbitrary signs; what words share with each other has none.
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-3)


def test_symbols_without_neighbours_have_no_vector() -> None:
    found = word_vectors(np.array([5, 6, 0, 0, 7] * 9), 24, 4, np.random.default_rng(0))
    assert np.flatnonzero(found.any(1)).tolist() == [5, 6, 7]
    # The end of a row meets the beginning of the next one, 7 and 5; 6 is the neighbour of both over one word.
    assert found.dtype == np.float32
