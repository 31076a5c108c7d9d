"""The GPU kernels on a CPU, run by Triton's interpreter, against the definitions."""

import importlib.util
import itertools
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from normscope.kernels.formula import CENTER, LENGTH, RELEASED, ROOT, Formula
from normscope.norms.layer_norm import layer_norm
from support.triton_norms import EPS, MIXED, NORMS, Norm, from_formula
from support.triton_process import interpreted, needs_triton

pytestmark = needs_triton


class Results(NamedTuple):
    """Results of a norm; None for absent ones."""

    z: Tensor
    dx: Tensor
    dweight: Tensor | None
    dbias: Tensor | None


class Inputs(NamedTuple):
    """Arguments of a norm; None for absent ones."""

    x: Tensor
    residual: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    dz: Tensor
    dtotal: Tensor | None

    def to(self, dtype: torch.dtype) -> "Inputs":
        return Inputs(*(None if one is None else one.to(dtype) for one in self))


def inputs(norm: Norm, rows: int, width: int, dtype: torch.dtype = torch.float64, residual: bool = False) -> Inputs:
    """Draw the arguments of ``norm``: weights around 2, and an upstream gradient independent of the output."""

    def draw(*shape: int, around: float = 0.0, spread: float = 1.0) -> Tensor:
        return (around + spread * torch.randn(*shape, dtype=torch.float64)).to(dtype)

    weight = draw(width, around=2.0) if norm.gain else None
    bias = draw(width) if norm.bias else None
    other = (draw(rows, width), draw(rows, width)) if residual else (None, None)
    return Inputs(draw(rows, width, around=0.5, spread=2.0), other[0], weight, bias, draw(rows, width), other[1])


def defined(norm: Norm, given: Inputs) -> Results:
    """Compute the reference by the definition and autograd."""
    x = given.x if given.residual is None else given.x + given.residual
    parameters = [None if one is None else one.clone().requires_grad_() for one in (given.weight, given.bias)]
    leaves = [x.clone().requires_grad_(), *parameters]
    named = {name: leaf for name, leaf in zip(("weight", "bias"), parameters, strict=True) if leaf is not None}
    z = norm.definition(leaves[0], **named)
    gradients = iter(torch.autograd.grad(z, [leaf for leaf in leaves if leaf is not None], given.dz))
    dx, dweight, dbias = (None if leaf is None else next(gradients) for leaf in leaves)
    assert dx is not None
    return Results(z.detach(), dx if given.dtotal is None else dx + given.dtotal, dweight, dbias)


def computed(norm: Norm, given: Inputs) -> Results:
    """Compute the results of the kernels, in poisoned memory between guards."""
    from normscope.kernels.backends import triton as backend

    with guarded():
        z, total, mean, square = backend.forward(norm.formula, given.x, given.residual, given.weight, given.bias)
        kept = norm.formula.keeps_input(norm.gain)
        x = (given.x if total is None else total) if kept else None
        mean = mean if kept else None
        gradients = backend.backward(
            norm.formula, given.dz, given.dtotal, x, mean, square, given.weight, norm.gain, norm.bias
        )
    return Results(z, *gradients)


@contextmanager
def guarded() -> Iterator[None]:
    """Fill new empty tensors with NaN between guards, and check that the guards are not overwritten."""
    guard = 256
    stores = []

    def empty(*shape: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
        sizes = torch.Size(shape[0] if isinstance(shape[0], tuple) else shape)
        stores.append(torch.full((sizes.numel() + 2 * guard,), math.nan, dtype=dtype))
        return stores[-1][guard : guard + sizes.numel()].view(sizes)

    def empty_like(tensor: Tensor) -> Tensor:
        return empty(*tensor.shape, dtype=tensor.dtype, device=tensor.device)

    with mock.patch.multiple(torch, empty=empty, empty_like=empty_like):
        yield
    for store in stores:
        assert torch.cat([store[:guard], store[-guard:]]).isnan().all(), "a kernel wrote where nothing is its own"


def assert_same(ours: Results, wanted: Results, tolerance: float) -> None:
    for name, one, other in zip(Results._fields, ours, wanted, strict=True):
        if other is None:
            assert one is None
            continue
        scale = max(1.0, float(other.abs().max()))
        assert_close(one, other, rtol=0, atol=tolerance * scale, msg=lambda text, name=name: f"{name}: {text}")


WIDTHS = [1, 2, 3, 63, 127, 129, 769, 1000, 4097]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["layer_norm", "ada_norm, released"])
@interpreted
def test_any_width(name: str, width: int) -> None:
    if width == 1 and "released" in name:
        return
    given = inputs(NORMS[name], 5, width, residual=True)
    # float64 holds a sum of some thousand products of numbers around one to this.
    assert_same(computed(NORMS[name], given), defined(NORMS[name], given), 1e-12)


