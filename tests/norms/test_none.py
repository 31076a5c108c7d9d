"""No norm is the identity, with a norm's checks."""

import pytest
import torch
from torch import nn

from normscope.norms import NoNorm


def test_returns_its_input_itself() -> None:
    x = torch.randn(2, 7)
    assert NoNorm(7)(x) is x


def test_has_nothing_to_learn() -> None:
    assert list(NoNorm(7).parameters()) == []


def test_finds_the_wrong_width_that_an_identity_lets_through() -> None:
    x = torch.randn(2, 8)
    assert nn.Identity()(x) is x
    with pytest.raises(ValueError, match=r"NoNorm\(\(7,\)\) expects \[\.\.\., 7\], got \[2, 8\]"):
        NoNorm(7)(x)
