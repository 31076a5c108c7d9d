"""Every test of a norm starts from the same random state, in whatever order the tests run."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
