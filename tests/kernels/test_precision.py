"""How far the kernels are from float64, and that a row's bits are its own: not its neighbours', not the threads'.

The two autograd functions compute the same bits (``test_function.py``), so that one stands for both but for threads.
"""

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

from normscope.kernels.formula import CENTER, DETACH_MEAN, DETACH_STD, Formula
from support.family import NORMS, PATHS, definition, gain, sample, shift

WIDTHS = (1, 2, 3, 15, 16, 17, 63, 127, 256, 769, 1000, 4097)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

every_path = pytest.mark.parametrize("path", PATHS)
every_norm = pytest.mark.parametrize("name", NORMS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def widths(name: str) -> list[int]:
    """Under the released convention a row has two entries or more."""
    return [width for width in WIDTHS if width > 1 or name != "ada_norm_released"]


@cache
def rows(width: int) -> dict[str, Tensor]:
    """Many rows of every kind, in float64: so many that no side of the comparison is lucky."""
    count = 64 if width < 500 else 12
    size = sample(count, 1, seed=8).abs() + 0.5
    return {
        "gaussian": sample(count, width),
        "offset by a thousand": sample(count, width, seed=1) + 1e3 * size,
        "offset by ten thousand": sample(count, width, seed=2) - 1e4 * size,
        "offset by a hundred thousand": sample(count, width, seed=3) + 1e5 * size,
        "tiny": sample(count, width, seed=4) * 1e-4,
        "tiny about one": sample(count, width, seed=5) * 1e-3 + size,
        "constant": size.expand(count, width),
        "zero": torch.zeros(count, width, dtype=torch.float64),
        "one entry apart": torch.eye(width, dtype=torch.float64)[torch.arange(count) * 7 % width] * size * 1e2,
    }


def unit(dtype: torch.dtype) -> float:
    """The relative error of one rounding."""
    return torch.finfo(dtype).eps / 2


def naive(name: str, x: Tensor, weight: Tensor, bias: Tensor, dz: Tensor) -> list[Tensor]:
    """Compute z and every derivative by the formula in float32, and round once: no cruder than what torch would do."""
    wide = [one.float().requires_grad_() for one in (x, weight, bias)]
    z, _ = definition(NORMS[name], wide[0], None, *wide[1:])
    return [z.to(x.dtype), *(one.to(x.dtype) for one in torch.autograd.grad(z, wide, dz.float()))]


def ours(path: str, name: str, x: Tensor, weight: Tensor, bias: Tensor, dz: Tensor) -> list[Tensor]:
    leaves = [one.clone().requires_grad_() for one in (x, weight, bias)]
    z, _ = PATHS[path](NORMS[name], leaves[0], None, *leaves[1:])
    return [z, *torch.autograd.grad(z, leaves, dz)]


def exact(formula: Formula, x: Tensor, weight: Tensor, bias: Tensor, dz: Tensor) -> list[Tensor]:
    wide = [one.double().requires_grad_() for one in (x, weight, bias)]
    z, _ = definition(formula, wide[0], None, *wide[1:])
    return [z, *torch.autograd.grad(z, wide, dz.double())]


def compared(name: str, x: Tensor, dz: Tensor) -> dict[str, tuple[float, float]]:
    """Return the results with the errors of the kernel and of the formula, relative to the largest term."""
    learned = gain(x.shape[-1], x.dtype), shift(x.shape[-1], x.dtype)
    truth = exact(NORMS[name], x, *learned, dz)
    # Where the terms of a gradient cancel, a rounding is one of the terms: dz g / d, and what a row adds.
    still = NORMS[name]._replace(flags=NORMS[name].flags | DETACH_MEAN | DETACH_STD)
    terms = exact(still, x, *learned, dz)[:2]
    terms += [(dz * (truth[0] - learned[1]) / learned[0]).detach(), dz.double()]
    found = {}
    results = zip(ours("cpp", name, x, *learned, dz), naive(name, x, *learned, dz), truth, terms, strict=True)
    for what, (got, plain, want, term) in zip(("z", "dx", "dweight", "dbias"), results, strict=True):
        # What overflows on one side must on the other.
        assert torch.equal(got.isfinite(), plain.isfinite())
        size = max(want.abs().max(), term.abs().max()) + torch.finfo(x.dtype).smallest_normal
        errors = ((one.detach().double() - want)[plain.isfinite()].abs() for one in (got, plain))
        found[what] = tuple((error.max() / size).item() if error.numel() else 0.0 for error in errors)
    return found


NARROW, WIDE = WIDTHS[:3], WIDTHS[9:]


def too_far(name: str, dtype: torch.dtype, widths: set[int], kinds: set[str], of: tuple[str, ...]) -> list[str]:
    """Return where the largest error is above twice that of the formula plus a rounding."""
    errors: dict[str, list[tuple[float, float]]] = {}
    for width in widths:
        for kind in kinds:
            x = rows(width)[kind].to(dtype).contiguous()
            if x.isfinite().all():  # not beyond float16
                for what, pair in compared(name, x, sample(*x.shape, seed=9, dtype=dtype)).items():
                    errors.setdefault(f"{what} of {kind}", []).append(pair)
    worse = []
    for key, pairs in errors.items():
        got, plain = (max(side) for side in zip(*pairs, strict=True))
        if key.split()[0] in of and got > 2 * plain + unit(dtype):
            worse.append(
                f"{key}, widths {sorted(widths)}: {got / unit(dtype):.2f} roundings, {plain / unit(dtype):.2f}"
            )
    return worse


@every_norm
@every_dtype
# Three widths at a time, for the largest error of few numbers is a matter of luck.
@pytest.mark.parametrize("three", [NARROW, WIDTHS[3:6], WIDTHS[6:9], WIDE], ids=str)
def test_the_error_is_at_most_twice_the_formulas_and_a_rounding(
    name: str, dtype: torch.dtype, three: tuple[int, ...]
) -> None:
    kinds = set(rows(1)) - {"one entry apart"}
    said = too_far(name, dtype, set(three) & set(widths(name)), kinds, ("z",) if three == NARROW else ("z", "dx"))
    assert not said, "\n".join(said)


@every_norm
@every_dtype
def test_the_gradient_of_two_or_three_entries_is_as_exact_as_the_formulas(name: str, dtype: torch.dtype) -> None:
    """A gradient that consists only of the rounding error of the mean."""
    said = too_far(name, dtype, set(NARROW) & set(widths(name)), set(rows(1)) - {"one entry apart"}, ("dx",))
    assert not said, "\n".join(said)


@every_norm
@every_dtype
@pytest.mark.parametrize("three", [NARROW, WIDTHS[3:6], WIDTHS[6:9], WIDE], ids=str)
def test_a_large_entry_among_equal_small_ones_is_summed_as_exactly_as_by_torch(
    name: str, dtype: torch.dtype, three: tuple[int, ...]
) -> None:
    """Thousands of small squares beside a large one, which a sequential sum rounds in one direction."""
    said = too_far(name, dtype, set(three) & set(widths(name)), {"one entry apart"}, ("z", "dx"))
    assert not said, "\n".join(said)


@pytest.mark.parametrize(("count", "width"), [(2048, 256), (65536, 16), (20000, 64)])
def test_parameter_gradients_of_many_rows_are_as_exact_as_a_sum_by_torch(count: int, width: int) -> None:
    x, dz = sample(count, width, dtype=torch.float32), sample(count, width, seed=1, dtype=torch.float32) + 0.5
    for what, (got, plain) in compared("layer_norm", x, dz).items():
        bound = 2 * plain + unit(torch.float32)
        assert got <= bound, (
            f"{what}: {got / unit(torch.float32):.1f} roundings, {bound / unit(torch.float32):.1f} allowed"
        )


@pytest.mark.parametrize(("count", "width"), [(64, 256), (2048, 256), (65536, 16), (100000, 8)])
def test_no_gradient_is_further_off_than_twice_that_of_torchs_layer_norm(count: int, width: int) -> None:
    x, dz = sample(count, width, dtype=torch.float32), sample(count, width, seed=1, dtype=torch.float32) + 0.5
    learned = gain(width).float(), shift(width).float()
    truth = exact(NORMS["layer_norm"], x, *learned, dz)
    leaves = [one.clone().requires_grad_() for one in (x, *learned)]
    z = torch.nn.functional.layer_norm(leaves[0], (width,), *leaves[1:], NORMS["layer_norm"].eps)
    theirs = [z, *torch.autograd.grad(z, leaves, dz)]
    for got, other, want in zip(ours("cpp", "layer_norm", x, *learned, dz), theirs, truth, strict=True):
        error, allowed = ((one.detach().double() - want).abs().max() for one in (got, other))
        assert error <= 2 * allowed + unit(torch.float32) * want.abs().max()


@every_path
@every_norm
@every_dtype
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
def test_a_bad_row_never_touches_its_neighbours(path: str, name: str, dtype: torch.dtype, bad: float) -> None:
    for width in (2, 17, 256, 1000):
        x, dz = sample(9, width, dtype=dtype), sample(9, width, seed=1, dtype=dtype)
        arguments = (gain(width, dtype), shift(width, dtype))
        clean = ours(path, name, x, *arguments, dz)
        for row in (0, 4, 8):
            hurt = x.clone()
            hurt[row, width // 2] = bad
            others = [at for at in range(9) if at != row]
            z, dx, dweight, dbias = ours(path, name, hurt, *arguments, dz)
            assert torch.equal(z[others], clean[0][others])
            assert torch.equal(dx[others], clean[1][others])
            # Nor does it pass for a good one.
            assert not (z[row].isfinite().all() and dx[row].isfinite().all() and dweight.isfinite().all())
            assert torch.equal(dbias, clean[3])
            # An upstream gradient that is bad hurts its own row alone, too.
            up = dz.clone()
            up[row, width // 2] = bad
            _, dx, *_ = ours(path, name, x, *arguments, up)
            assert torch.equal(dx[others], clean[1][others])
            assert not dx[row].isfinite().all()


@every_norm
@every_dtype
def test_where_the_definition_is_not_finite_the_kernel_is_not(name: str, dtype: torch.dtype) -> None:
    for width in (2, 17, 256):
        x = sample(6, width, dtype=dtype)
        x[0, 0], x[1, 1], x[2, 0] = float("inf"), -float("inf"), float("nan")
        x[3, 0], x[3, 1] = float("inf"), -float("inf")
        x[4] = float("inf")
        arguments = (gain(width, dtype), shift(width, dtype))
        (z, *_), (want, *_) = ours("cpp", name, x, *arguments, x), exact(NORMS[name], x, *arguments, x)
        centered = NORMS[name].flags & CENTER
        assert torch.equal(z.isnan()[:5], want.isnan()[:5]) or not centered
        assert z[5].isfinite().all()
        assert (z.isfinite() == want.isfinite()).all()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@every_path
@every_norm
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.usefixtures("threads")
def test_a_row_has_the_same_bits_in_every_batch(path: str, name: str, dtype: torch.dtype) -> None:
    for width in widths(name):
        # Enough for several parts and threads, and a few rows that fill no block.
        count = min(203, max(37, (1 << 17) // width))
        x, dz = sample(count, width, dtype=dtype), sample(count, width, seed=1, dtype=dtype)
        learned = gain(width, dtype), shift(width, dtype)
        z, dx, *_ = ours(path, name, x, *learned, dz)
        for begin, end in ((0, 1), (1, 2), (2, 5), (count - 1, count), (3, count), (count // 2, count)):
            # A part begins at another address, another remainder of a block.
            some = ours(path, name, x[begin:end], *learned, dz[begin:end])
            assert torch.equal(some[0], z[begin:end]), (width, begin, end)
            assert torch.equal(some[1], dx[begin:end]), (width, begin, end)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(7))
        mixed = ours(path, name, x[order], *learned, dz[order])
        assert torch.equal(mixed[0], z[order])
        assert torch.equal(mixed[1], dx[order])


@every_path
@every_norm
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.usefixtures("threads")
def test_runs_and_threads_change_no_bit_of_any_gradient(path: str, name: str, dtype: torch.dtype) -> None:
    for count, width in ((700, 256), (1, 4097), (3000, 33), (40, 4097)):
        found = []
        for number in (1, 2, 1, 3):
            torch.set_num_threads(number)
            x, dz = sample(count, width, dtype=dtype), sample(count, width, seed=1, dtype=dtype)
            found.append(ours(path, name, x, gain(width, dtype), shift(width, dtype), dz))
        for other in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True)), (count, width)


@every_path
@pytest.mark.parametrize("name", [name for name, formula in NORMS.items() if formula.keeps_input(weight=False)])
def test_which_gradients_are_wanted_changes_no_bit_of_the_others(path: str, name: str) -> None:
    for width in (7, 64, 769):
        x, dz = sample(33, width).float(), sample(33, width, seed=1).float()
        found = []
        for learns in (True, False):
            x = x.detach().requires_grad_()
            weight, bias = (one.requires_grad_(learns) for one in (gain(width).float(), shift(width).float()))
            z, _ = PATHS[path](NORMS[name], x, None, weight, bias)
            found.append([z, *torch.autograd.grad(z, x, dz)])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), width


@every_norm
@pytest.mark.parametrize("power", [-12, -6, 6, 12, 16])
def test_gradients_are_right_for_rows_of_any_size_that_float32_can_square(name: str, power: int) -> None:
    x, dz = (sample(5, 33) * 10.0**power).float(), sample(5, 33, seed=1).float()
    for what, (error, _) in compared(name, x, dz).items():
        # The cube of what is divided by has no place in float32: it must not be taken.
        assert error <= 16 * unit(torch.float32), what
