"""Arguments are checked by annotation: which values fit, and what the message says of one that does not."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normscope
from normscope.arguments import check_argument, check_arguments

FITS = [
    (int, [3, -1, np.int64(3), np.uint8(3)]),
    (float, [3, 0.5, np.float32(0.5), np.int64(3), float("nan")]),
    (bool, [True, False]),
    (str, ["", "text", np.str_("text")]),
    (Path, ["text", Path("text")]),
    (int | None, [3, None]),
    (int | Sequence[int], [3, [3], (), range(3), np.arange(3), [np.int32(1)]]),
    (Sequence[str], [["a"], ("a",), [], np.array(["a"])]),
    (Iterable[str], [["a"], {"a"}, {"a": 1}, (each for each in "ab"), (each for each in [3])]),
    (tuple[str, str], [("a", "b"), ["a", "b"]]),
    (tuple[int, ...], [(), (1, 2), [1]]),
    (Literal["a", "b"] | None, ["a", None]),
    (Mapping[str, Any], [{}, {"a": 1}]),
    (Callable[[int], nn.Module], [nn.LayerNorm, lambda width: nn.LayerNorm(width), len]),
    (Callable[[Tensor], Tensor], [nn.LayerNorm(4), torch.exp]),
    (Callable[..., Any], [nn.LayerNorm, nn.LayerNorm(4), len]),
    (type[nn.Module], [nn.LayerNorm]),
    (nn.Module, [nn.LayerNorm(4), normscope.LayerNorm(4)]),
    (Tensor, [torch.ones(1), nn.Parameter(torch.ones(1))]),
    (Any, [None, 3, True, nn.LayerNorm]),
]

DOES_NOT_FIT = [
    ("n", int, True, "n must be a whole number, got True"),
    ("n", int, 2.0, "n must be a whole number, got 2.0 of type float"),
    ("rate", float, "0.1", "rate must be a number, got '0.1' of type str"),
    ("rate", float | None, torch.ones(1), "rate must be a number or None, got tensor([1.]) of type Tensor"),
    ("only", Sequence[str], "weight", "only must be a sequence of strings, got 'weight' of type str: write ['weight']"),
    (
        "only",
        Sequence[str],
        (each for each in "ab"),
        "only must be a sequence of strings, got a generator, which can be read only once",
    ),
    ("only", Sequence[str], {"a": 1}, "only must be a sequence of strings, got {'a': 1} of type dict"),
    ("norms", Sequence[str], [nn.LayerNorm], "write names; a class or function gets one from an entry point"),
    ("model", nn.Module, nn.GELU, "model must be a torch.nn.Module, got the class GELU: build it first, GELU(...)"),
    ("model", nn.Module, len, "model must be a torch.nn.Module, got the function len"),
    ("kind", Literal["a", "b"], "c", "kind must be one of 'a', 'b', got 'c' of type str"),
    ("names", tuple[str, str], ("a",), "names must be 2 strings, got ('a',) of type tuple"),
    ("what", type[nn.Module], nn.GELU(), "what must be a subclass of torch.nn.Module, got GELU("),
    ("make", Callable[[int], nn.Module], nn.GELU(), "make must be a function, got GELU("),
    ("norm", Callable[[Tensor], Tensor], nn.GELU, "norm must be a function, got the class GELU"),
]


@pytest.mark.parametrize(("hint", "values"), FITS, ids=[str(hint) for hint, _ in FITS])
def test_values_that_fit(hint: Any, values: list[Any]) -> None:
    for value in values:
        check_argument("x", value, hint)


@pytest.mark.parametrize(("name", "hint", "value", "message"), DOES_NOT_FIT)
def test_values_that_do_not_fit(name: str, hint: Any, value: Any, message: str) -> None:
    kind = ValueError if isinstance(value, str) and "one of" in message else TypeError
    with pytest.raises(kind) as told:
        check_argument(name, value, hint)
    assert message in str(told.value)


def test_a_checked_function_keeps_its_face_and_its_errors() -> None:
    @check_arguments
    def double(x: int, *rest: str, y: "str" = "", **options: int) -> int:
        """Return twice x."""
        return 2 * x

    assert (double.__name__, double.__doc__) == ("double", "Return twice x.")
    assert double(2, "a", y=3, z="not checked") == 4
    with pytest.raises(TypeError, match="x must be a whole number, got '2' of type str"):
        double("2")
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        double()


def test_seeds_of_numpy_and_a_range_are_whole_numbers() -> None:
    for seeds in (np.int64(2), range(2), np.arange(2), (0, 1), [np.int32(0), 1]):
        assert normscope.make_study("digits", seeds=seeds).seeds == (0, 1)
