"""Depth is read from what runs: one function has the same findings and numbers however it is written."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from normscope.diagnostics.diagnosis import Diagnosis, diagnose
from support.planted import CASES, next_pixel
from support.written import WAYS, TwoStreams, Written, parts_of


def leaves(value: Any) -> Iterator[Any]:
    """Yield the numbers and texts in nested values."""
    if isinstance(value, Mapping):
        yield from leaves([*value.items()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    else:
        yield pytest.approx(value, rel=1e-4, nan_ok=True) if isinstance(value, float) else value


def numbers(told: Diagnosis) -> list[Any]:
    """Return what does not depend on names."""
    read = [
        {
            "layers": [
                (layer.placement, layer.norms, layer.activation, layer.gradient, layer.weight_gradient)
                for layer in stack.layers
            ],
            "of the stack": (stack.placement, stack.residual, stack.final_norm, stack.passes, stack.theory),
            "numbers": (stack.growth, stack.gradient_ratio, stack.activation_slope, stack.common_share),
        }
        for stack in told.stacks
    ]
    return [*leaves([read, told.first_update, sorted(finding.name for finding in told.findings)])]


@cache
def planted(cause: str, place: int, way: str) -> Diagnosis:
    case = CASES[cause][place](0)
    case.model.train()
    if cause == "batch_norm_in_eval" and place == 0:
        case.model.apply(lambda module: module.eval() if isinstance(module, nn.BatchNorm2d) else None)
    model = WAYS[way](parts_of(case))
    return diagnose(model, case.batch, case.loss, generator=torch.Generator().manual_seed(0), **case.settings)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "list"])
@pytest.mark.parametrize("place", [0, 1], ids=["fault", "healthy"])
@pytest.mark.parametrize("cause", CASES)
def test_a_planted_fault_is_the_same_however_it_is_written(cause: str, place: int, way: str) -> None:
    told = planted(cause, place, way)
    assert {finding.name for finding in told.findings} == ({cause} if place == 0 else set())
    assert [len(stack.layers) for stack in told.stacks] == [len(parts_of(CASES[cause][place](0))[1])]
    assert numbers(told) == numbers(planted(cause, place, "list"))


@pytest.mark.parametrize("towers", [False, True], ids=["encoder and decoder", "two towers"])
@pytest.mark.parametrize("ends", [(True, True), (True, False), (False, True), (False, False)])
def test_every_stream_has_its_own_end(ends: tuple[bool, bool], towers: bool) -> None:
    tokens = torch.arange(36).reshape(4, 9) % 17
    told = [
        diagnose(TwoStreams(ends, way, towers=towers, swapped=swapped), tokens, next_pixel)
        for way in ("lists", "dictionaries", "attributes", "one list")
        for swapped in (False, True)
    ]
    assert all(numbers(each) == numbers(told[0]) for each in told)
    assert [(len(stack.layers), stack.final_norm) for stack in told[0].stacks] == [(3, ends[0]), (4, ends[1])]
    assert [finding.name for finding in told[0].findings] == ["missing_final_norm"] * ends.count(False)
    lists = diagnose(TwoStreams(ends, "lists", towers=towers), tokens, next_pixel)
    assert [finding.where for finding in lists.findings] == [f"stream_{n}" for n in (0, 1) if not ends[n]]


class Skipping(Written):
    """Layer drop: some blocks do not run, others run again."""

    order = (0, 0, 1, 3, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = next(place for place, step in enumerate(self.steps) if step.__self__ is self.blocks[0])  # pyright: ignore
        blocks = [self.steps[first + place] for place in self.order]
        for step in (*self.steps[:first], *blocks, *self.steps[first + len(self.blocks) :]):
            x = step(x)
        return x


def test_depth_is_that_of_the_layers_that_run() -> None:
    for place in (0, 1):
        case = CASES["missing_final_norm"][place](0)
        model = Skipping(parts_of(case))
        told = diagnose(model, case.batch, case.loss, learning_rate=1e-3)
        (stack,) = told.stacks
        assert [layer.name for layer in stack.layers] == [f"blocks.{place}" for place in Skipping.order]
        assert [finding.name for finding in told.findings] == ["missing_final_norm"][place:]
        assert told.first_update is not None
        assert told.first_update["layers"] == 6


class Repeated(nn.Module):
    """One block that is an attribute and runs several times, as in a universal transformer."""

    def __init__(self, block: nn.Module, *, end: bool) -> None:
        super().__init__()
        self.head, self.block, self.words = nn.Linear(32, 18), block, nn.Embedding(18, 32)
        self.end = nn.LayerNorm(32) if end else nn.Identity()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens)
        for _ in range(5):
            x = self.block(x)
        return self.head(self.end(x))


@pytest.mark.parametrize("end", [True, False])
def test_a_block_that_is_shared_is_as_deep_as_it_is_called(end: bool) -> None:
    case = CASES["missing_final_norm"][0](0)
    block = parts_of(case)[1][0]
    told = diagnose(Repeated(block, end=end), case.batch, case.loss)
    (stack,) = told.stacks
    assert ([layer.name for layer in stack.layers], stack.final_norm) == (["block"] * 5, end)
    assert [finding.name for finding in told.findings] == ([] if end else ["missing_final_norm"])


class UNet(nn.Module):
    """Down, middle and up with skip connections, registered in another order than they run."""

    def __init__(self, order: tuple[str, ...], *, end: bool) -> None:
        super().__init__()
        torch.manual_seed(0)

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(parts_of(CASES["missing_final_norm"][0](0))[1][:2])

        parts = {"down": blocks(), "up": blocks(), "middle": blocks(), "out": nn.Linear(32, 18)}
        parts["words"] = nn.Embedding(18, 32)
        self.skips = nn.ModuleList(nn.Linear(64, 32) for _ in range(2))
        for name in order:
            self.add_module(name, parts[name])
        self.norm_out = nn.LayerNorm(32) if end else nn.Identity()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x, kept = self.get_submodule("words")(tokens), []
        for block in self.get_submodule("down").children():
            kept.append(x := block(x))
        for block in self.get_submodule("middle").children():
            x = block(x)
        for block, skip in zip(self.get_submodule("up").children(), self.skips, strict=True):
            x = block(x + 0.1 * skip(torch.cat([x, kept.pop()], -1)))
        return self.get_submodule("out")(self.norm_out(x))


@pytest.mark.parametrize("end", [True, False])
def test_the_last_layer_is_the_one_that_runs_last(end: bool) -> None:
    batch = CASES["missing_final_norm"][0](0).batch
    orders = [
        ("words", "down", "middle", "up", "out"),
        ("words", "down", "up", "middle", "out"),
        ("up", "out", "middle", "words", "down"),
    ]
    told = [diagnose(UNet(order, end=end), batch, next_pixel) for order in orders]
    for each in told:
        assert numbers(each) == numbers(told[0])
        names = [layer.name for stack in each.stacks for layer in stack.layers]
        assert [name for name in names if "skips" not in name] == [
            f"{part}.{place}" for part in ("down", "middle", "up") for place in (0, 1)
        ]
        assert [finding.name for finding in each.findings] == ([] if end else ["missing_final_norm"])
