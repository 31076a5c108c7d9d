"""The GPU scans on a CPU, run by Triton's interpreter, against the steps written out in float64."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from normscope import norms
from normscope.recurrent import GRU, LSTM, RNN, Places, fused, fused_triton
from support.triton_process import interpreted, needs_triton

pytestmark = needs_triton

WIDTH, H, B, T = 3, 11, 3, 3
LENGTHS = [2, 3, 1]
CASES: dict[str, tuple[type, dict[str, Any]]] = {
    "lstm": (LSTM, {}),
    "lstm, simple, no bias": (LSTM, {"bias": False, "norm": "layer_norm_simple"}),
    "lstm, rms, both directions": (LSTM, {"norm": "rms_norm", "bidirectional": True, "num_layers": 2}),
    "lstm, ada": (LSTM, {"norm": "ada_norm"}),
    "lstm, detach": (LSTM, {"norm": "detach_norm", "batch_first": True}),
    "lstm, products only": (LSTM, {"cell_norm": None}),
    "lstm, cell only": (LSTM, {"norm": None, "cell_norm": "rms_norm"}),
    "lstm, bias only": (LSTM, {"norm": lambda width: norms.LayerNorm(width, weight=False)}),
    "lstm, read-out": (LSTM, {"places": "read-out", "learned_initial_state": True}),
    "lstm, kiros": (LSTM, {"places": "kiros"}),
    "lstm, fastrnns": (LSTM, {"places": "fastrnns", "bias": False}),
    "lstm, per gate": (LSTM, {"places": "per gate"}),
    "lstm, tensorflow": (LSTM, {"places": "tensorflow", "bias": False}),
    "lstm, summed, bias twice": (LSTM, {"places": Places(products="summed", bias="both")}),
    "gru": (GRU, {}),
    "gru, simple, no bias": (GRU, {"bias": False, "norm": "layer_norm_simple"}),
    "gru, rms, both directions": (GRU, {"norm": "rms_norm", "bidirectional": True}),
    "gru, ada": (GRU, {"norm": "ada_norm", "learned_initial_state": True}),
    "gru, per gate": (GRU, {"places": "per gate", "norm": "ada_norm"}),
    "gru, kiros": (GRU, {"places": "kiros"}),
    "gru, haste": (GRU, {"places": "haste"}),
    "gru, plain": (GRU, {"places": Places(products="plain"), "learned_initial_state": True}),
    "rnn": (RNN, {}),
    "rnn, relu, apart": (RNN, {"nonlinearity": "relu", "places": "apart"}),
    "rnn, bias before": (RNN, {"norm": "rms_norm", "places": Places(products="summed", bias="before")}),
    "rnn, plain, bias twice": (
        RNN,
        {"places": Places(products="plain", bias="both"), "learned_initial_state": True, "bidirectional": True},
    ),
}


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def built(name: str, dtype: torch.dtype) -> Any:
    kind, options = CASES[name]
    torch.manual_seed(1)
    layer = kind(WIDTH, H, **options).to(dtype)
    with torch.no_grad():
        for index, parameter in enumerate(layer.parameters()):
            parameter.add_(0.3 * drawn(*parameter.shape, seed=index + 1, dtype=dtype))
    return layer


def starts(layer: Any, dtype: torch.dtype) -> tuple[Tensor, ...]:
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    return tuple(drawn(rows, B, H, seed=seed, dtype=dtype) for seed in ((8, 9) if isinstance(layer, LSTM) else (8,)))


def values_of(layer: Any, x: Tensor, states: tuple[Tensor, ...], *, packed: bool) -> list[Tensor]:
    """Run a layer and return the output and the final states."""
    feed: Any = x
    if packed:
        feed = pack_padded_sequence(x, LENGTHS, batch_first=layer.batch_first, enforce_sorted=False)
    start = None if hasattr(layer, "initial_h") else states if isinstance(layer, LSTM) else states[0]
    output, state = layer(feed, start)
    values = [output.data if isinstance(output, PackedSequence) else output]
    return [*values, *(state if isinstance(state, tuple) else [state])]


def values_and_gradients(layer: Any, given: torch.dtype, *, packed: bool) -> list[Tensor]:
    """Run a layer and its backward pass on numbers that are exact in the dtype ``given``."""
    dtype = layer.weight_ih_l0.dtype
    x = drawn(*((B, T, WIDTH) if layer.batch_first else (T, B, WIDTH)), dtype=given).to(dtype).requires_grad_()
    states = tuple(one.to(dtype).requires_grad_() for one in starts(layer, given))
    values = values_of(layer, x, states, packed=packed)
    upstream = [drawn(*value.shape, seed=7 + index, dtype=given).to(dtype) for index, value in enumerate(values)]
    leaves = [x, *(() if hasattr(layer, "initial_h") else states), *layer.parameters()]
    return [*(value.detach() for value in values), *torch.autograd.grad(values, leaves, upstream)]


@contextmanager
def on_gpu(*, resident: bool) -> Iterator[None]:
    """Let the layers compute by the GPU kernels, which keep the weights or have a product for every step."""
    from normscope.kernels.backends import scan_triton

    scan_triton._is_resident.cache_clear()
    run = sys.modules["normscope.recurrent.run"]
    with (
        mock.patch.object(run, "fused", fused_triton),
        mock.patch.object(scan_triton, "RESIDENT", scan_triton.RESIDENT if resident else 0),
    ):
        yield
    scan_triton._is_resident.cache_clear()


def by_steps(layer: Any, given: torch.dtype, *, packed: bool) -> list[Tensor]:
    with mock.patch.object(fused, "reason_against", return_value="asked for"):
        return values_and_gradients(layer, given, packed=packed)


FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def combined(dtypes: tuple[torch.dtype, ...], *, slow: bool = False) -> list[Any]:
    """Give every case a form and a dtype in turn: the interpreter takes seconds for a case. Every second is slow."""
    return [
        pytest.param(
            name,
            index // 2 % 2 == 1,
            dtypes[index // 4 % len(dtypes)] if slow else dtypes[index % len(dtypes)],
            id=f"{name}, {index // 2 % 2}",
            marks=[pytest.mark.slow] if slow and index % 2 else [],
        )
        for index, name in enumerate(CASES)
    ]


@pytest.mark.parametrize(("name", "packed", "dtype"), combined(FLOATS))
@interpreted
def test_scans_that_keep_the_weights_are_the_steps(name: str, packed: bool, dtype: torch.dtype) -> None:
    check(name, packed, dtype, resident=True)


@pytest.mark.parametrize(("name", "packed", "dtype"), combined((torch.float64, torch.bfloat16), slow=True))
@interpreted
def test_scans_with_a_product_for_every_step_are_the_steps(name: str, packed: bool, dtype: torch.dtype) -> None:
    check(name, packed, dtype, resident=False)


def check(name: str, packed: bool, dtype: torch.dtype, *, resident: bool) -> None:
    layer = built(name, dtype)
    with on_gpu(resident=resident):
        got = values_and_gradients(layer, dtype, packed=packed)
        assert layer.computed_by == "triton"
    steps = by_steps(layer, dtype, packed=packed)
    exact = by_steps(layer.double(), dtype, packed=packed)
    for one, other, true in zip(got, steps, exact, strict=True):
        assert one.dtype == other.dtype == dtype
        errors = [float((result.double() - true).abs().max()) for result in (one, other)]
        # Nearly as exact as the steps, whose values in float64 are the truth.
        units = 200 if dtype == torch.float64 else 16
        assert errors[0] <= 4 * errors[1] + units * torch.finfo(dtype).eps * max(1.0, float(true.abs().max()))


@pytest.mark.parametrize("name", ["lstm", "lstm, tensorflow", "gru, kiros", "gru, haste", "rnn, relu, apart"])
@interpreted
def test_second_derivatives_are_those_of_the_steps(name: str) -> None:
    layer = built(name, torch.float64)

    def second() -> list[Tensor]:
        x = drawn(T, B, WIDTH).requires_grad_()
        states = tuple(one.requires_grad_() for one in starts(layer, torch.float64))
        values = values_of(layer, x, states, packed=True)
        upstream = [drawn(*value.shape, seed=7).requires_grad_() for value in values]
        leaves = [x, *states, *layer.parameters()]
        first = torch.autograd.grad(values, leaves, upstream, create_graph=True)
        return list(
            torch.autograd.grad(
                sum((one.square() * drawn(*one.shape, seed=4)).sum() for one in first),  # pyright: ignore
                [*upstream, *leaves],
            )
        )

    with on_gpu(resident=False):
        got = second()
        assert layer.computed_by == "triton"
    with mock.patch.object(fused, "reason_against", return_value="asked for"):
        want = second()
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn, relu, apart"])
@interpreted
def test_inference_has_the_bits_of_training_and_extreme_rows_stay_alone(name: str, resident: bool) -> None:
    layer = built(name, torch.float32)
    x = drawn(T, B, WIDTH, dtype=torch.float32)
    states = starts(layer, torch.float32)
    with on_gpu(resident=resident):
        want = values_of(layer, x, states, packed=False)
        with torch.no_grad():
            got = values_of(layer, x, states, packed=False)
        assert all(torch.equal(one, other) for one, other in zip(want, got, strict=True))
        for value in (float("nan"), float("inf"), 1e25, -3e37):
            states[0][0, 1, 0] = value
            got = values_of(layer, x, states, packed=False)
            for one, other in zip(got, want, strict=True):
                assert torch.equal(one[..., [0, 2], :], other[..., [0, 2], :])
            with mock.patch.object(fused_triton, "reason_against", return_value="asked for"):
                exact = values_of(layer.double(), x.double(), tuple(one.double() for one in states), packed=False)
            layer.float()
            for one, other in zip(got, exact, strict=True):
                torch.testing.assert_close(one, other.float(), rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("resident", [False, True])
@interpreted
def test_no_steps_and_no_sequences(resident: bool) -> None:
    for name in ("lstm", "gru"):
        layer = built(name, torch.float32)
        for shape in ((0, 2), (2, 0)):
            x = torch.zeros(*shape, WIDTH, requires_grad=True)
            state = drawn(1, shape[1], H, dtype=torch.float32).requires_grad_()
            start: Any = (state, state) if name == "lstm" else state
            with on_gpu(resident=resident):
                output, end = layer(x, start)
                assert layer.computed_by == "triton"
            assert output.shape == (*shape, H)
            last = end[0] if name == "lstm" else end
            upstream = drawn(*last.shape, seed=3, dtype=torch.float32)
            grads = torch.autograd.grad([output, last], [x, state, *layer.parameters()], [output, upstream])
            assert torch.equal(last, state)
            assert torch.equal(grads[1], upstream)
            assert not any(grad.any() for grad in grads[2:])


@interpreted
def test_more_sequences_than_a_program_has_and_more_rows_than_it_sums() -> None:
    from normscope.kernels.backends import scan_triton

    torch.manual_seed(0)
    layer = LSTM(WIDTH, 17)
    x = torch.randn(3, 2 * scan_triton.ROWS + 3, WIDTH)
    upstream = torch.randn(3, 2 * scan_triton.ROWS + 3, 17)
    with on_gpu(resident=True), mock.patch.dict(scan_triton.SUMS, {"ROWS": 8, "TILES": 2, "BLOCK": 16}):
        output, _ = layer(x)
        grads = torch.autograd.grad(output, list(layer.parameters()), upstream)
    with mock.patch.object(fused, "reason_against", return_value="asked for"):
        output, _ = layer.double()(x.double())
        exact = torch.autograd.grad(output, list(layer.parameters()), upstream.double())
    for one, other in zip(grads, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@interpreted
def test_runs_of_steps_with_equally_many_rows() -> None:
    from normscope.kernels.backends.scan_triton import _runs

    assert list(_runs((3, 3, 2, 0), reverse=False)) == [(0, 3, 2, 3), (6, 2, 1, 2)]
    assert list(_runs((3, 3, 2, 0), reverse=True)) == [(6, -2, 1, 2), (3, -3, 2, 3)]
    assert list(_runs((), reverse=True)) == []


@interpreted
def test_what_the_kernels_do_not_compute_is_said() -> None:
    from normscope.kernels.backends import scan_triton

    cases: list[tuple[type, dict[str, Any], str]] = [
        (GRU, {"places": "reset before"}, "the reset gate acts before the product"),
        (LSTM, {"zoneout": 0.1}, "zoneout"),
        (LSTM, {"recurrent_dropout": 0.1}, "recurrent dropout"),
        (LSTM, {"proj_size": 3}, "a projection"),
        (LSTM, {"norm": "dyt"}, "a norm has no kernel"),
        (GRU, {"norm": lambda width: norms.RMSNorm(width, eps=1e-3 * width)}, "the norms of a product differ"),
    ]
    with on_gpu(resident=True):
        for kind, options, reason in cases:
            layer = kind(WIDTH, H, **options)
            layer(torch.zeros(T, B, WIDTH))
            assert layer.computed_by == f"loop: {reason}"
        layer = LSTM(WIDTH, H)
        layer(torch.zeros(T, B, WIDTH), reset=torch.zeros(T, B, dtype=torch.bool))
        assert layer.computed_by == "loop: resets"
        with mock.patch.object(scan_triton, "WIDEST", H - 1):
            layer(torch.zeros(T, B, WIDTH))
        assert layer.computed_by == f"loop: the kernels hold at most {H - 1} units"
        handle = layer.norms["l0"]["hh"][0].register_forward_hook(lambda *_: None)
        layer(torch.zeros(T, B, WIDTH))
        assert layer.computed_by == "loop: a norm has hooks"
        handle.remove()
        with torch.autocast("cpu", torch.bfloat16):
            layer(torch.zeros(T, B, WIDTH))
        assert layer.computed_by == "loop: a mode or a transform of torch is active"
        layer(torch.zeros(T, B, WIDTH))
        assert layer.computed_by == "triton"


def test_without_triton_the_steps_are_taken_and_the_reason_is_said() -> None:
    fused_triton._kernels.cache_clear()
    with mock.patch.dict(sys.modules, {"normscope.kernels.backends.scan_triton": None}):
        layer = LSTM(WIDTH, H)
        reason = fused_triton.reason_against(layer, "LSTM", torch.zeros(T, B, WIDTH), starts(layer, torch.float32))
    fused_triton._kernels.cache_clear()
    assert reason.startswith("the GPU kernels need Triton: ")


def benchmark() -> Any:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "recurrent_gpu.py"
    specification = importlib.util.spec_from_file_location("recurrent_gpu", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@interpreted
def test_benchmark_checks_measures_and_times_no_wrong_layer() -> None:
    from normscope.kernels.backends import scan_triton

    bench = benchmark()
    settings = bench.Settings(
        shapes=((2, 4),), steps=(2,), dtypes=("float32",), rounds=1, checked=((2, 5),), checked_steps=2
    )
    said: list[str] = []
    with on_gpu(resident=True):
        assert bench.bench(settings, torch.device("cpu"), said.append) == 0
        assert "| float32 | 2 | 2 | 4 | LSTM |" in "\n".join(said)
        assert said[-1].startswith("| float32 | 2 | 2 | 4 | RNN |")
        said.clear()
        forward = scan_triton.forward

        def wrong(*given: Any, **options: Any) -> Any:
            output, *kept = forward(*given, **options)
            return output * (1.1 if output.dtype == torch.float32 else 1.0), *kept

        with mock.patch.object(scan_triton, "forward", wrong):
            assert bench.bench(settings, torch.device("cpu"), said.append) == 1
    assert "LSTM, batch 2, hidden 5, torch.float32: result 0 is off by" in said[-1]


def test_benchmark_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.object(torch.cuda, "is_available", return_value=False), mock.patch("sys.argv", ["recurrent_gpu"]):
        assert benchmark().main() == 2
    assert "sees no GPU here" in capsys.readouterr().err
