"""The feed-forward branch."""

import pytest
import torch
from torch import nn

from normscope.models import FeedForward


@pytest.mark.parametrize(("activation", "peer"), [("relu", nn.ReLU), ("gelu", nn.GELU)])
def test_equals_the_same_layers_in_sequence_dropout_included(activation: str, peer: type[nn.Module]) -> None:
    ours = FeedForward(6, 9, activation=activation, activation_dropout=0.2, dropout=0.4).double()
    theirs = nn.Sequential(ours.inner, peer(), nn.Dropout(0.2), ours.outer, nn.Dropout(0.4))
    x, g = torch.randn(2, 40, 6).double(), torch.randn(2, 40, 6).double()
    outputs = []
    for module in (ours, theirs):
        inputs = x.clone().requires_grad_()
        torch.manual_seed(1)
        y = module(inputs)
        outputs.append((y, *torch.autograd.grad(y, [inputs, *ours.parameters()], g)))
    for mine, other in zip(*outputs, strict=True):
        torch.testing.assert_close(mine, other)
    assert 0.3 < (outputs[0][0] == 0).double().mean() < 0.5


def test_it_does_not_look_at_the_context() -> None:
    branch = FeedForward(6, 9)
    x = torch.randn(2, 3, 6)
    assert torch.equal(branch(x), branch(x, object()))


def test_both_maps_have_a_gain() -> None:
    assert [module.gain for module in FeedForward(6, 9).modules() if hasattr(module, "gain")] == [1.0, 1.0]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="one of relu, gelu, got 'swish'"):
        FeedForward(6, 9, activation="swish")
    with pytest.raises(ValueError, match=r"between 0 and 1, but got 1\.5"):
        FeedForward(6, 9, dropout=1.5)
