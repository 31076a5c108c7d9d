"""Measured invariances against the printed Table 1, against closed forms, and against the page in docs."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from normscope import norms
from normscope.analysis.invariances import TRANSFORMATIONS, Invariances, invariances
from normscope.norms import NORMS
from support.made_norms import MIXES_POSITIONS

ROOT = Path(__file__).resolve().parents[2]
CASES, FEATURES, UNITS = 16, 5, 7

PRINTED = {
    # Ba, Kiros, Hinton (2016), Table 1, from left to right.
    "batch": (True, False, True, True, True, False),
    "weight": (True, False, True, False, False, False),
    "layer": (True, True, False, True, False, True),
}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def data(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4), dtype=dtype)


def spread(module: nn.Module) -> nn.Module:
    """Set every parameter to values away from one and zero."""
    drawn = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.empty_like(parameter).uniform_(0.5, 2.0, generator=drawn))
    return module


def linear() -> nn.Linear:
    layer = nn.Linear(FEATURES, UNITS, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(data(UNITS, FEATURES))
    return layer


def printed(method: str) -> Invariances:
    if method == "weight":
        layer = linear()
        norms.apply_weight_norm(layer)
        weight = "parametrizations.weight.original1"
        return invariances(layer, data(CASES, FEATURES), generator=generator(), weight=weight)
    norm = spread(norms.BatchNorm(UNITS) if method == "batch" else norms.LayerNorm(UNITS))
    return invariances(nn.Sequential(linear(), norm), data(CASES, FEATURES), generator=generator(), weight="0.weight")


@pytest.mark.parametrize("method", PRINTED)
def test_table_1_is_as_printed(method: str) -> None:
    found = printed(method)
    assert tuple(row.invariant for row in found.rows[:6]) == PRINTED[method]
    for row in found.rows:
        # What is not invariant moves by a part of its size, far from any tolerance.
        assert row.deviation < 1e-3 if row.invariant else row.deviation > 0.1


def test_without_eps_table_1_holds_to_rounding() -> None:
    block = nn.Sequential(linear(), norms.LayerNorm(UNITS, eps=0.0))
    found = invariances(block, data(CASES, FEATURES), generator=generator(), weight="0.weight")
    assert {row.transformation for row in found.rows if row.holds == "exactly"} == {
        *("weight_matrix_rescaling", "weight_matrix_recentering", "data_rescaling", "case_rescaling"),
    }


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_the_curve_is_the_closed_form(eps: float) -> None:
    x = data(CASES, 32)
    row = invariances(nn.LayerNorm(32, eps=eps), x, generator=generator(), scales=(1e-4, 1e-2, 1.0, 100.0), factor=2.0)
    for scale, deviation in zip((1e-4, 1e-2, 1.0, 100.0), row["data_rescaling"].deviations, strict=True):
        variance = x.var(-1, correction=0) * scale**2
        # Written out here once more: sqrt((v + e) / (v + e / 4)) - 1, largest where the variance is smallest.
        want = float(((variance + eps) / (variance + eps / 4)).sqrt().sub(1).max())
        assert deviation == pytest.approx(want, rel=1e-4)
    assert row["data_rescaling"].holds == "but for eps"
    assert row["data_rescaling"].law == pytest.approx(row["data_rescaling"].deviations, rel=1e-4)


@pytest.mark.parametrize("name", NORMS)
def test_rescaled_norms_of_the_catalogue_follow_the_law_of_eps(name: str) -> None:
    x = data(CASES, *([9] if name in MIXES_POSITIONS else []), 12)
    row = invariances(NORMS[name](12), x, generator=generator())["data_rescaling"]
    assert row.invariant == (name not in {"none", "dyt", "derf"})
    assert (row.law is not None) == row.invariant


def test_a_foreign_norm_without_a_law_is_nearly_invariant() -> None:
    class Foreign(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / (x.std(-1, keepdim=True) + 1e-5)

    row = invariances(Foreign(), data(CASES, 12), generator=generator())["data_rescaling"]
    assert row.holds == "nearly"
    assert row.law is None
    # At 1e-4 of its size the divisor is s + eps with eps a tenth of s, or a thirtieth after.
    assert row.deviations[0] > 0.05


def test_a_row_of_zeros_is_no_division_by_zero() -> None:
    x = data(CASES, 12)
    x[3] = -x[3].abs()
    found = invariances(nn.ReLU(), x, generator=generator(), factor=2.0)
    assert found["data_rescaling"].deviation == pytest.approx(1.0)
    # The row that was zero moves, and is measured by the size of the others.
    assert 1 < found["uniform_recentering"].deviation < 10


def test_a_bias_before_the_norm_is_seen() -> None:
    layer = spread(nn.Linear(FEATURES, UNITS, dtype=torch.float64))
    block = nn.Sequential(layer, norms.LayerNorm(UNITS))
    found = invariances(block, data(CASES, FEATURES), generator=generator(), weight="0.weight")
    assert not found["weight_matrix_rescaling"].invariant


def test_batch_norm_in_evaluation_is_no_longer_invariant() -> None:
    found = invariances(norms.BatchNorm(FEATURES).eval(), data(CASES, FEATURES), generator=generator())
    assert not any(row.invariant for row in found.rows)


def test_measuring_changes_nothing() -> None:
    block = nn.Sequential(nn.Linear(FEATURES, UNITS), norms.BatchNorm(UNITS))
    twin, x = copy.deepcopy(block), data(CASES, FEATURES, dtype=torch.float32)
    before = x.clone()
    invariances(block, x, generator=generator(), weight="0.weight", scales=(1.0,))
    for key, tensor in block.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[key])
        assert tensor.dtype == twin.state_dict()[key].dtype
    assert torch.equal(x, before)
    assert all(parameter.grad is None for parameter in block.parameters())
    assert not any(module._forward_hooks for module in block.modules())


def test_reading_and_json() -> None:
    found = printed("layer")
    assert "is exactly invariant under: the same shift of the weights of every unit." in found.reading
    assert "The effect of eps is" in found.reading
    read = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [row["transformation"] for row in read["rows"]] == list(TRANSFORMATIONS)
    assert read["reading"] == found.reading


def test_one_seed_gives_the_same_numbers() -> None:
    assert printed("batch") == printed("batch")


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"x": torch.ones(4, 5, dtype=torch.long)}, TypeError, "floating-point dtype, got torch.int64"),
        ({"x": torch.ones(1, 5)}, ValueError, r"at least two cases, got \[1, 5\]"),
        ({"factor": 1.0}, ValueError, "factor not 1, got 1.0"),
        ({"factor": -3.0}, ValueError, "must be positive"),
        ({"scales": (0.0,)}, ValueError, "must be positive"),
        ({"weight": "weight"}, ValueError, r"got 'weight'; there are \[\]"),
        ({"module": nn.Dropout(0.5)}, ValueError, "two calls of Dropout on one input differ"),
        ({"module": nn.Threshold(1e9, 0.0)}, ValueError, "must be finite and not all zero"),
        ({"module": nn.GRU(5, 5)}, TypeError, "must return one tensor, got tuple"),
    ],
)
def test_what_cannot_be_measured_is_refused(changed: dict, error: type[Exception], words: str) -> None:
    arguments = {"module": norms.LayerNorm(5), "x": data(4, 5), "generator": generator(), **changed}
    with pytest.raises(error, match=words):
        invariances(arguments.pop("module"), arguments.pop("x"), **arguments)


def test_the_page_in_docs_is_current() -> None:
    spec = importlib.util.spec_from_file_location("page_of_invariances", ROOT / "benchmarks" / "invariances.py")
    assert spec is not None
    assert spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert (ROOT / "docs" / "guides" / "invariances.md").read_text(encoding="utf-8") == writer.page()
