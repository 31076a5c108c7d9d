"""Sinusoids and the relative shift."""

import math

import pytest
import torch

from normscope.models.layers import relative_shift, sinusoids


def test_sinusoids_equal_the_formula() -> None:
    table = sinusoids(torch.tensor([0, 1, 7, 5000]), 6)
    for row, t in zip(table.tolist(), (0, 1, 7, 5000), strict=True):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            # One rounding to float32 of numbers up to one.
            assert row[2 * i] == pytest.approx(math.sin(angle), abs=1e-7)
            assert row[2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-7)


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="an even width, got 5"):
        sinusoids(torch.arange(3), 5)


@pytest.mark.parametrize(("length", "remembered"), [(1, 0), (4, 0), (1, 3), (3, 5), (5, 2)])
def test_relative_shift_equals_a_double_loop(length: int, remembered: int) -> None:
    keys = length + remembered
    scores = torch.randn(2, 3, length, keys + 1)
    shifted = relative_shift(scores)
    assert shifted.shape == (2, 3, length, keys)
    assert shifted.untyped_storage().data_ptr() == scores.untyped_storage().data_ptr()
    for query in range(length):
        for key in range(query + remembered + 1):
            distance = query + remembered - key
            assert torch.equal(shifted[..., query, key], scores[..., query, keys - distance])
