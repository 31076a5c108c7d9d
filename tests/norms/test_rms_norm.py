"""RMSNorm is torch's layer, to torch's own test samples."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope.norms import RMSNorm, rms_norm
from support.torch_samples import SAME, gradients, module_inputs, operator_samples


@pytest.mark.parametrize("sample", operator_samples("rms_norm"), ids=str)
def test_definition_is_torch_on_its_operator_samples(sample) -> None:
    shape, *affine = sample.args
    tensors = [sample.input, *affine]
    ours = rms_norm(sample.input, *affine, **sample.kwargs, axes=len(shape))
    theirs = F.rms_norm(sample.input, *sample.args, **sample.kwargs)
    torch.testing.assert_close(ours, theirs, **SAME)
    torch.testing.assert_close(gradients(ours, tensors), gradients(theirs, tensors), **SAME)


@pytest.mark.parametrize("sample", module_inputs(nn.RMSNorm), ids=lambda sample: sample.desc)
def test_module_is_torchs_on_its_module_samples(sample) -> None:
    arguments, (x,) = sample.constructor_input, sample.forward_input.args
    theirs = nn.RMSNorm(*arguments.args, **arguments.kwargs).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.uniform_(1, 3)
    ours = RMSNorm(*arguments.args, **arguments.kwargs).double()
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), **SAME)
    want = gradients(theirs(x), [x, *theirs.parameters()])
    torch.testing.assert_close(gradients(ours(x), [x, *ours.parameters()]), want, **SAME)


def test_module_is_its_definition() -> None:
    module = RMSNorm(7, eps=0.3, dtype=torch.float64)
    nn.init.normal_(module.weight)
    x = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(module(x), rms_norm(x, module.weight, 0.3), **SAME)


def test_stands_where_torchs_layer_stood() -> None:
    module = RMSNorm(7)
    assert isinstance(module, nn.RMSNorm)
    assert list(module.state_dict()) == list(nn.RMSNorm(7).state_dict())
    assert module.eps is None
    assert list(RMSNorm(7, 1e-3, False, "cpu", torch.float64).parameters()) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_no_eps_is_the_machine_epsilon_of_the_mean_square(dtype: torch.dtype) -> None:
    # The square of 2^-12 is half of float32's epsilon 2^-23, so that eps decides the result.
    x = torch.full((1, 4), 2.0**-12, dtype=dtype)
    epsilon = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    want = (2.0**-12 / (2.0**-24 + epsilon) ** 0.5) * torch.ones(1, 4, dtype=torch.float64)
    for got in (rms_norm(x), RMSNorm(4)(x), F.rms_norm(x, (4,))):
        torch.testing.assert_close(got.double(), want, rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_a_row_has_mean_square_one_and_keeps_its_mean() -> None:
    # By hand: the mean square of (1, 7) is 25.
    y = rms_norm(torch.tensor([1.0, 7.0], dtype=torch.float64), eps=0.0)
    torch.testing.assert_close(y, torch.tensor([0.2, 1.4], dtype=torch.float64), rtol=1e-15, atol=0)
