"""Rows whose squares leave the range of their statistics are normalized as in float64, with gradients."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import normscope
from normscope.kernels import dispatch
from normscope.kernels.backends import cpu
from normscope.norms.weight_norm import weight_norm
from support.family import sample
from support.pairwise import parametrize_pairwise

NORMS: dict[str, Callable[..., nn.Module]] = {
    "layer_norm": normscope.LayerNorm,
    "layer_norm_simple": normscope.LayerNormSimple,
    "rms_norm": lambda width, **rest: normscope.RMSNorm(width, eps=1e-6, **rest),
    "scale_norm": normscope.ScaleNorm,
    "detach_norm": normscope.DetachNorm,
    "detach_norm_mean": lambda width, **rest: normscope.DetachNorm(width, std=False, **rest),
    "detach_norm_held": lambda width, backend=None, **rest: normscope.DetachNorm(width, hold_size=True, **rest),
    "ada_norm": normscope.AdaNorm,
    "ada_norm_attached": lambda width, **rest: normscope.AdaNorm(width, detach=False, **rest),
    "ada_norm_released": lambda width, **rest: normscope.AdaNorm(width, convention="released", **rest),
    "batch_norm": lambda width, backend=None, **rest: normscope.BatchNorm(width, **rest),
    "frn": lambda width, backend=None, **rest: normscope.FRN(width, **rest),
}
SIZES = {
    "float32": (1e10, 1e18, 1e20, 1e30, 2e37),
    "bfloat16": (1e18, 1e20, 1e37),
    "float64": (1e140, 1e154, 1e200, 1e306),
}
CASES = {f"{dtype} {size:g}": (getattr(torch, dtype), size) for dtype, sizes in SIZES.items() for size in sizes}
PATHS = {"cpp": "cpu", "python": "cpu", "eager": "eager", "compiled": "cpu", "compiled eager": "eager", "vmap": None}


def compute(name: str, module: nn.Module, path: str, x: Tensor, residual: Tensor | None) -> Tensor:
    """Return the norm of ``x``, or of its sum with the residual."""
    # The rows of these share a gradient, at least, so that they are not mapped one by one.
    adds = name not in ("batch_norm", "frn", "detach_norm_held")

    def function(x: Tensor, residual: Tensor | None) -> Tensor:
        if residual is None or not adds:
            return module(x if residual is None else x + residual)
        return module(x, residual)[0]

    if path == "vmap" and adds:
        return torch.vmap(module)(x if residual is None else x + residual)
    if "compiled" in path:
        torch.compiler.reset()
        function = torch.compile(function, backend="aot_eager", fullgraph=True)
    return function(x, residual)


@parametrize_pairwise("name, case, path, width, added", NORMS, CASES, PATHS, [8, 37, 300], [False, True])
def test_rows_whose_squares_leave_the_range_are_those_of_float64(
    name: str, case: str, path: str, width: int, added: bool
) -> None:
    dtype, size = CASES[case]
    wide = torch.float64 if dtype == torch.float64 else None
    module = NORMS[name](width, dtype=wide, backend=PATHS[path])
    judge = NORMS[name](width, dtype=torch.float64, backend="eager")
    shape = (2, 5, width) if name == "frn" else (5, width)
    x, residual, upstream = ((sample(*shape, seed=seed) * unit).to(dtype) for seed, unit in enumerate((size, size, 1)))
    residual = residual if added else None
    x, loaded = x.requires_grad_(), cpu.load()
    with contextlib.ExitStack() as stack:
        if path == "python":
            stack.enter_context(mock.patch.object(dispatch, "_call", None))
            stack.enter_context(mock.patch.object(cpu, "load", return_value=replace(loaded, shim=None)))
        z = compute(name, module, path, x, residual)
    z.backward(upstream)
    # The same row in another unit, beside which eps is as little as beside the row itself.
    given = ((x.detach() if residual is None else x.detach() + residual).double() / size).requires_grad_()
    judge.eps = 1e-60
    want = judge(given)
    want.backward(upstream.double())
    rounding = torch.finfo(dtype).eps
    atol = 20 * rounding * float(want.detach().abs().max())
    torch.testing.assert_close(z.detach().double(), want.detach(), rtol=0, atol=atol)
    dx = given.grad / size
    atol = max(60 * rounding * float(dx.abs().max()), 4 * torch.finfo(dtype).tiny)
    torch.testing.assert_close(x.grad.double(), dx, rtol=0, atol=atol)
    assert float(z.detach().abs().max()) > 0.5
    for ours, theirs in zip(module.parameters(), judge.parameters(), strict=True):
        # The gradient of ScaleNorm's scalar is a sum that cancels.
        atol = 60 * torch.finfo(ours.dtype).eps * max(float(theirs.grad.abs().max()), width**0.5)
        torch.testing.assert_close(ours.grad.double(), theirs.grad.double(), rtol=0, atol=atol)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("name", ["layer_norm", "layer_norm_simple", "ada_norm", "ada_norm_released", "detach_norm"])
def test_a_constant_row_whose_sum_leaves_the_range_is_zero(name: str, backend: str) -> None:
    module = NORMS[name](8, backend=backend)
    x = torch.full((2, 8), 2.0**127)
    x[1] = torch.arange(8.0)
    z = module(x)
    assert not z[0].any()
    torch.testing.assert_close(z[1], module(x[1:])[0], rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize(("ours", "theirs"), [("layer_norm", nn.LayerNorm), ("rms_norm", nn.RMSNorm)])
def test_infinite_entries_and_nan_are_treated_as_by_torch(
    ours: str, theirs: Callable[..., nn.Module], bad: float, backend: str
) -> None:
    x = sample(4, 8, dtype=torch.float32)
    x[1, 2], x[2] = bad, bad
    found = []
    for module in (NORMS[ours](8, backend=backend), theirs(8, eps=1e-6 if ours == "rms_norm" else 1e-5)):
        given = x.clone().requires_grad_()
        z = module(given)
        z.backward(sample(4, 8, seed=1, dtype=torch.float32))
        found.append((z.detach(), given.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "scale_norm", "ada_norm_released"])
def test_higher_derivatives_of_long_rows_are_those_of_float64(name: str, order: int) -> None:
    """In float32, where the third power of 1e-15 is zero: along a line in the unit of the rows."""
    size, found = 1e15, []
    for dtype in (torch.float32, torch.float64):
        module = NORMS[name](8, dtype=dtype)
        x, v = (sample(3, 8, seed=seed, dtype=dtype) for seed in (0, 1))

        def score(t: Tensor, module: nn.Module = module, x: Tensor = x, v: Tensor = v) -> Tensor:
            return (module(x * size + t * (v * size)) * sample(3, 8, seed=2, dtype=x.dtype)).sum()

        function = score
        for _ in range(order):
            function = torch.func.grad(function)
        found.append(function(torch.zeros((), dtype=dtype)).item())
    assert abs(found[0] - found[1]) < 1e-4 * max(1, abs(found[1]))
    assert abs(found[1]) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_any_size_have_their_direction(dtype: torch.dtype) -> None:
    v, g = sample(3, 40).to(dtype), torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
    for size in (1.0, 1e20, 1e37):
        torch.testing.assert_close(weight_norm((v * size).to(dtype), g), weight_norm(v, g), rtol=0.02, atol=1e-6)


def test_the_running_moments_are_those_of_the_batch_also_where_a_feature_is_scaled() -> None:
    module, judge = normscope.BatchNorm(4), normscope.BatchNorm(4, dtype=torch.float64)
    x = sample(9, 4) * torch.tensor([1.0, 1e6, 1e15, 1e12]).double() + torch.tensor([0.0, 0.0, 0.0, 1e13]).double()
    module(x.float())
    judge(x)
    torch.testing.assert_close(module.running_mean.double(), judge.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(module.running_var.double(), judge.running_var, rtol=1e-5, atol=1e-6)
