"""Every registered norm is found, described, swapped in and out, undone, diagnosed, compared and listed.

The same holds for a norm of another package: test_plugin_norms.py installs some and runs this file again.
"""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from normscope.cli.costs.norms import bench_norms
from normscope.diagnostics.diagnosis import diagnose
from normscope.inspection import find_norms
from normscope.norms import NORMS, LayerNorm, ScaleNorm
from normscope.surgery import swap, to_rms_norm
from support.made_norms import NEEDS_POSITIONS

WIDTH = 8
every_norm = pytest.mark.parametrize("name", NORMS)


def model_with(norm: nn.Module) -> nn.Sequential:
    """Build a small network whose only norm is the given one."""
    return nn.Sequential(nn.Linear(6, WIDTH), norm, nn.Tanh(), nn.Linear(WIDTH, 3))


def batch() -> Tensor:
    return torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    norm = NORMS[name](WIDTH)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return norm


@every_norm
def test_found_and_described(name: str) -> None:
    norm = made(name)
    (found,), unreachable = find_norms(model_with(norm), for_replacement=True)
    assert unreachable == []
    assert (found.names, found.kind, found.shape, found.channels_first) == (("1",), name, (WIDTH,), False)
    assert found.module is found.holder is norm
    assert (found.weight_name is not None) == found.traits.has_weight
    assert (found.bias_name is not None) == found.traits.has_bias
    for key in (found.weight_name, found.bias_name):
        assert key is None or key in dict(norm.named_parameters())


def without(norm: nn.Module, key: str) -> Tensor:
    """Run a norm with one of its parameters set to zero."""
    changed = copy.deepcopy(norm)
    nn.init.zeros_(changed.get_parameter(key))
    return changed(torch.randn(4, 5, WIDTH, generator=torch.Generator().manual_seed(2))).detach()


@every_norm
def test_a_weight_is_what_the_output_vanishes_with(name: str) -> None:
    norm = made(name)
    (found,), _ = find_norms(norm, for_replacement=True)
    vanishing = [
        key for key, _ in norm.named_parameters() if float(without(norm, key).flatten(0, -2).std(0).max()) == 0
    ]
    # The slope of an element-wise function is one number for all features.
    assert [key for key in vanishing if key != "alpha"] == [found.weight_name] * found.traits.has_weight


@every_norm
def test_swapped_in_and_undone(name: str) -> None:
    model, x = model_with(nn.LayerNorm(WIDTH)), batch()
    before = model(x).detach()
    report = swap(model, "layer_norm", name)
    assert [one.name for one in report.replaced] == ["1"]
    assert type(model[1]) is type(made(name))
    model(x).sum().backward()
    assert model(x).isfinite().all()
    report.undo()
    assert torch.equal(model(x), before)


@every_norm
def test_swapped_out_and_undone(name: str) -> None:
    model, x = model_with(made(name)), batch()
    model.eval()
    before = model(x).detach()
    report = swap(model, name, "rms_norm")
    assert [one.name for one in report.replaced] == ["1"]
    assert isinstance(model[1], nn.RMSNorm)
    assert model(x).isfinite().all()
    report.undo()
    assert torch.equal(model(x), before)


@every_norm
def test_stands_beside_norms_that_are_swapped_or_converted(name: str) -> None:
    norm, x = made(name), batch()
    model = nn.Sequential(nn.Linear(6, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), norm).eval()
    where = None if name != "layer_norm" else "1"
    before = model(x).detach()
    to_rms_norm(model, x, where=where).undo()
    swap(model, "layer_norm", "ada_norm", where=where).undo()
    assert model[3] is norm
    assert torch.equal(model(x), before)


@every_norm
def test_diagnosed(name: str) -> None:
    diagnosis = diagnose(model_with(made(name)), batch(), lambda model, x: model(x).square().mean())
    assert diagnosis.unreached == ()
    assert [(one.name, one.kind) for one in diagnosis.gradients] == ([] if name == "none" else [("1", name)])
    assert [one.name for one in diagnosis.ranges] == ([] if name == "none" else ["1"])


@pytest.mark.slow
def test_compared(user_file, tmp_path: Path) -> None:
    # Some norms need positions, which this task does not have.
    names = [name for name in NORMS if NORMS.origin(name)] or [name for name in NORMS if name not in NEEDS_POSITIONS]
    words = ["compare", user_file(), "--norms", ",".join(names), "--seeds", "0", "--steps", "2", "--json"]
    told = subprocess.run(
        [sys.executable, "-m", "normscope.cli.main", *words, "--workers", "1", "--out", str(tmp_path / "study")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    arms = json.loads(told.stdout)["arms"]
    assert [arm["norm"] for arm in arms] == names
    assert {run["state"] for arm in arms for run in arm["runs"]} == {"done"}


def test_measured_by_bench() -> None:
    costs = bench_norms(list(NORMS), [(4, WIDTH)], [torch.bfloat16], seconds=0.01).costs
    assert [cost.norm for cost in costs] == list(NORMS)


@pytest.mark.slow
def test_listed() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "normscope.cli.main", "list", "norms"], capture_output=True, text=True, check=True
    )
    assert [name for name in NORMS if f" {name} " not in told.stdout] == []


class Inherited(ScaleNorm):
    """Changes nothing, and has no name of a norm of ours."""


class InheritedLayer(LayerNorm):
    """Changes nothing."""


class Overridden(LayerNorm):
    """Calls the forward that it replaces."""

    def forward(self, x: Tensor, residual: Tensor | None = None):  # pyright: ignore
        return super().forward(x, residual)


class Clamped(ScaleNorm):
    """Does something else, too."""

    def forward(self, x: Tensor, residual: Tensor | None = None):  # pyright: ignore
        return super().forward(x, residual).clamp(-1, 1)  # pyright: ignore


@pytest.mark.parametrize(
    ("made", "kind"), [(Inherited, "scale_norm"), (InheritedLayer, "layer_norm"), (Overridden, "layer_norm")]
)
def test_subclasses_are_found_as_what_they_are_derived_from(made: type[nn.Module], kind: str) -> None:
    (found,), unreachable = find_norms(model_with(made(WIDTH)))
    assert (found.kind, unreachable) == (kind, [])
    report = swap(model_with(made(WIDTH)), kind, "rms_norm")
    assert [one.old for one in report.replaced] == [made.__name__]


def test_a_subclass_that_does_something_else_is_listed_as_unreachable() -> None:
    model = nn.Sequential(Clamped(WIDTH), nn.LayerNorm(WIDTH))
    for purpose in (False, True):
        found, unreachable = find_norms(model, for_replacement=purpose)
        assert [norm.names for norm in found] == [("1",)]
        assert [(one.name, one.what) for one in unreachable] == [("0", "Clamped")]
        assert unreachable[0].why == "a ScaleNorm whose forward does something else, too (in evaluation)"
