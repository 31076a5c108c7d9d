"""Norms as people write them: their conventions are recognized, or named unknown; a reading follows the measurement."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.analysis.fit_convention import fit_convention
from normscope.analysis.parity import Parity, parity

WIDTH = 64
EPS = 1e-6


class Written(nn.Module):
    """A function of the input, a weight and a bias, as a module."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor], start: float = 1.0) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.full((WIDTH,), start))
        self.bias = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight, self.bias)


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def llama(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    wide = x.float()
    return w * (wide * torch.rsqrt(mean(wide.pow(2)) + EPS)).to(x.dtype)


def t5(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * (x * torch.rsqrt(mean(x.float().pow(2)) + EPS)).to(w.dtype)


def gemma(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(mean(wide.pow(2)) + EPS) * (1.0 + w.float())).type_as(x)


def gemma_rounding_its_factor(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(mean(wide.pow(2)) + EPS)).type_as(x) * (1 + w)


def gemma_rounding_its_factor_alone(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(mean(wide.pow(2)) + EPS) * (1 + w).float()).type_as(x)


def all_in_half(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * x * torch.rsqrt(mean(x.pow(2)) + EPS)


def all_in_half_by_products(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * (x * torch.rsqrt(mean(x * x) + EPS))


def root_and_division_in_half(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x / torch.sqrt(mean(x * x) + EPS) * w


def squares_in_half(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * (x.float() * torch.rsqrt(mean(x.pow(2).float()) + EPS)).to(x.dtype)


def reciprocal_in_half(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x * torch.rsqrt(mean(x.float().pow(2)) + EPS).to(x.dtype) * w


def weight_first(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return (w * x * torch.rsqrt(mean(x.float().pow(2)) + EPS)).to(x.dtype)


def length_in_half(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x / (x.norm(dim=-1, keepdim=True) * WIDTH**-0.5).clamp(min=EPS) * w


def layer_norm_in_float32(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x.float(), (WIDTH,), w.float(), b.float(), EPS).type_as(x)


def layer_norm_cast_before_scaling(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x.float(), (WIDTH,), eps=EPS).type_as(x) * w + b


def annotated_transformer(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * (x - mean(x)) / (x.std(-1, keepdim=True) + EPS) + b


def gpt1(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    u = mean(x)
    s = mean((x - u).pow(2))
    return w * ((x - u) / torch.sqrt(s + EPS)) + b


def one_pass(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    wide = x.float()
    u, square = mean(wide), mean(wide * wide)
    return ((wide - u) * torch.rsqrt(square - u * u + EPS) * w.float() + b.float()).type_as(x)


def one_pass_by_sums(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    wide = x.float()
    u = wide.sum(-1, keepdim=True) / WIDTH
    variance = (wide**2).sum(-1, keepdim=True) / WIDTH - u**2
    return ((wide - u) / torch.sqrt(variance.clamp(min=0) + EPS) * w.float() + b.float()).type_as(x)


LLAMA = {"statistics": "float32", "order": "cast, then scale", "squares": "float32", "scale": "w"}
LAYER_NORM = {"statistics": "float32", "order": "scale, then cast", "squares": "float32", "variance": "two-pass"}
RECOGNIZED: dict[Callable[..., Tensor], dict[str, Any]] = {
    llama: LLAMA,
    t5: LLAMA,
    gemma: {**LLAMA, "order": "scale, then cast", "scale": "1 + w", "factor": "float32"},
    gemma_rounding_its_factor: {**LLAMA, "scale": "1 + w", "factor": "input"},
    gemma_rounding_its_factor_alone: {**LLAMA, "order": "scale, then cast", "scale": "1 + w", "factor": "input"},
    all_in_half: {
        "statistics": "input",
        "squares": "input",
        "order": "scale, then normalize",
        "division": "reciprocal",
    },
    all_in_half_by_products: {"statistics": "input", "squares": "input", "order": "cast, then scale"},
    length_in_half: {"statistics": "input", "squares": "float32", "order": "cast, then scale", "place": "least"},
    root_and_division_in_half: {
        "statistics": "input",
        "squares": "input",
        "order": "cast, then scale",
        "division": "quotient",
    },
    squares_in_half: {**LLAMA, "squares": "input"},
    reciprocal_in_half: {**LLAMA, "order": "cast, then normalize", "division": "reciprocal"},
    weight_first: {**LLAMA, "order": "scale, then normalize"},
    layer_norm_in_float32: LAYER_NORM,
    layer_norm_cast_before_scaling: {**LAYER_NORM, "order": "cast, then scale"},
    gpt1: {**LAYER_NORM, "statistics": "input", "squares": "input", "order": "cast, then scale"},
    annotated_transformer: {
        "statistics": "input",
        "squares": "float32",
        "order": "scale, then normalize",
        "divisor": "unbiased",
        "place": "added",
    },
    one_pass: {**LAYER_NORM, "variance": "one-pass"},
    one_pass_by_sums: {**LAYER_NORM, "variance": "one-pass"},
}


def ids(functions: Any) -> str:
    """Return the names of one function or several."""
    return "-".join(one.__name__ for one in (functions if isinstance(functions, tuple) else (functions,)))


def made(function: Callable[..., Tensor]) -> Written:
    return Written(function, 0.0 if function.__name__.startswith("gemma") else 1.0)


@pytest.mark.parametrize("function", RECOGNIZED, ids=ids)
def test_conventions_of_written_norms(function: Callable[..., Tensor]) -> None:
    fit = fit_convention(made(function), WIDTH, generator=torch.Generator().manual_seed(0))
    assert fit.recognized, fit.description
    got = {field: getattr(fit.convention, field) for field in RECOGNIZED[function]}
    assert got == RECOGNIZED[function]


@pytest.mark.parametrize("pair", list(itertools.combinations(RECOGNIZED, 2)), ids=ids)
def test_a_reading_does_not_contradict_the_measurement(pair: tuple[Callable[..., Tensor], ...]) -> None:
    found = parity(*map(made, pair), WIDTH, generator=torch.Generator().manual_seed(1), rows=16)
    if "the remaining differences are rounding" not in found.reading:
        return
    # Outputs of order one on well-conditioned rows: rounding is a few units of the last place.
    for difference in found.differences:
        if difference.rows == "normal":
            assert difference.difference is not None
            assert difference.difference < 16 * torch.finfo(getattr(torch, difference.dtype)).eps
        assert (difference.first_not_finite, difference.second_not_finite) == (0, 0)
        if difference.rows == "large":
            assert difference.difference is not None
            assert difference.difference < 0.1


def compared(first: nn.Module, second: nn.Module) -> Parity:
    return parity(first, second, WIDTH, generator=torch.Generator().manual_seed(0))


def test_squares_that_overflow_are_a_departure() -> None:
    found = compared(nn.RMSNorm(WIDTH, eps=EPS), made(all_in_half))
    assert [departure.convention for departure in found.departures] == ["statistics", "squares", "division", "order"]
    assert found.departures[1].effects["float16"] > 1
    assert "same conventions" not in found.reading


def test_what_is_not_recognized_is_named() -> None:
    def scaled(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        x = x * 0.25
        return (x.pow(2).sum(-1, keepdim=True) / WIDTH + EPS / 16).rsqrt() * w * x

    found = compared(nn.RMSNorm(WIDTH, eps=EPS), made(scaled))
    assert "conventions of its rounding not recognized" in found.reading
    assert "same conventions" not in found.reading
    assert "rounding explains" in found.reading or "not all of their conventions are recognized" in found.reading
    assert not {"statistics", "squares", "order"} & {departure.convention for departure in found.departures}


def test_equal_conventions_with_other_parameters() -> None:
    trained = nn.LayerNorm(WIDTH)
    with torch.no_grad():
        trained.weight.mul_(3)
    found = compared(nn.LayerNorm(WIDTH), trained)
    assert not found.departures
    assert "They follow the same conventions, yet they differ by" in found.reading
    assert "compare their parameters" in found.reading


def test_a_fault_in_one_dtype_is_not_rounding() -> None:
    def halved_in_float16(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = F.rms_norm(x, (WIDTH,), w, EPS)
        return y / 2 if x.dtype == torch.float16 else y

    found = compared(nn.RMSNorm(WIDTH, eps=EPS), made(halved_in_float16))
    assert "same conventions" not in found.reading
    assert "in float16" in found.second.description
