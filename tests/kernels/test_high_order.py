"""Derivatives of orders one to four, in reverse and forward mode, nested and batched, against series of the equation.

The oracle expands the equation of a norm along a line, x + t v, as a polynomial in t in plain arithmetic: the k-th
derivative is k! times a coefficient. It asks torch for no derivative.
"""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import normscope
from support.family import sample
from support.pairwise import parametrize_pairwise

ORDERS = range(1, 5)
ROWS, WIDTH = 3, 5
EPS = 0.25


class Series:
    """A polynomial in t up to the fourth power, with tensors for coefficients."""

    def __init__(self, *terms: Tensor | float) -> None:
        self.terms = [torch.as_tensor(term, dtype=torch.float64) for term in terms]
        self.terms += [torch.zeros_like(self.terms[0])] * (5 - len(terms))

    def __add__(self, other: "Series | Tensor | float") -> "Series":
        other = other if isinstance(other, Series) else Series(other)
        return Series(*(a + b for a, b in zip(self.terms, other.terms, strict=True)))

    def __mul__(self, other: "Series | Tensor | float") -> "Series":
        other = other if isinstance(other, Series) else Series(other)
        return Series(*(sum(self.terms[i] * other.terms[k - i] for i in range(k + 1)) for k in range(5)))

    def power(self, exponent: float) -> "Series":
        """Return a power by the recursion of J. C. P. Miller, which follows from p f' g = f g' for g = f^p."""
        first = self.terms[0]
        out = [first**exponent]
        for k in range(1, 5):
            parts = ((exponent * i - (k - i)) * self.terms[i] * out[k - i] for i in range(1, k + 1))
            out.append(sum(parts) / (k * first))
        return Series(*out)

    def over(self, function: Callable[[Tensor], Tensor]) -> "Series":
        """Apply a linear function."""
        return Series(*map(function, self.terms))

    def fixed(self) -> "Series":
        """Keep the value alone, as what is detached does."""
        return Series(self.terms[0])


def mean(x: Series, axes: tuple[int, ...] = (-1,)) -> Series:
    return x.over(lambda term: term.mean(axes, keepdim=True))


def root_mean_square(c: Series, axes: tuple[int, ...] = (-1,)) -> Series:
    return (mean(c * c, axes) + EPS).power(-0.5)


def centered(x: Series, axes: tuple[int, ...] = (-1,)) -> Series:
    return x + mean(x, axes) * -1.0


def standard(x: Series, axes: tuple[int, ...] = (-1,)) -> Series:
    c = centered(x, axes)
    return c * root_mean_square(c, axes)


def released(x: Series) -> Series:
    c = centered(x)
    length = (mean(c * c) * (WIDTH / (WIDTH - 1))).power(0.5)
    return c * (length + EPS).power(-1.0)


def ada(y: Series, scale: float = 1.5, k: float = 0.3) -> Series:
    return (y.fixed() * (-scale * k) + scale) * y


def detached(x: Series, *, of_mean: bool, of_std: bool) -> Series:
    c = x + (mean(x).fixed() if of_mean else mean(x)) * -1.0
    inner = root_mean_square(centered(x))
    return c * (inner.fixed() if of_std else inner)


def affine(y: Series, module: nn.Module) -> Series:
    y = y * module.weight.detach()
    return y + module.bias.detach() if getattr(module, "bias", None) is not None else y


BACKENDS = ("eager", "cpu")
CASES: dict[str, tuple[Callable[..., nn.Module], Callable[[nn.Module, Series], Series]]] = {
    "layer_norm": (normscope.LayerNorm, lambda module, x: affine(standard(x), module)),
    "layer_norm_simple": (normscope.LayerNormSimple, lambda module, x: standard(x)),
    "rms_norm": (normscope.RMSNorm, lambda module, x: affine(x * root_mean_square(x), module)),
    "scale_norm": (normscope.ScaleNorm, lambda module, x: affine(x * (mean(x * x) * WIDTH).power(-0.5), module)),
    "ada_norm": (lambda *a, **k: normscope.AdaNorm(*a, scale=1.5, k=0.3, **k), lambda module, x: ada(standard(x))),
    "ada_norm_released": (
        lambda *a, **k: normscope.AdaNorm(*a, scale=1.5, k=0.3, convention="released", **k),
        lambda module, x: ada(released(x)),
    ),
    "detach_norm": (normscope.DetachNorm, lambda module, x: detached(x, of_mean=True, of_std=True)),
    "detach_norm_mean": (
        lambda *a, **k: normscope.DetachNorm(*a, std=False, **k),
        lambda module, x: detached(x, of_mean=True, of_std=False),
    ),
    "detach_norm_std": (
        lambda *a, **k: normscope.DetachNorm(*a, mean=False, **k),
        lambda module, x: detached(x, of_mean=False, of_std=True),
    ),
    "batch_norm": (
        lambda *a, backend, **k: normscope.BatchNorm(*a, track_running_stats=False, **k),
        lambda module, x: affine(standard(x, (0,)), module),
    ),
    "frn": (
        lambda *a, backend, **k: normscope.FRN(*a, **k),
        lambda module, x: affine(x * root_mean_square(x, (1,)), module),
    ),
}


