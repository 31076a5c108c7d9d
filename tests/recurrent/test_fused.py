"""The CPU kernels against the steps written out: values, gradients, their gradients, and what does not change bits."""

import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from normscope import norms
from normscope.kernels.backends import scan as kernels
from normscope.recurrent import GRU, LSTM, RNN, Places, eligible, fused, scan
from normscope.recurrent.scan import draw_masks
from support.pairwise import pairwise

WIDTH, H, B, T = 5, 19, 6, 7
LENGTHS = [3, 7, 1, 5, 2, 7]
CASES: list[tuple[type, dict[str, Any]]] = [
    (LSTM, {}),
    (LSTM, {"bias": False, "norm": "layer_norm_simple"}),
    (LSTM, {"norm": "rms_norm", "bidirectional": True, "num_layers": 2}),
    (LSTM, {"norm": "ada_norm"}),
    (LSTM, {"norm": "detach_norm"}),
    (LSTM, {"cell_norm": None}),
    (LSTM, {"norm": None, "cell_norm": "rms_norm"}),
    (LSTM, {"norm": lambda width: norms.LayerNorm(width, weight=False)}),
    (LSTM, {"places": "read-out"}),
    (LSTM, {"places": "kiros", "batch_first": True}),
    (LSTM, {"places": "fastrnns", "bias": False}),
    (LSTM, {"learned_initial_state": True}),
    (GRU, {}),
    (GRU, {"bias": False, "norm": "layer_norm_simple"}),
    (GRU, {"norm": "rms_norm", "bidirectional": True, "num_layers": 2}),
    (GRU, {"norm": "ada_norm", "learned_initial_state": True}),
    (GRU, {"norm": lambda width: norms.LayerNorm(width, weight=False)}),
    (LSTM, {"places": "per gate"}),
    (LSTM, {"places": "tensorflow"}),
    (LSTM, {"places": Places(products="summed", bias="both", cell="plain")}),
    (LSTM, {"zoneout": (0.2, 0.3), "bidirectional": True}),
    (LSTM, {"places": "fastrnns", "zoneout": 0.4, "recurrent_dropout": 0.3}),
    (LSTM, {"norm": None, "recurrent_dropout": 0.3, "learned_initial_state": True}),
    (GRU, {"places": "per gate", "learned_initial_state": True}),
    (GRU, {"places": "kiros"}),
    (GRU, {"places": "haste", "zoneout": 0.3}),
    (GRU, {"norm": None, "recurrent_dropout": 0.4, "bidirectional": True}),
    (RNN, {}),
    (RNN, {"norm": "rms_norm", "nonlinearity": "relu", "num_layers": 2}),
    (RNN, {"places": "apart", "zoneout": 0.3, "bidirectional": True}),
    (RNN, {"places": Places(bias="both"), "recurrent_dropout": 0.3, "learned_initial_state": True}),
    (RNN, {"norm": None, "zoneout": 0.2, "bias": False}),
]
FORMS = ("padded", "packed", "resets", "packed with resets", "evaluation", "with gaps", "transposed")


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def laid_out(x: Tensor, form: str) -> Tensor:
    """Return the same numbers in memory of the form."""
    if form == "with gaps":
        return torch.stack([x, torch.zeros_like(x)], -1)[..., 0]
    return x.mT.contiguous().mT if form == "transposed" and x.dim() > 1 else x


def built(kind: type, options: dict[str, Any], dtype: torch.dtype) -> Any:
    torch.manual_seed(1)
    layer = kind(WIDTH, H, **options).to(dtype)
    with torch.no_grad():
        for index, parameter in enumerate(layer.parameters()):
            parameter.add_(0.3 * drawn(*parameter.shape, seed=index + 1, dtype=dtype))
    return layer


