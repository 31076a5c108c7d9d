"""The autograd functions in C++ and Python: derivatives are right or refused, and saved tensors are minimal."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from normscope.kernels.backends import cpu
from normscope.kernels.formula import DETACH_MEAN, DETACH_STD, LENGTH, PHI, Formula
from support.family import MEMBERS, NORMS, PATHS, definition, gain, sample, shift, through_cpp, through_python
from support.pairwise import parametrize_pairwise

ROWS, WIDTH = 4, 7
# Sums of at most twenty-eight terms of order ten, in either order.
SAME = {"rtol": 0, "atol": 1e-12}

every_path = pytest.mark.parametrize("path", PATHS)
every_member = pytest.mark.parametrize("name", MEMBERS)
every_norm = pytest.mark.parametrize("name", NORMS)
with_and_without_residual = pytest.mark.parametrize("added", [True, False], ids=["residual", "no_residual"])

PARAMETERS = {"both": (True, True), "gain": (True, False), "bias": (False, True), "none": (False, False)}

DIFFERENTIABLE = [name for name, one in MEMBERS.items() if not one.flags & (DETACH_MEAN | DETACH_STD | PHI)]
"""The members whose backward pass is the derivative of their forward pass."""


def leaves(added: bool, parameters: str, *, rows: int = ROWS, width: int = WIDTH) -> dict[str, Tensor | None]:
    weighted, biased = PARAMETERS[parameters]
    given = {
        "x": sample(rows, width),
        "residual": sample(rows, width, seed=5) if added else None,
        "weight": gain(width) if weighted else None,
        "bias": shift(width) if biased else None,
    }
    return {key: one if one is None else one.requires_grad_() for key, one in given.items()}


def values(given: dict[str, Tensor | None]) -> list[Tensor]:
    return [one for one in given.values() if one is not None]


def outputs(results: tuple[Tensor, Tensor | None]) -> list[Tensor]:
    return [one for one in results if one is not None]


def upstreams(of: list[Tensor], seed: int = 30) -> list[Tensor]:
    return [sample(*one.shape, seed=seed + at, dtype=one.dtype) for at, one in enumerate(of)]


@parametrize_pairwise("name, parameters, path, added", MEMBERS, PARAMETERS, PATHS, [True, False])
def test_first_and_second_derivatives_are_those_of_the_definition(
    name: str, parameters: str, path: str, added: bool
) -> None:
    found = {}
    for side, function in (("ours", PATHS[path]), ("theirs", definition)):
        given = leaves(added, parameters)
        out = outputs(function(MEMBERS[name], **given))
        dz = [one.requires_grad_() for one in upstreams(out)]
        first = torch.autograd.grad(out, values(given), dz, retain_graph=True)
        again = torch.autograd.grad(out, values(given), dz, create_graph=True)
        moving = [one for one in again if one.requires_grad]
        second = torch.autograd.grad(
            moving, [*values(given), *dz], upstreams(moving, 40), allow_unused=True, materialize_grads=True
        )
        found[side] = [*out, *first, *again, *second]
    for ours, theirs in zip(found["ours"], found["theirs"], strict=True):
        torch.testing.assert_close(ours, theirs, **SAME)


@every_path
@every_member
@pytest.mark.parametrize("size", [0.0, 1e-4, 1e3])
def test_rows_of_zeros_and_rows_far_shorter_or_longer_than_eps_have_the_definitions_gradients(
    path: str, name: str, size: float
) -> None:
    found = []
    for function in (PATHS[path], definition):
        given = leaves(added=False, parameters="both")
        z, _ = function(MEMBERS[name], **{**given, "x": given["x"] * size})
        found.append([z, *torch.autograd.grad(z, values(given), sample(ROWS, WIDTH, seed=1))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12 * max(1.0, theirs.abs().max().item()))


@every_path
@pytest.mark.parametrize("name", DIFFERENTIABLE)
@with_and_without_residual
def test_both_derivatives_are_those_of_finite_differences(path: str, name: str, added: bool) -> None:
    given = leaves(added, "both", rows=2, width=4)

    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip([key for key, one in given.items() if one is not None], tensors, strict=True))
        return tuple(outputs(PATHS[path](MEMBERS[name], **named)))

    assert gradcheck(call, values(given))
    assert gradgradcheck(call, values(given))


@every_path
def test_the_penalty_on_the_gradient_of_a_unit_vector_is_the_known_one(path: str) -> None:
    """For z = x / |x| and f = a.z it is (|a|^2 - (a.z)^2) / |x|^2, with its gradient written out here."""
    x, a = sample(ROWS, WIDTH).requires_grad_(), sample(ROWS, WIDTH, seed=1)
    z, _ = PATHS[path](Formula(LENGTH, 0.0), x)
    (gradient,) = torch.autograd.grad(z, x, a, create_graph=True)
    penalty = gradient.square().sum(-1)
    length = x.detach().norm(dim=-1, keepdim=True)
    unit = x.detach() / length
    along = (a * unit).sum(-1, keepdim=True)
    square = a.square().sum(-1, keepdim=True) - along.square()
    torch.testing.assert_close(penalty, (square / length.square()).squeeze(-1), **SAME)
    (got,) = torch.autograd.grad(penalty, x, torch.ones_like(penalty))
    want = -2 * square * unit / length**3 - 2 * along * (a - along * unit) / length**3
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert got.abs().max() > 0.1


@every_path
def test_a_training_step_with_a_gradient_penalty_reaches_every_parameter(path: str) -> None:
    found = {}
    for side, function in (("ours", PATHS[path]), ("theirs", definition)):
        given = leaves(added=True, parameters="both")
        z, total = function(NORMS["layer_norm"], **given)
        score = (z * sample(ROWS, WIDTH, seed=1)).sum() + (z * z * total).sum()
        (gradient,) = torch.autograd.grad(score, given["x"], create_graph=True)
        (score + (gradient.norm(dim=-1) - 1).square().mean()).backward()
        found[side] = [one.grad for one in values(given)]
    for ours, theirs in zip(found["ours"], found["theirs"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-11)


@every_path
@pytest.mark.parametrize("wanted", ["x", "residual", "weight", "bias", "x weight", "residual bias", "weight bias"])
@pytest.mark.parametrize("again", [False, True], ids=["once", "create_graph"])
@every_norm
def test_any_of_the_inputs_alone_may_want_a_gradient(path: str, wanted: str, again: bool, name: str) -> None:
    found = {}
    for side, function in (("ours", PATHS[path]), ("theirs", definition)):
        given = leaves(added=True, parameters="both")
        for key, one in given.items():
            assert one is not None
            one.requires_grad_(key in wanted.split())
        out = outputs(function(NORMS[name], **given))
        pairs = [(one, up) for one, up in zip(out, upstreams(out), strict=True) if one.requires_grad]
        ones, ups = zip(*pairs, strict=True)
        found[side] = torch.autograd.grad(ones, [given[key] for key in wanted.split()], ups, create_graph=again)
    for ours, theirs in zip(found["ours"], found["theirs"], strict=True):
        torch.testing.assert_close(ours, theirs, **SAME)


@every_path
@every_norm
@pytest.mark.parametrize("at", [0, 1], ids=["only_the_norm", "only_the_sum"])
def test_one_of_the_two_outputs_may_go_unused(path: str, name: str, at: int) -> None:
    found = {}
    for side, function in (("ours", PATHS[path]), ("theirs", definition)):
        given = leaves(added=True, parameters="both")
        out = function(NORMS[name], **given)[at]
        grads = torch.autograd.grad(out, values(given), sample(ROWS, WIDTH, seed=1), allow_unused=True)
        found[side] = [torch.zeros(()) if one is None else one for one in grads]
    for ours, theirs in zip(found["ours"], found["theirs"], strict=True):
        torch.testing.assert_close(ours, theirs, **SAME)


@contextlib.contextmanager
def counted(*free: Tensor) -> Iterator[list[int]]:
    """Count the bytes that are saved for the backward pass: every storage once, without those of ``free``."""
    storages: dict[int, int] = {}
    known = {one.untyped_storage().data_ptr() for one in free}
    total = [0]

    def pack(one: Tensor) -> Tensor:
        storages[one.untyped_storage().data_ptr()] = one.numel() * one.element_size()
        total[0] = sum(size for at, size in storages.items() if at not in known)
        return one

    with saved_tensors_hooks(pack, lambda one: one):
        yield total


BEYOND_X = {
    "layer_norm": 8,
    "rms_norm": 4,
    "scale_norm": 4,
    "ada_norm": 8,
    "ada_norm_released": 8,
    "detach_norm": 4,
    "detach_norm_std": 4,
    "detach_norm_mean": 8,
}
"""Bytes per row, of two float32 numbers or one."""
WITHOUT_X = {"detach_norm", "detach_norm_std"}


@every_path
@every_norm
@with_and_without_residual
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_what_is_kept_is_the_input_and_two_numbers_a_row_or_one_number_alone(
    path: str, name: str, added: bool, dtype: torch.dtype
) -> None:
    rows, width = 9, 64
    x = sample(rows, width, dtype=dtype).requires_grad_()
    residual = sample(rows, width, seed=1, dtype=dtype) if added else None
    weight = gain(width, dtype).requires_grad_() if name in ("layer_norm", "rms_norm") else None
    bias = shift(width, dtype).requires_grad_() if name == "layer_norm" else None
    with counted(*(one for one in (weight, bias) if one is not None)) as total:
        PATHS[path](NORMS[name], x, residual, weight, bias)
    numbers = rows * BEYOND_X[name] * (2 if dtype == torch.float64 else 1)
    assert total[0] == numbers + (0 if name in WITHOUT_X else x.numel() * x.element_size())


@every_path
def test_a_frozen_gain_keeps_detach_norms_input_out(path: str) -> None:
    x, weight = sample(9, 64).float().requires_grad_(), gain(64).float()
    for learns, numbers in ((False, 4), (True, 8 + 64 * 4)):
        with counted(weight) as total:
            PATHS[path](NORMS["detach_norm"], x, None, weight.requires_grad_(learns))
        assert total[0] == 9 * numbers


@every_path
@every_norm
def test_nothing_is_kept_where_nothing_is_learned(path: str, name: str) -> None:
    given = leaves(added=True, parameters="both")
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), counted() as total:
            out = outputs(PATHS[path](NORMS[name], **given))
        assert total[0] == 0
        assert not any(one.requires_grad for one in out)
    assert all(one.is_inference() for one in out)


@every_path
def test_an_inference_tensor_is_normalized_and_not_kept(path: str) -> None:
    with torch.inference_mode():
        x = sample(ROWS, WIDTH)
    weight = gain(WIDTH).requires_grad_()
    with pytest.raises(RuntimeError, match=r"Inference tensors cannot be saved for backward"):
        PATHS[path](NORMS["layer_norm"], x, None, weight)
    z, _ = PATHS[path](NORMS["layer_norm"], x, None, weight.detach())
    torch.testing.assert_close(z, definition(NORMS["layer_norm"], x, None, weight.detach())[0], **SAME)


@every_path
@every_norm
def test_a_graph_is_used_once_or_kept_by_torchs_own_rule(path: str, name: str) -> None:
    given = leaves(added=True, parameters="both")
    out = outputs(PATHS[path](NORMS[name], **given))
    dz = upstreams(out)
    first = torch.autograd.grad(out, values(given), dz, retain_graph=True)
    second = torch.autograd.grad(out, values(given), dz)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match=r"Trying to backward through the graph a second time"):
        torch.autograd.grad(out, values(given), dz)


@every_path
@pytest.mark.parametrize("changed", ["x", "weight", "sum"])
@pytest.mark.parametrize("again", [False, True], ids=["once", "create_graph"])
def test_a_saved_tensor_that_was_changed_in_place_is_refused(path: str, changed: str, again: bool) -> None:
    given = leaves(added=changed == "sum", parameters="both")
    assert given["x"] is not None
    x = given["x"] * 1
    z, total = PATHS[path](NORMS["layer_norm"], **{**given, "x": x})
    with torch.no_grad():
        {"x": x, "weight": given["weight"], "sum": total}[changed].mul_(2)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation"):
        torch.autograd.grad(z, given["x"], sample(ROWS, WIDTH, seed=1), create_graph=again)


@every_path
def test_what_is_not_kept_may_be_changed_in_place(path: str) -> None:
    """No norm saves its output, and DetachNorm saves one number per row instead of its input."""
    for name in ("layer_norm", "detach_norm"):
        given = leaves(added=False, parameters="none")
        want, _ = definition(NORMS[name], **given)
        wanted = torch.autograd.grad(3 * want, given["x"], sample(ROWS, WIDTH, seed=1))
        assert given["x"] is not None
        x = given["x"] * 1
        z, _ = PATHS[path](NORMS[name], x)
        z = z.mul_(3)
        torch.testing.assert_close(z, 3 * want, **SAME)
        if name == "detach_norm":
            with torch.no_grad():
                x.zero_()
        got = torch.autograd.grad(z, given["x"], sample(ROWS, WIDTH, seed=1))
        torch.testing.assert_close(got, wanted, **SAME)


@every_path
@every_norm
def test_checkpointing_recomputes_the_same_gradients(path: str, name: str) -> None:
    given = leaves(added=True, parameters="both")
    formula = NORMS[name]

    def block(*tensors: Tensor) -> list[Tensor]:
        return outputs(PATHS[path](formula, *tensors))

    found = []
    for out in (block(*values(given)), checkpoint(block, *values(given), use_reentrant=False)):
        found.append(torch.autograd.grad(out, values(given), upstreams(out)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@every_path
@pytest.mark.parametrize("again", [False, True], ids=["once", "create_graph"])
def test_saved_tensors_may_be_moved_away_and_brought_back(path: str, again: bool) -> None:
    given = leaves(added=True, parameters="both")
    found = []
    away: list[Tensor] = []

    def pack(one: Tensor) -> int:
        away.append(one.detach().clone())
        return len(away) - 1

    for hooks in (contextlib.nullcontext(), save_on_cpu(), saved_tensors_hooks(pack, lambda at: away[at])):
        with hooks:
            out = outputs(PATHS[path](NORMS["layer_norm"], **given))
        found.append(torch.autograd.grad(out, values(given), upstreams(out), create_graph=again))
    assert away
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, **SAME)


@every_path
def test_hooks_on_tensors_and_on_the_node_see_and_change_gradients(path: str) -> None:
    given = leaves(added=True, parameters="both")
    z, total = PATHS[path](NORMS["layer_norm"], **given)
    up = sample(ROWS, WIDTH, seed=1)
    plain = torch.autograd.grad((z, total), values(given), (up, up), retain_graph=True)
    seen: list[str] = []
    z.register_hook(lambda gradient: seen.append("z") or gradient * 2)
    assert total is not None
    total.register_hook(lambda gradient: seen.append("sum") or gradient * 2)
    z.retain_grad()
    assert z.grad_fn is not None
    z.grad_fn.register_hook(lambda ins, outs: seen.append("node"))
    z.grad_fn.register_prehook(lambda outs: seen.append("before"))
    given["weight"].register_post_accumulate_grad_hook(lambda one: seen.append("weight"))  # type: ignore[union-attr]
    torch.autograd.backward((z, total), (up, up))
    assert {"z", "sum", "node", "before", "weight"} <= set(seen)
    torch.testing.assert_close(z.grad, 2 * up, **SAME)
    for one, before in zip(values(given), plain, strict=True):
        torch.testing.assert_close(one.grad, 2 * before, **SAME)


@every_path
@every_norm
@pytest.mark.parametrize("shape", [(0, WIDTH), (3, 0, WIDTH), (WIDTH,), (1, 1, WIDTH), (2, 3, 4, WIDTH)])
def test_any_number_of_rows_and_axes_even_none(path: str, name: str, shape: tuple[int, ...]) -> None:
    found = {}
    for side, function in (("ours", PATHS[path]), ("theirs", definition)):
        x, residual = sample(*shape).requires_grad_(), sample(*shape, seed=1).requires_grad_()
        weight, bias = gain(WIDTH).requires_grad_(), shift(WIDTH).requires_grad_()
        out = outputs(function(NORMS[name], x, residual, weight, bias))
        once = torch.autograd.grad(out, (x, residual, weight, bias), upstreams(out), retain_graph=True)
        found[side] = [*out, *once, *torch.autograd.grad(out, (x, weight), upstreams(out), create_graph=True)]
    for ours, theirs in zip(found["ours"], found["theirs"], strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, **SAME)


def views() -> dict[str, Tensor]:
    big = sample(6, 10, 2 * WIDTH)
    return {
        "every second": big[..., ::2],
        "transposed": sample(WIDTH, 5, 6).permute(1, 2, 0),
        "expanded rows": sample(1, WIDTH).expand(6, WIDTH),
        "expanded entries": sample(6, 1).expand(6, WIDTH),
        "a part": big[1:5, 2:7, 3 : 3 + WIDTH],
        "channels last": sample(2, 3, 5, WIDTH).contiguous(memory_format=torch.channels_last),
        "off by one entry": sample(6 * WIDTH + 1)[1:].view(6, WIDTH),
    }


@every_path
@pytest.mark.parametrize("view", views())
@pytest.mark.parametrize("of", ["x", "residual", "upstream"])
def test_layouts_do_not_matter(path: str, view: str, of: str) -> None:
    strided = views()[view]
    found = {}
    for side, one in (("strided", strided), ("dense", strided.contiguous())):
        given = {key: sample(*one.shape, seed=at) for at, key in enumerate(("x", "residual", "upstream"))}
        given[of] = one
        x, residual = (given[key].detach().requires_grad_() for key in ("x", "residual"))
        weight, bias = gain(WIDTH).requires_grad_(), shift(WIDTH).requires_grad_()
        z, total = PATHS[path](NORMS["layer_norm"], x, residual, weight, bias)
        up = given["upstream"]
        grads = torch.autograd.grad((z, total), (x, residual, weight, bias), (up, up), retain_graph=True)
        again = torch.autograd.grad((z, total), (x, weight), (up, up), create_graph=True)
        found[side] = [z, total, *grads], again
        assert z.is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(found["strided"][0], found["dense"][0], strict=True))
    for ours, theirs in zip(found["strided"][1], found["dense"][1], strict=True):
        torch.testing.assert_close(ours, theirs, **SAME)  # torch's own sums follow the layout


@every_path
@every_norm
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16, torch.float16])
def test_mixed_dtypes_give_each_gradient_its_own(
    path: str, name: str, dtype: torch.dtype, parameters: torch.dtype
) -> None:
    given = [
        sample(6, 33, dtype=dtype),
        sample(6, 33, seed=5, dtype=dtype),
        gain(33, parameters),
        shift(33, parameters),
    ]
    for again in (False, True):
        x, residual, weight, bias = (one.clone().requires_grad_() for one in given)
        z, total = PATHS[path](NORMS[name], x, residual, weight, bias)
        assert (z.dtype, total.dtype) == (dtype, dtype)
        up = sample(6, 33, seed=1, dtype=dtype)
        grads = torch.autograd.grad(z, (x, residual, weight, bias), up, create_graph=again)
        assert [one.dtype for one in grads] == [dtype, dtype, parameters, parameters]
        # The sum is rounded as it is stored; what follows is compared in float64, of the same sum.
        wide = [total.detach().double().requires_grad_(), *(one.double().requires_grad_() for one in given[2:])]
        want, _ = definition(NORMS[name], wide[0], None, *wide[1:])
        wants = torch.autograd.grad(want, wide, up.double())
        for got, right in ((z, want), (grads[0], wants[0]), (grads[2], wants[1]), (grads[3], wants[2])):
            unit = torch.finfo(got.dtype).eps + 32 * torch.finfo(torch.float32).eps
            assert (got.double() - right).abs().max() <= unit * right.abs().max()


def test_both_functions_compute_the_same_bits() -> None:
    for name, dtype, width in (
        (name, dtype, width)
        for name in NORMS
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
        for width in (1, 16, 63, 769)
        if (name, width) != ("ada_norm_released", 1)
    ):
        found = []
        for function in (through_cpp, through_python):
            x, residual = (sample(57, width, seed=seed, dtype=dtype).requires_grad_() for seed in (0, 1))
            weight, bias = gain(width, dtype).requires_grad_(), shift(width, dtype).requires_grad_()
            out = outputs(function(NORMS[name], x, residual, weight, bias))
            found.append([*out, *torch.autograd.grad(out, (x, residual, weight, bias), upstreams(out))])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), (name, dtype, width)


def test_the_backward_pass_goes_through_the_kernel_unless_it_will_be_differentiated() -> None:
    x, up = sample(ROWS, WIDTH).requires_grad_(), sample(ROWS, WIDTH, seed=1)
    for again in (False, True):
        with mock.patch.object(cpu, "backward", wraps=cpu.backward) as kernel:
            z, _ = through_python(NORMS["layer_norm"], x)
            torch.autograd.grad(z, x, up, create_graph=again)
        assert kernel.call_count == (not again)