@pytest.mark.parametrize("width", [9, 300, 1025, 17000])
@pytest.mark.parametrize("name", ["layer_norm", "ada_norm, released", "rms_norm", "scale_norm", "detach_norm"])
@interpreted
def test_rows_whose_squares_leave_the_range_are_those_of_float64(name: str, width: int) -> None:
    norm = NORMS[name]
    for size, offset in ((1e18, 0.0), (1e20, 0.0), (1e25, 3e25), (2e37, 0.0)):
        given = inputs(norm, 6, width, torch.float32, residual=True)
        given.x[:4] = given.x[:4] * size + offset
        given.residual[:3] *= size
        given.dtotal.zero_()  # Beside it the gradient of so long a row is nothing.
        wide = given.to(torch.float64)._replace(x=(given.x + given.residual).double(), residual=None)
        for part, one, other in zip(Results._fields, computed(norm, given), defined(norm, wide), strict=True):
            if other is None:
                assert one is None
                continue
            atol = 1e-5 * other.abs().amax(-1, keepdim=True) + torch.finfo(torch.float32).tiny
            assert ((one.double() - other).abs() <= atol).all(), f"{part} of {size:g} + {offset:g}"


@pytest.mark.parametrize("width", [300, 17000])
@interpreted
def test_a_constant_row_whose_sum_leaves_the_range_is_zero_and_infinite_entries_stay(width: int) -> None:
    given = inputs(NORMS["layer_norm_simple"], 4, width, torch.float32)
    given.x[0], given.x[1, 3], given.x[2, 5] = 3e38, math.inf, math.nan
    z, dx, *_ = computed(NORMS["layer_norm_simple"], given)
    assert z[0].abs().max() < 0.01, "a mean is rounded"
    assert z[1:3].isnan().all()
    assert dx[1:3].isnan().all()
    assert z[3].isfinite().all()
    assert dx[[0, 3]].isfinite().all()


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", [*NORMS, *MIXED])
@interpreted
def test_every_formula_is_its_definition(name: str, residual: bool) -> None:
    norm = (NORMS | MIXED)[name]
    given = inputs(norm, 7, 129, residual=residual)
    assert_same(computed(norm, given), defined(norm, given), 1e-12)


@interpreted
def test_groups_of_rows_with_their_own_weights() -> None:
    from normscope.kernels.backends import triton as backend

    formula, groups = Formula(CENTER | ROOT, EPS), [inputs(NORMS["layer_norm"], 3, 20) for _ in range(4)]
    rows, upstream = (torch.cat([getattr(one, name) for one in groups]) for name in ("x", "dz"))
    weight, bias = (torch.stack([getattr(one, name) for one in groups]) for name in ("weight", "bias"))
    z, _, mean, square = backend.forward(formula, rows, None, weight, bias)
    dx, dweight, dbias = backend.backward(formula, upstream, None, rows, mean, square, weight, True, True)
    for place, given in enumerate(groups):
        want = computed(NORMS["layer_norm"], given)
        some = slice(3 * place, 3 * place + 3)
        for got, other in zip((z[some], dx[some], dweight[place], dbias[place]), want, strict=True):
            assert torch.equal(got, other)


@pytest.mark.parametrize("width", [9008, 16385])
@pytest.mark.parametrize("name", ["layer_norm", "ada_norm", "detach_norm", *list(MIXED)])
@interpreted
def test_rows_wider_than_a_tile(name: str, width: int) -> None:
    from normscope.kernels.backends import triton as backend

    assert backend.BACKWARD_SUMS[-1].block < 9008 <= backend.BACKWARD[-1].block
    assert backend.FORWARD[-1].block < 16385
    norm = (NORMS | MIXED)[name]
    given = inputs(norm, 3, width, residual=name == "layer_norm")
    assert_same(computed(norm, given), defined(norm, given), 1e-12)