def values_and_gradients(
    layer: Any, form: str, dtype: torch.dtype, *, given: torch.dtype | None = None
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Run a layer and its backward pass on numbers that are exact in the dtype ``given``."""

    def drawn_here(*shape: int, seed: int = 0) -> Tensor:
        return laid_out(drawn(*shape, seed=seed, dtype=given or dtype).to(dtype), form)

    x = drawn_here(*((B, T, WIDTH) if layer.batch_first else (T, B, WIDTH))).requires_grad_()
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    states = tuple(
        drawn_here(rows, B, H, seed=k).requires_grad_() for k in ((8, 9) if isinstance(layer, LSTM) else (8,))
    )
    feed: Any = x
    resets: Any = None
    if "resets" in form:
        resets = drawn(*x.shape[:2], seed=5) > 0.8
    if "packed" in form:
        pack = partial(pack_padded_sequence, lengths=LENGTHS, batch_first=layer.batch_first, enforce_sorted=False)
        feed, resets = pack(x), None if resets is None else pack(resets)
    start = () if hasattr(layer, "initial_h") else states
    for parameter in layer.parameters():
        parameter.data = laid_out(parameter.data, form)
    layer.train(form != "evaluation")
    torch.manual_seed(4)
    output, state = layer(feed, (start if isinstance(layer, LSTM) else start[0]) if start else None, reset=resets)
    values = [output.data if isinstance(output, PackedSequence) else output]
    values += state if isinstance(state, tuple) else [state]
    upstream = [drawn_here(*value.shape, seed=7) for value in values]
    gradients = torch.autograd.grad(values, [x, *start, *layer.parameters()], upstream)
    return [value.detach() for value in values], gradients


def masks_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the same masks in every dtype."""

    def draw(regularizers: Any, state: Any, sizes: Any, **options: Any) -> scan.Masks:
        wide = tuple(one.double() for one in state)
        masks = draw_masks(regularizers, wide, sizes, **options)
        return scan.Masks(None if masks.dropout is None else masks.dropout.to(state[0].dtype), masks.held)

    for module in (fused, scan):
        monkeypatch.setattr(module, "draw_masks", draw)


@pytest.mark.parametrize(
    ("case", "form", "dtype"), pairwise(CASES, FORMS, (torch.float64, torch.float32, torch.bfloat16))
)
def test_kernels_compute_what_the_steps_do(
    case: tuple[type, dict[str, Any]], form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, options = case
    masks_of_float64(monkeypatch)
    layer = built(kind, options, dtype)
    got = values_and_gradients(layer, form, dtype)
    assert layer.computed_by == "cpu"
    monkeypatch.setattr(fused, "reason_against", lambda *_, **__: "asked for")
    want = values_and_gradients(layer, form, dtype)
    assert layer.computed_by == "loop: asked for"
    exact = values_and_gradients(layer.double(), form, torch.float64, given=dtype)
    for one, other, true in zip(*([*values, *gradients] for values, gradients in (got, want, exact)), strict=True):
        assert one.dtype == other.dtype == dtype
        errors = [float((result.double() - true).abs().max()) for result in (one, other)]
        # Nearly as exact as the steps, whose values in float64 are the truth; one gradient here is near 100.
        units = 5000 if dtype == torch.float64 else 128
        assert errors[0] <= 8 * errors[1] + units * torch.finfo(dtype).eps * max(1.0, float(true.abs().max()))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LSTM, {}),
        (LSTM, {"places": "tensorflow", "zoneout": 0.3, "recurrent_dropout": 0.3, "learned_initial_state": True}),
        (GRU, {}),
        (GRU, {"places": "kiros", "zoneout": 0.3, "recurrent_dropout": 0.3, "learned_initial_state": True}),
        (RNN, {}),
        (RNN, {"places": "apart", "zoneout": 0.3, "recurrent_dropout": 0.3, "learned_initial_state": True}),
    ],
)
def test_second_derivatives(kind: type, options: dict[str, Any]) -> None:
    layer = kind(2, 3, **options).double()
    x, h = drawn(3, 2, 2).requires_grad_(), drawn(1, 2, 3, seed=3).requires_grad_()
    arguments = (x, h, *layer.parameters())
    reset = torch.tensor([[False, True], [False, False], [True, False]]) if options else None

    def call(x: Tensor, h: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        output, state = layer(x, (h, h.cos()) if kind is LSTM else h, reset=reset)
        return output, *(state if isinstance(state, tuple) else (state,))

    call(x, h)
    assert layer.computed_by == "cpu"
    assert torch.autograd.gradcheck(call, arguments)
    assert torch.autograd.gradgradcheck(call, arguments)


@pytest.mark.parametrize("kind", [LSTM, GRU, RNN])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_sequence_has_the_same_bits_in_every_batch_and_with_every_number_of_threads(
    kind: type, dtype: torch.dtype
) -> None:
    layer = kind(40, 70).to(dtype)
    x = drawn(9, 21, 40, dtype=dtype)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            output, _ = layer(x)
            gradients = torch.autograd.grad(output, layer.parameters(), drawn(*output.shape, seed=2, dtype=dtype))
            results.append((output, *gradients))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))
    for rows in (slice(0, 1), slice(3, 8), slice(20, 21)):
        assert torch.equal(layer(x[:, rows])[0], results[0][0][:, rows])


