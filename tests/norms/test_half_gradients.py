"""Gradients of parameters in half precision are summed before they are rounded, on every path."""

from inspect import signature

import pytest
import torch
from torch import nn

from normscope.norms import NORMS
from normscope.norms.weight_norm import apply_weight_norm, weight_norm
from support.family import sample
from support.pairwise import parametrize_pairwise

WITH_PARAMETERS = [name for name in NORMS if list(NORMS[name](4).parameters())]
PATHS = ("cpu", "eager", "compiled cpu", "compiled eager")


@parametrize_pairwise("name, path, dtype, width", WITH_PARAMETERS, PATHS, [torch.bfloat16, torch.float16], [64, 512])
def test_parameters_have_the_gradients_of_float64(name: str, path: str, dtype: torch.dtype, width: int) -> None:
    settings = {"backend": path.split()[-1]} if "backend" in signature(NORMS[name]).parameters else {}
    module, judge = NORMS[name](width, dtype=dtype, **settings), NORMS[name](width, dtype=torch.float64)
    judge.load_state_dict(module.state_dict())
    shape = (8, 16, width) if module.traits.statistics == "channels" else (128, width)
    torch.compiler.reset()
    function = torch.compile(module, backend="aot_eager") if path.startswith("compiled") else module
    for seed in range(0, 10, 2):
        x, upstream = sample(*shape, seed=seed).to(dtype), sample(*shape, seed=seed + 1).to(dtype)
        got = torch.autograd.grad(function(x), list(module.parameters()), upstream)
        wanted = torch.autograd.grad(judge(x.double()), list(judge.parameters()), upstream.double())
        for ours, theirs in zip(got, wanted, strict=True):
            # One rounding of the result, and those of a sum of terms of order one in float32.
            atol = 0.51 * torch.finfo(dtype).eps * theirs.abs() + 4e-6 * x.numel() ** 0.5 * width**0.5
            assert ((ours.double() - theirs).abs() <= atol).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("through", ["function", "parametrization"])
def test_the_lengths_of_weight_normalization_have_the_gradients_of_float64(through: str, dtype: torch.dtype) -> None:
    for seed in range(20):
        v, upstream = sample(4, 512, seed=seed).to(dtype), sample(4, 512, seed=seed + 50).to(dtype)
        if through == "function":
            g = torch.ones(4, dtype=dtype, requires_grad=True)
            weight_norm(v, g).backward(upstream)
        else:
            layer = nn.Linear(512, 4, bias=False, dtype=dtype)
            layer.weight.data = v
            apply_weight_norm(layer)
            layer.weight.backward(upstream)
            g = layer.parametrizations.weight.original0
        unit = v.double() / v.double().norm(dim=1, keepdim=True)
        want = (upstream.double() * unit).sum(1)
        torch.testing.assert_close(g.grad.flatten().double(), want, rtol=torch.finfo(dtype).eps, atol=1e-5)
