"""Norms that are calls, by file and line."""

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from normscope.swapping.source import functional_norms, parameter_reads


def helper(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Calls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_norm(x)
        x = F.layer_norm(x, (4,))
        x = torch.nn.functional.group_norm(x, 2)
        return self.more(rms_norm(x, (4,)))

    def more(self, x: Tensor) -> Tensor:
        loss = x.square().mean()
        return helper(x) + loss + self.norm(x.to(self.norm.weight.dtype)) * self.norm.bias

    def never_called(self, x: Tensor) -> Tensor:
        return F.normalize(x)


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
    assert all(call.where.startswith(__file__) for call in functional_norms(Calls()))


def test_torchs_own_modules_are_not_read() -> None:
    assert functional_norms(nn.LayerNorm(4)) == []
    assert functional_norms(nn.Linear(4, 4)) == []


def test_code_without_a_source_is_left_out() -> None:
    space: dict = {"nn": nn, "F": F, "__name__": "nowhere"}
    exec("class Typed(nn.Module):\n    def forward(self, x):\n        return F.layer_norm(x, (4,))", space)
    assert functional_norms(space["Typed"]()) == []


def test_reads_past_a_child() -> None:
    reads = parameter_reads(Calls())
    line = str(line_of("return helper"))
    assert reads[("norm", "weight")] == (f"{__file__}:{line}", False)
    assert reads[("norm", "bias")] == (f"{__file__}:{line}", True)