def test_a_gradient_has_the_same_bits_in_every_batch() -> None:
    layer = LSTM(40, 70)
    x, upstream = drawn(9, 21, 40, dtype=torch.float32).requires_grad_(), drawn(9, 21, 70, seed=2, dtype=torch.float32)
    (want,) = torch.autograd.grad(layer(x)[0], x, upstream)
    for rows in (slice(0, 1), slice(3, 8), slice(20, 21)):
        part = x[:, rows].detach().requires_grad_()
        (got,) = torch.autograd.grad(layer(part)[0], part, upstream[:, rows])
        assert torch.equal(got, want[:, rows])


@pytest.mark.parametrize("kind", [LSTM, GRU, RNN])
def test_no_steps_leave_the_states_as_they_were(kind: type) -> None:
    layer = kind(WIDTH, H)
    start = drawn(1, B, H, dtype=torch.float32), drawn(1, B, H, seed=1, dtype=torch.float32)
    output, end = layer(torch.zeros(0, B, WIDTH), start if kind is LSTM else start[0])
    assert output.shape == (0, B, H)
    for one, other in zip(end if kind is LSTM else (end,), start, strict=False):
        assert torch.equal(one, other)


def test_the_products_are_those_of_float64() -> None:
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        for rows, inner, columns in ((77, 53, 101), (1, 1, 1), (8, 300, 48), (65, 7, 97), (0, 4, 5), (600, 21, 300)):
            x, weights = drawn(rows, inner, dtype=dtype), drawn(columns, inner, seed=1, dtype=dtype)
            upstream, bias = drawn(rows, columns, seed=2, dtype=dtype), drawn(columns, seed=3, dtype=dtype)
            wide = upstream.double()
            for one, want in (
                (kernels.product(x, weights, transposed=True), x.double() @ weights.double().T),
                (kernels.product(x, weights, bias, transposed=True), x.double() @ weights.double().T + bias.double()),
                (kernels.product(upstream, weights, transposed=False), wide @ weights.double()),
                (kernels.gradient_of_weights(upstream, x), wide.T @ x.double()),
            ):
                torch.testing.assert_close(one.double(), want, rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize("kind", [LSTM, GRU, RNN])
def test_kernels_draw_the_masks_of_the_steps(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = kind(WIDTH, H, zoneout=0.3, recurrent_dropout=0.2, bidirectional=True)
    x = pack_padded_sequence(drawn(T, B, WIDTH, dtype=torch.float32), LENGTHS, enforce_sorted=False)
    torch.manual_seed(2)
    got, state = layer(x)[0].data, torch.get_rng_state()
    assert layer.computed_by == "cpu"
    monkeypatch.setattr(fused, "reason_against", lambda *_, **__: "asked for")
    torch.manual_seed(2)
    torch.testing.assert_close(got, layer(x)[0].data)
    assert torch.equal(state, torch.get_rng_state())


def test_kept_memory_is_overwritten_only_where_nobody_reads_it_again() -> None:
    layer, x = LSTM(WIDTH, H), drawn(T, B, WIDTH, dtype=torch.float32)
    parameters = list(layer.parameters())

    def gradients(output: Tensor, **options: Any) -> tuple[Tensor, ...]:
        return torch.autograd.grad(output, parameters, drawn(T, B, H, seed=1, dtype=torch.float32), **options)

    want = gradients(layer(x)[0])
    output, _ = layer(x)
    again = [gradients(output, retain_graph=True) for _ in range(2)] + [gradients(output)]
    with pytest.raises(RuntimeError, match="second time"):
        gradients(output)
    saved: list[Tensor] = []

    def unpack(copy: Tensor) -> Tensor:
        saved.append(copy.clone())
        return copy

    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.clone()) or kept[-1], unpack):
        output, _ = layer(x)
    again.append(gradients(output))
    for result in again:
        assert all(torch.equal(one, other) for one, other in zip(result, want, strict=True))
    # What hooks hand out stays as it was.
    assert len(saved) == len(kept)
    assert all(torch.equal(one, other) for one, other in zip(kept, saved, strict=True))


