"""LayerNorm is torch's layer, to torch's own test samples."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope.norms import LayerNorm, layer_norm
from support.torch_samples import SAME, gradients, module_inputs, operator_samples


@pytest.mark.parametrize("sample", operator_samples("layer_norm"), ids=str)
def test_definition_is_torch_on_its_operator_samples(sample) -> None:
    shape, *affine = sample.args
    tensors = [sample.input, *affine]
    ours = layer_norm(sample.input, *affine, **sample.kwargs, axes=len(shape))
    theirs = F.layer_norm(sample.input, *sample.args, **sample.kwargs)
    torch.testing.assert_close(ours, theirs, **SAME)
    torch.testing.assert_close(gradients(ours, tensors), gradients(theirs, tensors), **SAME)


@pytest.mark.parametrize("sample", module_inputs(nn.LayerNorm), ids=lambda sample: sample.desc)
def test_module_is_torchs_on_its_module_samples(sample) -> None:
    arguments, (x,) = sample.constructor_input, sample.forward_input.args
    theirs = nn.LayerNorm(*arguments.args, **arguments.kwargs).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.uniform_(1, 3)
    ours = LayerNorm(*arguments.args, **arguments.kwargs).double()
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), **SAME)
    want = gradients(theirs(x), [x, *theirs.parameters()])
    torch.testing.assert_close(gradients(ours(x), [x, *ours.parameters()]), want, **SAME)


def test_module_is_its_definition() -> None:
    module = LayerNorm(7, eps=0.3, dtype=torch.float64)
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    x = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(module(x), layer_norm(x, module.weight, module.bias, 0.3), **SAME)


def test_stands_where_torchs_layer_stood() -> None:
    module = LayerNorm(7)
    assert isinstance(module, nn.LayerNorm)
    assert list(module.state_dict()) == list(nn.LayerNorm(7).state_dict())
    positional = LayerNorm(7, 1e-3, True, False, "cpu", torch.float64)
    assert positional.bias is None
    assert positional.weight.dtype == torch.float64


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_weight_and_bias_are_each_optional(weight: bool, bias: bool) -> None:
    module = LayerNorm(7, bias=bias, weight=weight, dtype=torch.float64)
    assert [name for name, _ in module.named_parameters()] == ["weight"] * weight + ["bias"] * bias
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(1, 3)
    x = torch.randn(4, 7, dtype=torch.float64)
    want = F.layer_norm(x, (7,))
    want = want * module.weight if weight else want
    want = want + module.bias if bias else want
    torch.testing.assert_close(module(x), want, **SAME)
    torch.testing.assert_close(copy.deepcopy(module)(x), want, **SAME)
    assert f"bias={bias}, weight={weight}" in repr(module)


def test_without_affine_there_is_nothing_to_learn() -> None:
    assert list(LayerNorm(7, elementwise_affine=False).parameters()) == []


def test_gain_comes_after_the_normalization_and_bias_after_the_gain() -> None:
    # The row has mean 4 and deviation 2; by hand: 3 * (-1, 1) + (10, 20).
    x = torch.tensor([2.0, 6.0], dtype=torch.float64)
    y = layer_norm(x, torch.tensor([3.0, 3.0]), torch.tensor([10.0, 20.0]), 0.0)
    assert y.tolist() == [7.0, 23.0]
