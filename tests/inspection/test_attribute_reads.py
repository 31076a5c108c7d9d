"""Numbers that code reads past the module they belong to: however it gets there."""

import inspect

import pytest
import torch
from torch import Tensor, nn

from normscope.inspection.attribute_reads import is_at, parameter_reads
from support.calls_in_forward import Calls


def test_reads_past_a_child() -> None:
    reads = parameter_reads(Calls())
    lines = inspect.getsource(inspect.getmodule(Calls)).splitlines()  # pyright: ignore
    (line,) = [number for number, one in enumerate(lines, 1) if one.strip().startswith("return helper")]
    file = inspect.getsourcefile(Calls)
    assert reads["norm", "weight"] == (f"{file}:{line}", False)
    assert reads["norm", "bias"] == (f"{file}:{line}", True)


class Lists(nn.Module):
    def forward(s, x: Tensor) -> Tensor:
        for n in s.norms:
            x = x.to(n.weight.dtype)
        for number, (one, other) in enumerate(zip(s.firsts, reversed(s.seconds), strict=True)):
            x = x * one.weight * other.bias * s.thirds[number].scale * s.thirds[1:][0].shift
        k = m = s.norm
        a, b = s.left, s.right
        x = x + k.weight + m.bias + a.weight + b.weight + getattr(s, "got").weight  # noqa: B009
        x = x + sum(layer.block.norm.weight for layer in s.layers) + s.deep.norm.weight
        x = x + sum(one.weight for _, one in s.named.items())
        for one in (s.up, s.down):
            x = x + one.weight.dtype.itemsize
        return s.more(x)

    def more(self, x: Tensor) -> Tensor:
        return x * self.last.weight


def test_local_names_loops_and_indices_are_followed() -> None:
    reads = {key: value for key, (_, value) in parameter_reads(Lists()).items()}
    wanted = {
        ("norms.*", "weight"): False,
        ("firsts.*", "weight"): True,
        ("seconds.*", "bias"): True,
        ("thirds.*", "scale"): True,
        ("thirds.*", "shift"): True,
        ("norm", "weight"): True,
        ("norm", "bias"): True,
        ("left", "weight"): True,
        ("right", "weight"): True,
        ("got", "weight"): True,
        ("layers.*.block.norm", "weight"): True,
        ("deep.norm", "weight"): True,
        ("named.*", "weight"): True,
        ("up", "weight"): False,
        ("down", "weight"): False,
        ("last", "weight"): True,
    }
    assert {key: reads.get(key) for key in wanted} == wanted


def test_a_name_given_from_itself_comes_to_an_end() -> None:
    class Walk(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            node = self.first
            while node is not None:
                x, node = node(x), node.next
            return x * node.weight

    assert ("first.next", "weight") in parameter_reads(Walk())


@pytest.mark.parametrize(
    ("path", "there"), [("a.*.norm", True), ("a.0.norm", True), ("a.*", False), ("*.1.norm", False)]
)
def test_places(path: str, there: bool) -> None:
    assert is_at(["a", "0", "norm"], path) == there


def test_modules_of_torch_are_not_read() -> None:
    assert parameter_reads(nn.TransformerEncoderLayer(4, 2)) == {}
    assert parameter_reads(nn.ModuleList([nn.Linear(2, 2)])) == {}
    assert torch.nn.Linear.forward.__module__.startswith("torch")