def make(name: str, backend: str | None) -> nn.Module:
    module = CASES[name][0](WIDTH, EPS, dtype=torch.float64, backend=backend)
    for seed, parameter in enumerate(module.parameters()):
        parameter.data = sample(*parameter.shape, seed=10 + seed) * 0.3 + 1.2
    if name == "frn":
        module.threshold.data.fill_(-1e9)
    return module.requires_grad_(False)


def point(name: str) -> tuple[Tensor, Tensor]:
    shape = (ROWS, 2, WIDTH) if name == "frn" else (ROWS, WIDTH)
    return sample(*shape) * 0.6 + 0.4, sample(*shape, seed=1)


def wanted(name: str, module: nn.Module) -> list[float]:
    """Compute the derivatives along the line of a random projection of the norm's square, plus the norm."""
    x, v = point(name)
    y = CASES[name][1](module, Series(x, v))
    score = (y * y + y) * sample(*x.shape, seed=2)
    return [math.factorial(k) * float(score.terms[k].sum()) for k in range(5)]


def line(name: str, module: nn.Module) -> Callable[[Tensor], Tensor]:
    x, v = point(name)
    projection = sample(*x.shape, seed=2)

    def score(t: Tensor) -> Tensor:
        y = module(x + t * v)
        return ((y * y + y) * projection).sum()

    return score


def forwards(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda t: jvp(function, (t,), (torch.ones_like(t),))[1]


def graphs(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Differentiate by autograd itself, keeping the graph."""

    def derivative(t: Tensor) -> Tensor:
        t = t if t.requires_grad else t.detach().requires_grad_()
        score = function(t)
        if not score.requires_grad:
            return torch.zeros_like(t)
        (out,) = torch.autograd.grad(score, t, create_graph=True, materialize_grads=True)
        return out

    return derivative


STEPS = {"reverse": grad, "forward": forwards, "jacrev": jacrev, "jacfwd": jacfwd}
WAYS = {
    f"{order} {'-'.join(way)}": way
    for order in ORDERS
    for way in (
        *itertools.product(("reverse", "forward"), repeat=order),
        ("jacrev",) * order,
        ("jacfwd",) * order,
    )
}


def assert_same(got: Tensor, want: float) -> None:
    # Sums of a hundred terms, which grow with the order.
    assert abs(got.item() - want) <= 1e-11 * max(1.0, abs(want)), (got.item(), want)


@pytest.mark.parametrize("name", CASES)
def test_the_series_are_those_of_finite_differences_of_the_module(name: str) -> None:
    """The oracle's values, and its second derivative by differences of values alone, where nothing is detached."""
    module = make(name, None)
    want, score = wanted(name, module), line(name, module)
    assert_same(score(torch.zeros((), dtype=torch.float64)), want[0])
    if not name.startswith(("ada", "detach")):
        h = 1e-4
        up, at, down = (float(score(torch.tensor(t, dtype=torch.float64))) for t in (h, 0.0, -h))
        assert abs((up - down) / (2 * h) - want[1]) < 1e-6 * max(1, abs(want[1]), abs(want[3]))
        assert abs((up - 2 * at + down) / h**2 - want[2]) < 1e-5 * max(1, abs(want[2]), abs(want[4]))
        assert all(abs(one) > 1e-3 for one in want)


@parametrize_pairwise("name, way, backend, batched", CASES, WAYS, BACKENDS, [False, True])
def test_transforms_of_every_order_are_those_of_the_series(name: str, way: str, backend: str, batched: bool) -> None:
    module = make(name, backend)
    function = line(name, module)
    for step in reversed(WAYS[way]):
        function = STEPS[step](function)
    order, zero = len(WAYS[way]), torch.zeros((), dtype=torch.float64)
    got = vmap(function)(torch.zeros(2, dtype=torch.float64))[1] if batched else function(zero)
    assert_same(got, wanted(name, module)[order])


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_graphs_of_every_order_are_those_of_the_series(name: str, backend: str, learns: bool) -> None:
    module = make(name, backend).requires_grad_(learns)
    function, want = line(name, module), wanted(name, module)
    for order in ORDERS:
        function = graphs(function)
        assert_same(function(torch.zeros((), dtype=torch.float64)), want[order])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_a_forward_derivative_of_a_graph_of_any_order_is_that_of_the_series(name: str, backend: str) -> None:
    module = make(name, backend)
    function, want = line(name, module), wanted(name, module)
    for order in (2, 3, 4):
        function = graphs(function)
        with torch.autograd.forward_ad.dual_level():
            t = torch.zeros((), dtype=torch.float64, requires_grad=True)
            dual = torch.autograd.forward_ad.make_dual(t, torch.ones((), dtype=torch.float64))
            tangent = torch.autograd.forward_ad.unpack_dual(function(dual)).tangent
        assert_same(torch.zeros_like(t) if tangent is None else tangent, want[order])


@pytest.mark.parametrize("way", ["1 reverse", "2 forward-forward", "3 reverse-forward-reverse"])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "scale_norm"])
def test_compiled_transforms_are_those_of_the_series(name: str, way: str) -> None:
    module = make(name, None)
    function = line(name, module)
    for step in reversed(WAYS[way]):
        function = STEPS[step](function)
    got = torch.compile(function, backend="aot_eager")(torch.zeros((), dtype=torch.float64))
    assert_same(got, wanted(name, module)[len(WAYS[way])])
