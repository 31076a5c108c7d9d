"""Where the depth of a model is, for the ways in which people write models."""

import torch
from torch import nn

from normscope.probes import depth_profile
from normscope.probes.norms_in import find_norms
from normscope.probes.stacks import find_stacks


def stacks(model: nn.Module) -> dict[str, int]:
    return {stack.name: len(stack.layers) for stack in find_stacks(model, find_norms(model)[0])}


def test_a_list_of_layers() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 5, enable_nested_tensor=False)
    assert stacks(nn.Sequential(nn.Embedding(9, 8), encoder, nn.Linear(8, 9))) == {"1.layers": 5}


def test_encoder_and_decoder() -> None:
    assert stacks(nn.Transformer(8, 2, 3, 4, 16, batch_first=True)) == {"encoder.layers": 3, "decoder.layers": 4}


def test_norms_and_what_has_no_parameters_are_no_layers() -> None:
    body = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    assert [name for name, _ in find_stacks(body, find_norms(body)[0])[0].layers] == ["0", "3", "5"]


def test_layers_that_are_attributes() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3)
            self.block1, self.block2, self.block3 = (nn.Sequential(nn.Conv2d(4, 4, 3)) for _ in range(3))
            self.head = nn.Linear(4, 2)

    assert stacks(Net()) == {"": 3}


def test_a_layer_that_is_shared_is_a_stack_of_its_calls() -> None:
    shared = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model = nn.Sequential(shared, shared, shared)
    assert stacks(model) == {"": 1}
    (profile,) = depth_profile(model, torch.randn(3, 4), lambda m, b: m(b).square().mean())
    assert [layer.call for layer in profile.layers] == [0, 1, 2]


def test_no_depth() -> None:
    assert stacks(nn.Linear(3, 3)) == {}
