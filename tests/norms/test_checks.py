"""Checks refuse what a norm cannot compute, and say what they wanted."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from normscope.norms.checks import as_shape, check_eps, check_input, check_number


@pytest.mark.parametrize(("given", "want"), [(7, (7,)), ((3, 7), (3, 7)), ([7], (7,)), (torch.Size([2, 3]), (2, 3))])
def test_a_shape_is_a_tuple(given: int | tuple[int, ...], want: tuple[int, ...]) -> None:
    assert as_shape(given) == want


@pytest.mark.parametrize("given", [0, -3, (), (4, 0)])
def test_a_shape_has_entries(given: int | tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="normalized_shape must hold one or more sizes of at least 1, got"):
        as_shape(given)


@pytest.mark.parametrize("given", [2.5, (2.5,), (3, True), None, "ab", ("4",)])
def test_a_shape_has_whole_numbers(given: object) -> None:
    with pytest.raises(TypeError, match="normalized_shape must be an int or a sequence of ints, got"):
        as_shape(given)  # pyright: ignore[reportArgumentType]


def test_numpys_whole_numbers_are_whole_numbers() -> None:
    (size,) = as_shape(np.int64(4))
    assert (size, type(size)) == (4, int)


@pytest.mark.parametrize("eps", [None, "1e-5"])
def test_eps_is_a_number(eps: object) -> None:
    with pytest.raises(TypeError, match="eps must be a number, got"):
        check_eps(eps)  # pyright: ignore[reportArgumentType]


def test_eps_may_be_zero() -> None:
    assert check_eps(0) == 0
    assert check_eps(1e-5) == 1e-5


@pytest.mark.parametrize("eps", [-1e-12, float("inf"), float("nan")])
def test_eps_is_no_other_number(eps: float) -> None:
    with pytest.raises(ValueError, match=f"eps must be finite and at least 0, got {eps}"):
        check_eps(eps)


def test_an_input_may_have_any_leading_axes() -> None:
    for shape in [(2, 3), (5, 2, 3), (0, 2, 3)]:
        check_input(nn.Identity(), torch.empty(shape), (2, 3))


@pytest.mark.parametrize("shape", [(), (3,), (3, 2), (2, 3, 1)])
def test_an_input_has_the_trailing_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Identity\(\) expects \[\.\.\., 2, 3\], got \["):
        check_input(nn.Identity(), torch.empty(shape), (2, 3))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_an_input_is_floating(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=rf"Identity\(\) expects a floating dtype, got {dtype}"):
        check_input(nn.Identity(), torch.zeros(2, 3, dtype=dtype), (3,))


@pytest.mark.parametrize(
    ("value", "bounds", "error", "words"),
    [
        ("2", {}, TypeError, "scale must be a number, got '2'"),
        (math.nan, {}, ValueError, "scale must be finite, got nan"),
        (0.0, {"above": 0}, ValueError, "scale must be finite and above 0, got 0"),
        (-0.5, {"least": 0}, ValueError, r"scale must be finite and at least 0, got -0\.5"),
    ],
)
def test_a_number_has_its_bounds(value: float, bounds: dict[str, float], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        check_number("scale", value, **bounds)
    assert check_number("scale", 0.25, **bounds) == 0.25