@interpreted
def test_sums_over_more_rows_than_a_tile_of_wide_rows_has() -> None:
    from normscope.kernels.backends import triton as backend

    norm = NORMS["layer_norm"]
    given = inputs(norm, 67, 130)
    tiles = (backend.Tile(64, 8),)
    with mock.patch.multiple(
        backend,
        BACKWARD_SUMS=tiles,
        BACKWARD=2 * tiles,
        FORWARD=tiles,
        CHUNK=backend.Tile(64, 1),
        COLUMNS=backend.Tile(32, 1, rows=32),
    ):
        assert_same(computed(norm, given), defined(norm, given), 1e-12)


def rows_around_programs() -> list[int]:
    """Rows of 1000 entries: four to a tile, four programs."""
    return [1, 3, 4, 5, 15, 16, 17, 31, 33, 64]


@pytest.mark.parametrize("rows", rows_around_programs())
@interpreted
def test_any_number_of_rows(rows: int) -> None:
    from normscope.kernels.backends import triton as backend

    tile = backend._tile(backend.BACKWARD_SUMS, 1000)
    assert tile.rows * tile.programs * backend.INTERPRETED_PROCESSORS == 16
    norm = NORMS["layer_norm"]
    given = inputs(norm, rows, 1000)
    assert_same(computed(norm, given), defined(norm, given), 1e-12)


@interpreted
def test_more_programs_than_finalize_takes_at_a_time() -> None:
    from normscope.kernels.backends import triton as backend

    norm = NORMS["layer_norm"]
    given = inputs(norm, 150, 16)
    backend._processors.cache_clear()
    with mock.patch.multiple(backend, BACKWARD_SUMS=(backend.Tile(16, 1, programs=2),), INTERPRETED_PROCESSORS=70):
        assert backend._processors(given.x.device) * 2 > backend.FINALIZE.rows
        assert_same(computed(norm, given), defined(norm, given), 1e-12)
    backend._processors.cache_clear()


@pytest.mark.parametrize("width", [65, 1000, 9001])
@pytest.mark.parametrize("divisor", [ROOT, RELEASED, LENGTH])
@interpreted
def test_rows_that_are_not_there_add_nothing_without_eps(divisor: int, width: int) -> None:
    formula = Formula(CENTER | divisor, 0.0)
    norm = Norm(partial(from_formula, formula), formula, gain=True, bias=True)
    given = inputs(norm, 5, width)
    assert_same(computed(norm, given), defined(norm, given), 1e-12)


@pytest.mark.parametrize("width", [5, 9001])
@pytest.mark.parametrize("name", ["layer_norm", "detach_norm"])
@interpreted
def test_no_rows(name: str, width: int) -> None:
    from normscope.kernels.backends import triton as backend

    norm = NORMS[name]
    with mock.patch.object(backend, "kernels", None):
        ours = computed(norm, inputs(norm, 0, width, residual=True))
    assert ours.z.shape == ours.dx.shape == (0, width)
    if norm.gain:
        assert ours.dweight is not None
        assert ours.dbias is not None
        assert_close(ours.dweight, torch.zeros(width, dtype=torch.float64), rtol=0, atol=0)
        assert_close(ours.dbias, torch.zeros(width, dtype=torch.float64), rtol=0, atol=0)


