"""Norms under ``torch.func.vmap``: the kernels compute them, each member of an ensemble as if it were alone."""

import sys
from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, stack_module_state, vjp, vmap

from normscope.kernels import formula
from normscope.norms import AdaNorm, DetachNorm, LayerNorm, LayerNormSimple, RMSNorm, ScaleNorm

MEMBERS, ROWS, WIDTH = 3, 4, 7
NORMS = {
    "layer_norm": lambda **kind: LayerNorm(WIDTH, **kind),
    "without_weight": lambda **kind: LayerNorm(WIDTH, weight=False, **kind),
    "rms_norm": lambda **kind: RMSNorm(WIDTH, **kind),
    "scale_norm": lambda **kind: ScaleNorm(WIDTH, **kind),
    "layer_norm_simple": lambda **kind: LayerNormSimple(WIDTH),
    "ada_norm": lambda **kind: AdaNorm(WIDTH),
    "detach_norm": lambda **kind: DetachNorm(WIDTH),
}
every_norm = pytest.mark.parametrize("name", NORMS)


def sample(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def ensemble(name: str, members: int = MEMBERS, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    modules = [NORMS[name](dtype=dtype) for _ in range(members)]
    with torch.no_grad():
        for member, module in enumerate(modules):
            for place, parameter in enumerate(module.parameters()):
                parameter.add_(sample(*parameter.shape, seed=10 * member + place, dtype=dtype))
    return modules


def stacked(modules: list[nn.Module]) -> dict[str, Tensor]:
    return {name: one.detach().requires_grad_() for name, one in stack_module_state(modules)[0].items()}


def alone(module: nn.Module, x: Tensor, upstream: Tensor, residual: Tensor | None) -> list[Tensor]:
    """Compute output and gradients of one member: of input, residual, and parameters."""
    given = [x.clone().requires_grad_()] + ([] if residual is None else [residual.clone().requires_grad_()])
    z = module(*given)
    outputs = [z] if residual is None else list(z)
    found = torch.autograd.grad(outputs, [*given, *module.parameters()], [upstream, 2 * upstream][: len(outputs)])
    return [outputs[0].detach(), *found]


def by_autograd(modules: list[nn.Module], x: Tensor, upstream: Tensor, residual: Tensor | None) -> list[Tensor]:
    weights = stacked(modules)
    given = [x.clone().requires_grad_()] + ([] if residual is None else [residual.clone().requires_grad_()])
    z = vmap(lambda weights, *given: functional_call(modules[0], weights, given))(weights, *given)
    outputs = [z] if residual is None else list(z)
    wanted = [*given, *weights.values()]
    found = torch.autograd.grad(outputs, wanted, [upstream, 2 * upstream][: len(outputs)])
    return [outputs[0].detach(), *found]


def pulled(module: nn.Module) -> Callable[..., list[Tensor]]:
    def member(weights: dict[str, Tensor], x: Tensor, upstream: Tensor, residual: Tensor | None) -> list[Tensor]:
        given = (x,) if residual is None else (x, residual)
        z, pull = vjp(lambda weights, *given: functional_call(module, weights, given), weights, *given)
        by_weight, *by_input = pull(upstream if residual is None else (upstream, 2 * upstream))
        return [z if residual is None else z[0], *by_input, *by_weight.values()]

    return member


def by_vmap_of_grad(modules: list[nn.Module], x: Tensor, upstream: Tensor, residual: Tensor | None) -> list[Tensor]:
    places = (0, 0, 0, None if residual is None else 0)
    return vmap(pulled(modules[0]), places)(stacked(modules), x, upstream, residual)


def by_grad_of_vmap(modules: list[nn.Module], x: Tensor, upstream: Tensor, residual: Tensor | None) -> list[Tensor]:
    given = (x,) if residual is None else (x, residual)
    mapped = vmap(lambda weights, *given: functional_call(modules[0], weights, given))
    z, pull = vjp(mapped, stacked(modules), *given)
    by_weight, *by_input = pull(upstream if residual is None else (upstream, 2 * upstream))
    return [z if residual is None else z[0], *by_input, *by_weight.values()]


@every_norm
@pytest.mark.parametrize("way", [by_autograd, by_vmap_of_grad, by_grad_of_vmap])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_member_has_the_bits_that_it_has_alone(
    name: str, way: Callable[..., list[Tensor]], dtype: torch.dtype
) -> None:
    modules, shape = ensemble(name, dtype=dtype), (MEMBERS, ROWS, WIDTH)
    x, upstream = sample(*shape, seed=1, dtype=dtype), sample(*shape, seed=2, dtype=dtype)
    for residual in (None, sample(*shape, seed=3, dtype=dtype)):
        got = way(modules, x, upstream, residual)
        for member, module in enumerate(modules):
            want = alone(module, x[member], upstream[member], None if residual is None else residual[member])
            assert len(got) == len(want)
            for ours, theirs in zip(got, want, strict=True):
                torch.testing.assert_close(ours[member], theirs, rtol=0, atol=0)


@every_norm
def test_the_kernels_compute_an_ensemble_forward_and_backward(name: str) -> None:
    def fails(*_: object) -> None:
        raise AssertionError("not a kernel")

    x, upstream = (sample(MEMBERS, ROWS, WIDTH, seed=seed) for seed in (1, 2))
    module = sys.modules[type(NORMS[name]()).__module__]
    with patch.object(module, "defined", fails), patch.object(formula, "gradients", fails):
        for way in (by_autograd, by_vmap_of_grad, by_grad_of_vmap):
            way(ensemble(name), x, upstream, None)


def layer_norm_in_float64(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, (WIDTH,), weight, bias)


@pytest.mark.parametrize("in_dims", [(1, 0, 1), (2, 1, None), (0, None, 0), (None, 0, 0), (-1, 0, 0), (1, None, None)])
def test_any_axis_may_be_the_batch(in_dims: tuple[int | None, int | None, int | None]) -> None:
    module = ensemble("layer_norm", dtype=torch.float64)[0]
    own = (sample(MEMBERS, WIDTH, seed=seed).double() for seed in (4, 5))
    weight, bias = (one[0] if dim is None else one.movedim(0, dim) for one, dim in zip(own, in_dims[1:], strict=True))
    x = sample(MEMBERS, ROWS, WIDTH, seed=1).double()
    x = x[0] if in_dims[0] is None else x.movedim(0, in_dims[0]).contiguous()
    upstream = sample(MEMBERS, ROWS, WIDTH, seed=2).double()

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional_call(module, {"weight": weight, "bias": bias}, (x,))

    for transform in (lambda f: vmap(f, in_dims), lambda f: lambda *given: vjp(vmap(f, in_dims), *given)[1](upstream)):
        got, want = (transform(f)(x, weight, bias) for f in (ours, layer_norm_in_float64))
        # Float64 sums of a few terms of order one, in either order.
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_nested_maps_over_weights_and_rows() -> None:
    module = ensemble("layer_norm", dtype=torch.float64)[0]
    weight, bias = (sample(2, MEMBERS, WIDTH, seed=seed).double() for seed in (4, 5))
    x, upstream = sample(5, ROWS, WIDTH, seed=1).double(), sample(5, ROWS, WIDTH, seed=2).double()

    def ours(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        return functional_call(module, {"weight": weight, "bias": bias}, (x,))

    def theirs(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        return layer_norm_in_float64(x, weight, bias)

    def slopes(f: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        return grad(lambda weight, bias, x, upstream: (f(weight, bias, x) * upstream).sum(), (0, 1, 2))

    maps = ((None, None, 0), (0, 0, None), (0, 0, None))
    results = []
    for f in (ours, theirs):
        function, sloped = f, slopes(f)
        for places in maps:
            function, sloped = vmap(function, places), vmap(sloped, (*places, places[2]))
        results.append((function(weight, bias, x), *sloped(weight, bias, x, upstream)))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@every_norm
def test_second_derivatives_of_an_ensemble_are_those_of_the_definition(name: str) -> None:
    modules = ensemble(name, dtype=torch.float64)
    x, upstream = (sample(MEMBERS, ROWS, WIDTH, seed=seed).double() for seed in (1, 2))

    def penalty(module: nn.Module) -> Callable[..., Tensor]:
        def f(weights: dict[str, Tensor], x: Tensor, upstream: Tensor) -> Tensor:
            slope = grad(lambda x: (functional_call(module, weights, (x,)) ** 2 * upstream).sum())(x)
            return (slope**3).sum()

        return f

    weights = {key: one.detach() for key, one in stacked(modules).items()}
    got = vmap(grad(penalty(modules[0]), (0, 1)))(weights, x, upstream)
    again = grad(lambda *given: vmap(penalty(modules[0]))(*given).sum(), (0, 1))(weights, x, upstream)
    for member, module in enumerate(modules):
        module.backend = "eager"
        want = grad(penalty(module), (0, 1))(dict(module.named_parameters()), x[member], upstream[member])
        for each in (got, again):
            torch.testing.assert_close(each[1][member], want[1], rtol=1e-9, atol=1e-9)
            for key in weights:
                torch.testing.assert_close(each[0][key][member], want[0][key], rtol=1e-9, atol=1e-9)


def test_a_batch_of_gradients_and_of_no_rows() -> None:
    module = ensemble("layer_norm", dtype=torch.float64)[0]
    x = sample(ROWS, WIDTH, seed=1).double()
    want = jacrev(lambda x: F.layer_norm(x, (WIDTH,), module.weight, module.bias))(x)
    torch.testing.assert_close(jacrev(module)(x), want, rtol=1e-12, atol=1e-12)
    weights = stacked(ensemble("layer_norm"))
    empty = vmap(lambda weights, x: functional_call(module, weights, (x,)))(weights, torch.zeros(MEMBERS, 0, WIDTH))
    assert empty.shape == (MEMBERS, 0, WIDTH)
    empty.sum().backward()
    assert torch.equal(weights["weight"].grad, torch.zeros(MEMBERS, WIDTH))


def test_a_member_that_is_not_a_number_harms_no_other() -> None:
    modules, (x, upstream) = ensemble("layer_norm"), (sample(MEMBERS, ROWS, WIDTH, seed=seed) for seed in (1, 2))
    x[1] = torch.nan
    for way in (by_autograd, by_vmap_of_grad):
        z, dx, dweight, dbias = way(modules, x, upstream, None)
        assert all(one[1].isnan().all() for one in (z, dx, dweight))
        assert all(one[[0, 2]].isfinite().all() for one in (z, dx, dweight, dbias))


def test_many_rows_of_a_member_are_summed_as_alone() -> None:
    modules, (x, upstream) = ensemble("layer_norm"), (sample(MEMBERS, 20_000, WIDTH, seed=seed) for seed in (1, 2))
    for way in (by_autograd, by_vmap_of_grad):
        got = way(modules, x, upstream, None)
        for member, module in enumerate(modules):
            for ours, theirs in zip(got, alone(module, x[member], upstream[member], None), strict=True):
                assert torch.equal(ours[member], theirs)


def test_a_compiled_ensemble_is_the_ensemble() -> None:
    modules, x = ensemble("layer_norm", dtype=torch.float64), sample(MEMBERS, ROWS, WIDTH, seed=1).double()

    def run(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return vmap(lambda weights, x: functional_call(modules[0], weights, (x,)))(weights, x)

    weights = {key: one.detach() for key, one in stacked(modules).items()}
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)(weights, x)
    torch.testing.assert_close(compiled, run(weights, x), rtol=1e-12, atol=1e-12)
