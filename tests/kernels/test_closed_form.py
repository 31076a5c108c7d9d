"""The closed form is the derivative of the definition, and differentiable itself, for every set of flags."""

import pytest
import torch
from torch import Tensor

from normscope.kernels.formula import CENTER, DETACH_STD, LENGTH, RELEASED, Formula, gradients
from support.family import MEMBERS, definition, gain, sample

ROWS, WIDTH = 5, 7
# Sums of at most thirty-five terms of order ten, in either order.
SAME = {"rtol": 0, "atol": 1e-12}

every_member = pytest.mark.parametrize("name", MEMBERS)
with_and_without_gain = pytest.mark.parametrize("gained", [True, False], ids=["gain", "no_gain"])


def mean_square(formula: Formula, x: Tensor) -> Tensor:
    c = x - x.mean(-1, keepdim=True) if formula.flags & CENTER else x
    return c.square().mean(-1).detach()


def both(formula: Formula, x: Tensor, weight: Tensor | None, dz: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Compute the first derivatives by the closed form and by autograd, both differentiable."""
    bias = torch.zeros(WIDTH, dtype=x.dtype, requires_grad=True)
    z, _ = definition(formula, x, weight=weight, bias=bias)
    wanted = [x, bias] if weight is None else [x, bias, weight]
    theirs = list(torch.autograd.grad(z, wanted, dz, create_graph=True))
    kept = x if formula.keeps_input(weight is not None) else None
    dx, dweight, dbias = gradients(formula, dz, kept, mean_square(formula, x), weight)
    assert (dweight is None) == (weight is None)
    return [one for one in (dx, dbias, dweight) if one is not None], theirs


def second(first: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    probes = [sample(*one.shape, seed=20 + at) for at, one in enumerate(first)]
    pairs = [(one, probe) for one, probe in zip(first, probes, strict=True) if one.requires_grad]
    ones, probes = zip(*pairs, strict=True)
    return list(torch.autograd.grad(ones, inputs, probes, allow_unused=True, materialize_grads=True))


@every_member
@with_and_without_gain
def test_first_and_second_derivatives_are_those_of_the_definition(name: str, gained: bool) -> None:
    x, dz = sample(ROWS, WIDTH).requires_grad_(), sample(ROWS, WIDTH, seed=1).requires_grad_()
    weight = gain(WIDTH).requires_grad_() if gained else None
    ours, theirs = both(MEMBERS[name], x, weight, dz)
    inputs = [one for one in (x, dz, weight) if one is not None]
    for mine, wanted in ((ours, theirs), (second(ours, inputs), second(theirs, inputs))):
        for a, b in zip(mine, wanted, strict=True):
            torch.testing.assert_close(a, b, **SAME)


@every_member
@with_and_without_gain
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_constant_row_has_the_definitions_first_derivatives_and_finite_second_ones(
    name: str, gained: bool, value: float
) -> None:
    x = sample(ROWS, WIDTH)
    x[2] = value
    x, dz = x.requires_grad_(), sample(ROWS, WIDTH, seed=1).requires_grad_()
    weight = gain(WIDTH).requires_grad_() if gained else None
    ours, theirs = both(MEMBERS[name], x, weight, dz)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)  # eps is 0.01: numbers of order a thousand
    inputs = [one for one in (x, dz, weight) if one is not None]
    mine, wanted = second(ours, inputs), second(theirs, inputs)
    assert all(one.isfinite().all() for one in mine)
    kink = MEMBERS[name].divisor in (RELEASED, LENGTH) and not MEMBERS[name].flags & DETACH_STD
    good = [row for row in range(ROWS) if row != 2 or not kink]
    for a, b in zip(mine[:2], wanted[:2], strict=True):
        torch.testing.assert_close(a[good], b[good], rtol=0, atol=1e-8)


@every_member
@with_and_without_gain
@pytest.mark.parametrize("size", [1e-4, 1e3])
def test_a_row_far_shorter_or_longer_than_eps_has_the_definitions_derivatives(
    name: str, gained: bool, size: float
) -> None:
    x, dz = (size * sample(ROWS, WIDTH)).requires_grad_(), sample(ROWS, WIDTH, seed=1).requires_grad_()
    weight = gain(WIDTH).requires_grad_() if gained else None
    ours, theirs = both(MEMBERS[name], x, weight, dz)
    inputs = [one for one in (x, dz, weight) if one is not None]
    for mine, wanted in ((ours, theirs), (second(ours, inputs), second(theirs, inputs))):
        for a, b in zip(mine, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12 * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("name", ["center-root", "root", "length", "center-released"])
def test_third_derivatives_are_those_of_the_definition(name: str) -> None:
    x, dz = sample(ROWS, WIDTH).requires_grad_(), sample(ROWS, WIDTH, seed=1)
    results = []
    for first in zip(*both(MEMBERS[name], x, None, dz), strict=True):
        results.append(first)
    ours, theirs = ([pair[side] for pair in results][:1] for side in (0, 1))
    thirds = []
    for (first,) in (ours, theirs):
        (twice,) = torch.autograd.grad(first, x, sample(ROWS, WIDTH, seed=2), create_graph=True)
        thirds.append(torch.autograd.grad(twice, x, sample(ROWS, WIDTH, seed=3))[0])
    torch.testing.assert_close(thirds[0], thirds[1], rtol=0, atol=1e-10)
    assert thirds[0].abs().max() > 0.1


@every_member
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_gradient_has_the_dtype_of_what_came_in_and_the_parameters_that_of_the_statistics(
    name: str, dtype: torch.dtype
) -> None:
    formula = MEMBERS[name]
    x, dz, weight = (one.to(dtype) for one in (sample(ROWS, WIDTH), sample(ROWS, WIDTH, seed=1), gain(WIDTH)))
    dx, dweight, dbias = gradients(formula, dz, x, mean_square(formula, x.float()), weight)
    assert (dx.dtype, dweight.dtype, dbias.dtype) == (dtype, torch.float32, torch.float32)
    want, *_ = gradients(formula, dz.double(), x.double(), mean_square(formula, x.double()), weight.double())
    # The float32 inside leaves a few of its own roundings beside the one of the result.
    atol = 0 if dtype != torch.float32 else 16
    atol = (atol * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps) * want.abs().max().item()
    torch.testing.assert_close(dx.double(), want, rtol=0, atol=atol)
