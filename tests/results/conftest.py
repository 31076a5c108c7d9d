"""A study of ten pairs, and the randomness to make more."""

import numpy as np
import pytest

from support.study_folders import Study


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def study(tmp_path, rng):
    """Ten pairs that differ by about one point, with the noise of a seed shared."""
    made = Study(tmp_path)
    noise = rng.normal(5.0, 1.0, 10)
    made.fill("layer_norm", noise)
    made.fill("ada_norm", noise - 1.0 + rng.normal(0.0, 0.1, 10))
    return made