@pytest.mark.parametrize(("kind", "most"), [(LSTM, 4 + 4 + 1 + 1 + 1), (GRU, 3 + 3 + 1 + 1), (RNN, 1 + 1 + 1)])
def test_memory_that_is_kept(kind: type, most: int) -> None:
    """Both products, c, the output and the input."""
    steps, batch, size = 50, 16, 32
    layer, x = kind(size, size), torch.randn(steps, batch, size, requires_grad=True)
    seen: dict[int, int] = {}

    def pack(one: Tensor) -> Tensor:
        seen[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        return one

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
        output, _ = layer(x)
    assert layer.computed_by == "cpu"
    weights = sum(4 * one.numel() for one in layer.parameters())
    assert sum(seen.values()) <= 4 * most * output.numel() + 2 * weights + 8 * 4 * batch * size


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, -1e30])
@pytest.mark.parametrize("kind", [LSTM, GRU, RNN])
def test_extreme_numbers_do_what_they_do_in_the_steps(
    kind: type, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = kind(WIDTH, H)
    x = drawn(T, B, WIDTH, dtype=torch.float32)
    x[2, 1, 0] = value
    got, _ = layer(x)
    monkeypatch.setattr(fused, "reason_against", lambda *_, **__: "asked for")
    want, _ = layer(x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert got[:, 0].isfinite().all()


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (LSTM(WIDTH, H, proj_size=3), "a projection"),
        (LSTM(WIDTH, H, norm="dyt"), "a norm has no kernel"),
        (LSTM(WIDTH, H, norm=lambda width: norms.AdaNorm(width, detach=False)), "a norm has no kernel"),
        (LSTM(WIDTH, H, norm=lambda width: norms.DetachNorm(width, hold_size=True)), "a norm has no kernel"),
        (GRU(WIDTH, H, places="reset before"), "the reset gate acts before"),
        (LSTM(WIDTH, H).half(), "no kernels for torch.float16"),
    ],
)
def test_what_the_kernels_do_not_compute_is_said(layer: Any, reason: str) -> None:
    dtype = layer.weight_ih_l0.dtype
    layer(drawn(T, B, WIDTH, dtype=dtype))
    assert layer.computed_by.startswith("loop: ")
    assert re.search(reason, layer.computed_by)


def test_the_environment_can_ask_for_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eligible, "requested_backend", lambda: "eager")
    layer = LSTM(WIDTH, H)
    layer(drawn(T, B, WIDTH, dtype=torch.float32))
    assert layer.computed_by == "loop: NORMSCOPE_BACKEND=eager"


def test_modes_and_hooks_take_the_steps() -> None:
    layer, x = LSTM(WIDTH, H), drawn(T, B, WIDTH, dtype=torch.float32)
    want, _ = layer(x)
    seen = []
    handle = layer.norms["l0"]["hh"][0].register_forward_hook(lambda *call: seen.append(call))
    torch.testing.assert_close(layer(x)[0], want)
    assert len(seen) == T
    handle.remove()
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert "mode" in layer.computed_by
    torch.func.vmap(lambda x: layer(x)[0])(x[None])
    assert "transform" in layer.computed_by
    assert LSTM(WIDTH, H, norm=None)(x)[0].shape == want.shape
    plain = LSTM(WIDTH, H, norm=None)
    plain(x)
    assert plain.computed_by == "torch"
    assert isinstance(plain, nn.LSTM)
