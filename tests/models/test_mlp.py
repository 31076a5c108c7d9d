"""The plain multi-layer perceptron."""

import pytest
import torch
from torch import nn

from normscope.models import MLP


def test_equals_the_same_layers_in_sequence() -> None:
    model = MLP([5, 7, 6, 3], nn.LayerNorm)
    peer = nn.Sequential(
        model.hidden[0], model.norms[0], nn.ReLU(), model.hidden[1], model.norms[1], nn.ReLU(), model.logits
    )
    x = torch.randn(4, 5)
    assert torch.equal(model(x), peer(x))


def test_norms_stand_on_the_hidden_layers_only() -> None:
    widths = []
    MLP([5, 7, 6, 3], lambda width: widths.append(width) or nn.Identity())
    assert widths == [7, 6]


def test_one_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"an input and an output width, got \[5\]"):
        MLP([5], nn.LayerNorm)
