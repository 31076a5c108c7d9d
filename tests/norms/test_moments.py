"""Statistics are in at least float32, of a centered row."""

import numpy as np
import pytest
import torch
from scipy import stats

from normscope.norms.moments import standardize, trailing, widen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_inputs_are_not_copied(dtype: torch.dtype) -> None:
    x = torch.ones(3, dtype=dtype)
    assert widen(x) is x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_become_float32(dtype: torch.dtype) -> None:
    assert widen(torch.ones(3, dtype=dtype)).dtype == torch.float32


def test_trailing_axes_count_from_the_end() -> None:
    assert trailing(1) == (-1,)
    assert trailing(3) == (-3, -2, -1)


def test_standardized_rows_are_z_scores() -> None:
    x = np.random.default_rng(0).normal(3, 5, (4, 6, 9))
    # Sums of at most 54 terms in float64.
    np.testing.assert_allclose(standardize(torch.tensor(x), 0.0, 1), stats.zscore(x, axis=-1), rtol=0, atol=1e-13)
    rows = stats.zscore(x.reshape(4, -1), axis=-1).reshape(x.shape)
    np.testing.assert_allclose(standardize(torch.tensor(x), 0.0, 2), rows, rtol=0, atol=1e-13)


def test_eps_is_added_to_the_variance() -> None:
    # Deviations are -1 and 1, the variance 1; with eps 3 the divisor is 2.
    y = standardize(torch.tensor([4.0, 6.0]), 3.0, 1)
    assert y.tolist() == [-0.5, 0.5]


def test_the_variance_does_not_cancel() -> None:
    # mean(x^2) - mean(x)^2 in float32 would be a difference of numbers near 1e8, with nothing left of the variance.
    x = torch.tensor([1e4 - 1, 1e4 + 1], dtype=torch.float32)
    assert standardize(x, 0.0, 1).tolist() == [-1.0, 1.0]