def difficult_rows(width: int) -> Tensor:
    """Rows of every kind that has failed in some implementation, twice each; the last four are not finite."""
    normal = torch.randn(2, width, dtype=torch.float64)
    kinds = [
        normal,
        normal * 100,
        normal + 1e3,
        normal * 30 - 1e4,
        normal + 1e5,
        normal * 1e-4,
        normal * 1e-4 + 1.0,
        torch.full_like(normal, 1e5 / 3),
        torch.zeros_like(normal),
        normal.clone(),
        normal.clone(),
    ]
    kinds[-2][:, width // 2] = math.inf
    kinds[-1][:, width // 3] = math.nan
    return torch.cat(kinds)


BAD = 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NORMS)
@interpreted
def test_error_is_at_most_twice_that_of_the_definition_and_one_rounding(name: str, dtype: torch.dtype) -> None:
    norm = NORMS[name]
    width = 769
    given = inputs(norm, 0, width, torch.float64)
    x = difficult_rows(width)
    if dtype == torch.float16:
        x = x.where(x.isinf(), x.clamp(-6e4, 6e4))
    given = given._replace(x=x, dz=torch.randn_like(x)).to(dtype)
    exact = defined(norm, given.to(torch.float64))
    naive = defined(norm, given)
    ours = computed(norm, given)
    # The length is the root of a mean, times the width: one rounding more than the definition's.
    one_rounding = torch.finfo(dtype).eps / (1 if name == "scale_norm" else 2)
    for kind in ("z", "dx"):
        truth = getattr(exact, kind)[:-BAD]
        allowed = 2 * (getattr(naive, kind)[:-BAD].double() - truth).abs().amax(-1)
        # Rows of zeros are asked for zeros, to the smallest number there is.
        allowed += one_rounding * truth.abs().amax(-1) + torch.finfo(dtype).tiny
        error = (getattr(ours, kind)[:-BAD].double() - truth).abs().amax(-1)
        overflows = truth.abs().amax(-1) > torch.finfo(dtype).max
        assert ((error <= allowed) | overflows).all(), f"{kind}: {error.tolist()} of {allowed.tolist()}"
    assert_close(ours.z[-BAD:].isnan(), naive.z[-BAD:].isnan(), rtol=0, atol=0)
    if name != "detach_norm":
        assert (~ours.dx[-BAD:].isfinite()).any(-1).all()


@pytest.mark.parametrize("name", ["layer_norm", "layer_norm, bias", "rms_norm"])
@interpreted
def test_sums_over_rows_lose_no_more_than_the_definition_does(name: str) -> None:
    norm = NORMS[name]
    given = inputs(norm, 257, 64, torch.bfloat16)
    exact, naive, ours = defined(norm, given.to(torch.float64)), defined(norm, given), computed(norm, given)
    for kind in ("dweight", "dbias"):
        truth = getattr(exact, kind)
        if truth is None:
            continue
        rounded = torch.finfo(torch.bfloat16).eps / 2 * truth.abs().max()
        allowed = 2 * (getattr(naive, kind).double() - truth).abs().max() + rounded
        assert (getattr(ours, kind).double() - truth).abs().max() <= allowed


@pytest.mark.parametrize("value", [0.1, 1e5 / 3, -7.7e3])
@pytest.mark.parametrize("width", [1000, 16385])
@pytest.mark.parametrize("name", ["layer_norm_simple", "ada_norm, released"])
@interpreted
def test_constant_row_is_zero_whatever_its_value(name: str, value: float, width: int) -> None:
    norm = NORMS[name]
    x = torch.full((2, width), value)
    given = inputs(norm, 2, width, torch.float32)._replace(x=x)
    ours, wanted = computed(norm, given), defined(norm, given.to(torch.float64))
    assert_close(ours.z, torch.zeros_like(x), rtol=0, atol=0)
    # The deviation is zero and the second term with it, not 0 / 0: what is left is dz less its mean, over eps.
    assert_close(ours.dx, wanted.dx.float(), rtol=1e-5, atol=1e-6 * float(wanted.dx.abs().max()))


@pytest.mark.parametrize("width", [129, 16385])
@interpreted
def test_short_rows_are_divided_by_a_constant(width: int) -> None:
    norm = NORMS["scale_norm"]
    given = inputs(norm, 3, width)
    given = given._replace(x=given.x * torch.tensor([[1e-9], [1.0], [1e-12]], dtype=torch.float64))
    assert given.x[0].norm() < norm.formula.eps < given.x[1].norm()
    assert_same(computed(norm, given), defined(norm, given), 1e-12)


@pytest.mark.parametrize("size", [1e-18, 1e12, 1e-12])
@pytest.mark.parametrize("name", ["layer_norm_simple", "ada_norm, released", "scale_norm"])
@interpreted
def test_gradient_of_rows_of_any_size_keeps_its_second_term(name: str, size: float) -> None:
    norm = NORMS[name]
    norm = norm._replace(
        formula=norm.formula._replace(eps=1e-30), definition=partial(from_formula, norm.formula._replace(eps=1e-30))
    )
    given = inputs(norm, 3, 65, torch.float32)
    given = given._replace(x=given.x * size)
    ours, wanted = computed(norm, given), defined(norm, given.to(torch.float64))
    assert_close(ours.dx.double() * size, wanted.dx * size, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [1000, 4097, 17000])
@pytest.mark.parametrize("name", ["layer_norm", "ada_norm"])
@interpreted
def test_a_row_depends_on_nothing_but_itself(name: str, width: int) -> None:
    from normscope.kernels.backends import triton as backend

    # Fewer programs than on a GPU, for each takes milliseconds here.
    with mock.patch.multiple(backend, COLUMNS=backend.Tile(1024, 8, rows=8), FINALIZE=backend.Tile(512, 8, rows=8)):
        norm = NORMS[name]
        given = inputs(norm, 5, width, torch.bfloat16)
        together = computed(norm, given)
        again = computed(norm, given)
        for one, other in zip(together, again, strict=True):
            if one is not None:
                assert_close(one, other, rtol=0, atol=0)
        alone = computed(norm, given._replace(x=given.x[3:4].clone(), dz=given.dz[3:4].clone()))
        bad = given._replace(x=given.x.clone())
        bad.x[2], bad.x[4, 1] = math.nan, math.inf
        beside = computed(norm, bad)
        with mock.patch.multiple(backend, INTERPRETED_PROCESSORS=1):
            backend._processors.cache_clear()
            fewer = computed(norm, given)
        backend._processors.cache_clear()
        for kind in ("z", "dx"):
            row = getattr(together, kind)[3:4]
            assert_close(getattr(alone, kind), row, rtol=0, atol=0)
            assert_close(getattr(beside, kind)[3:4], row, rtol=0, atol=0)
            assert_close(getattr(fewer, kind)[3:4], row, rtol=0, atol=0)


@interpreted
def test_rows_that_begin_anywhere_are_moved_first() -> None:
    from normscope.kernels.backends import triton as backend

    norm = NORMS["layer_norm"]
    given = inputs(norm, 4, 127, torch.float32)
    shifted = [torch.empty(one.numel() + 1)[1:].view(one.shape).copy_(one) for one in given if one is not None]
    x, weight, bias, dz = shifted
    assert x.data_ptr() % 16
    seen = []
    forward = backend.kernels.forward_rows
    spy = mock.MagicMock()
    spy.__getitem__.side_effect = lambda grid: lambda *a, **o: (seen.extend(a), forward[grid](*a, **o))
    with mock.patch.object(backend.kernels, "forward_rows", spy):
        ours = computed(norm, Inputs(x, None, weight, bias, dz, None))
    assert all(one.data_ptr() % 16 == 0 for one in seen if isinstance(one, Tensor))
    for one, other in zip(ours, computed(norm, given), strict=True):
        assert one is not None
        assert other is not None
        assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("width", [129, 16385])
@interpreted
def test_fused_sum_is_two_calls_to_the_bit(width: int, dtype: torch.dtype) -> None:
    from normscope.kernels.backends import triton as backend

    norm = NORMS["layer_norm"]
    given = inputs(norm, 4, width, dtype, residual=True)
    assert given.residual is not None
    z, total, mean, square = backend.forward(norm.formula, given.x, given.residual, given.weight, given.bias)
    assert_close(total, given.x + given.residual, rtol=0, atol=0)
    for one, other in zip(
        (z, None, mean, square), backend.forward(norm.formula, total, None, given.weight, given.bias), strict=True
    ):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("width", [130, 9001])
@interpreted
def test_parameters_of_other_dtypes(width: int) -> None:
    norm = NORMS["layer_norm"]
    given = inputs(norm, 9, width, torch.bfloat16)
    assert given.weight is not None
    assert given.bias is not None
    given = given._replace(weight=given.weight.float() + 1e-3, bias=given.bias.half())
    ours = computed(norm, given)
    assert ours.dweight is not None
    assert ours.dbias is not None
    assert [one.dtype for one in ours] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    exact = defined(norm, given.to(torch.float64))
    # bfloat16 rounds z and dx once; the sums over rows are float32 of exact products.
    for one, other, eps in zip(ours, exact, (2**-8, 2**-8, 2**-20, 2**-20), strict=True):
        assert_close(one.double(), other, rtol=0, atol=eps * float(other.abs().max()))


@pytest.mark.parametrize("gain", [False, True])
@interpreted
def test_autograd_through_the_back_end(gain: bool) -> None:
    from normscope.kernels.autograd import norm as fused
    from normscope.kernels.backends import triton as backend

    norm = NORMS["layer_norm"]
    given = inputs(norm, 6, 21)
    x, residual = given.x.requires_grad_(), torch.randn(21, 6, dtype=torch.float64).T.requires_grad_()
    assert given.weight is not None
    assert given.bias is not None
    weight, bias = given.weight.requires_grad_(gain), given.bias.requires_grad_()
    leaves = [leaf for leaf in (x, residual, weight, bias) if leaf.requires_grad]
    z, total = fused(backend, norm.formula, 21, x, residual, weight, bias)
    assert total is not None
    # Gradients as they come: one expanded, with a stride of zero, and a transposed one.
    upstream = torch.randn(6, 1, dtype=torch.float64).expand(6, 21), torch.randn(21, 6, dtype=torch.float64).T
    ours = torch.autograd.grad([z, total], leaves, upstream)
    wanted = torch.autograd.grad([layer_norm(x + residual, weight, bias, EPS), x + residual], leaves, upstream)
    for one, other in zip(ours, wanted, strict=True):
        assert_close(one, other, rtol=0, atol=1e-12)


@interpreted
def test_benchmark_checks_measures_and_writes() -> None:
    gpu = benchmark()
    settings = gpu.Settings(
        widths=(5, 8),
        rows=(3,),
        cases=("layer_norm", "detach_norm", "layer_norm of a sum"),
        checked_everywhere=(9,),
        checked_once=(1,),
        checked_rows=3,
        counted_rows=(1, 2),
        copied_bytes=1 << 14,
        samples=1,
        sample_seconds=0.0,
        compiles=False,
    )
    saved = []
    report = gpu.bench(settings, torch.device("cpu"), saved.append)
    assert report["wrong"] == []
    assert len(saved) == 2 * 2 * 3
    done = [one for one in report["measurements"] if "left_out" not in one]
    assert {one["by"] for one in done} >= {"normscope", "torch", "definition"}
    assert {(one["dtype"], one["width"]) for one in done} == set(itertools.product(("bfloat16", "float32"), (5, 8)))
    (sums, *_) = (one for one in done if one["norm"] == "layer_norm of a sum" and one["dtype"] == "float32")
    assert sums["forward"]["bytes"] == 4 * 3 * sums["width"] * 4
    (detached, *_) = (one for one in done if one["norm"] == "detach_norm")
    assert (detached["forward"]["streams"], detached["backward"]["streams"]) == (2, 2)
    # What a GPU adds: device time, of which the percentage is.
    sums["forward"]["seconds"] = {"median": 1e-6, "low": 1e-6, "high": 1e-6}
    gpu.with_percent(sums, {"4": sums["forward"]["bytes"] / 2e-6})
    assert sums["forward"]["percent"] == pytest.approx(200)
    drawn = gpu.table(report)
    assert f"{'layer_norm of a sum':20} float32        3 {sums['width']:6} normscope" in drawn
    assert " 200 " in drawn
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new" / "gpu.json"
        gpu.write(report, path)
        assert json.loads(path.read_text()) == report
        assert [*path.parent.iterdir()] == [path]


@interpreted
def test_benchmark_times_no_wrong_kernel_and_nothing_after_its_time() -> None:
    from normscope.kernels.backends import triton as backend

    gpu = benchmark()
    small = {"checked_everywhere": (9,), "checked_once": (), "checked_rows": 3, "counted_rows": (1,), "samples": 1}
    settings = gpu.Settings(
        widths=(5,), rows=(3,), cases=("layer_norm",), copied_bytes=1 << 12, compiles=False, seconds=0.0, **small
    )
    report = gpu.bench(settings, torch.device("cpu"), lambda report: None)
    assert report["measurements"]
    assert all(one["left_out"] == "time" for one in report["measurements"])
    assert "left out" in gpu.table(report)
    forward = backend.forward
    with mock.patch.object(backend, "forward", lambda *given: (forward(*given)[0] * 1.1, *forward(*given)[1:])):
        report = gpu.bench(settings, torch.device("cpu"), lambda report: None)
    assert len(report["wrong"]) >= 4
    assert report["measurements"] == []
    assert "not timed: layer_norm, torch.bfloat16, width 9, mean 0.5: z is off by" in gpu.table(report)


def test_benchmark_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.object(torch.cuda, "is_available", return_value=False), mock.patch("sys.argv", ["gpu"]):
        assert benchmark().main() == 2
    assert "sees no GPU here" in capsys.readouterr().err


def benchmark() -> Any:
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "gpu.py"
    specification = importlib.util.spec_from_file_location("gpu", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
