"""Norms that are calls, by file and line."""

import functools
import inspect
from pathlib import Path

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from normscope.inspection.functional_calls import functional_norms
from support import calls_in_forward
from support.calls_in_forward import Calls


def line_of(text: str) -> int:
    lines = inspect.getsource(inspect.getmodule(Calls)).splitlines()
    (line,) = [number for number, one in enumerate(lines, 1) if one.strip().startswith(text)]
    return line


def test_calls_are_found_with_their_line_and_methods_are_not() -> None:
    found = {call.where.rpartition(":")[2]: call.text for call in functional_norms(Calls())}
    assert found == {
        str(line_of("x = F.layer_norm")): "F.layer_norm(x, (4,))",
        str(line_of("x = torch.nn.functional")): "torch.nn.functional.group_norm(x, 2)",
        str(line_of("return self.more(rms_norm")): "rms_norm(x, (4,))",
        str(line_of("return x * torch.rsqrt")): "x.pow(2).mean(-1, keepdim=True)",
    }
    assert all(call.where.startswith(calls_in_forward.__file__) for call in functional_norms(Calls()))


def test_torchs_own_modules_are_not_read() -> None:
    assert functional_norms(nn.LayerNorm(4)) == []
    assert functional_norms(nn.Linear(4, 4)) == []


def test_code_without_a_source_is_left_out() -> None:
    space: dict = {"nn": nn, "F": F, "__name__": "nowhere"}
    exec("class Typed(nn.Module):\n    def forward(self, x):\n        return F.layer_norm(x, (4,))", space)
    assert functional_norms(space["Typed"]()) == []


def test_generated_code_and_circles_of_decorators_raise_nothing() -> None:
    space: dict = {}
    exec("def forward(self, x):\n    return x", space)
    assert space["forward"].__module__ is None
    generated = type("Generated", (nn.Module,), {"forward": space["forward"]})
    assert functional_norms(generated()) == []

    class Circle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(x)

    def around(self: nn.Module, x: Tensor) -> Tensor:
        return F.normalize(x)

    Circle.forward.__wrapped__ = around  # pyright: ignore
    around.__wrapped__ = Circle.forward  # pyright: ignore
    assert len(functional_norms(Circle())) == 1

    class Odd(nn.Module):
        forward = functools.partial(F.normalize, p=2)  # pyright: ignore

    assert functional_norms(Odd()) == []


def test_methods_are_read_whatever_they_call_their_module() -> None:
    class Static(nn.Module):
        def forward(me, x: Tensor) -> Tensor:
            return me.unit(me.other(x))

        @staticmethod
        def unit(x: Tensor) -> Tensor:
            return F.normalize(x)

        @classmethod
        def other(cls, x: Tensor) -> Tensor:
            return F.normalize(x, dim=0)

    assert sorted(call.text for call in functional_norms(Static())) == ["F.normalize(x)", "F.normalize(x, dim=0)"]


@pytest.mark.parametrize("text", ["", "(((", "class Typed:\n  x = '''\n\n\n", "\0\n\0\n\0"])
def test_a_source_file_that_is_gone_or_broken_is_left_out(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    code = "class Typed(nn.Module):\n    def forward(self, x):\n        return F.layer_norm(x, (4,))"
    space: dict = {"nn": nn, "F": F, "__name__": "nowhere"}
    exec(compile(code, str(path), "exec"), space)
    path.write_text(text)
    assert functional_norms(space["Typed"]()) == []
