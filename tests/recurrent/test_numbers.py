"""Recurrent layers at the limits of numbers: long sequences, rows without variance, half precision."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normscope.recurrent import GRU, LSTM, RNN

WIDTH, H, B = 3, 16, 2
LAYERS = [LSTM, GRU, RNN]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EACH = pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_five_thousand_steps_forward_and_backward_stay_finite(kind: type, dtype: torch.dtype) -> None:
    layer = kind(WIDTH, H, norm="rms_norm" if kind is RNN else "layer_norm", dtype=dtype)
    # Inputs that saturate every gate, and where there is a cell state, one that is kept.
    with torch.no_grad():
        layer.weight_hh_l0.mul_(20)
        if kind is LSTM:
            layer.bias_ih_l0[H : 2 * H] = 20.0
    x = (100 * drawn(5000, B, WIDTH)).to(dtype).requires_grad_()
    output, state = layer(x)
    tensors = [output, *(state if isinstance(state, tuple) else (state,))]
    assert all(one.dtype == dtype and one.isfinite().all() for one in tensors)
    assert output.abs().max() <= (1 + torch.finfo(dtype).eps)
    gradients = torch.autograd.grad(tensors, (x, *layer.parameters()), [drawn(*one.shape).to(dtype) for one in tensors])
    assert all(one.isfinite().all() for one in gradients)


@EACH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm", "ada_norm", "detach_norm"])
@pytest.mark.parametrize("what", ["equal", "zero"])
def test_rows_without_variance(kind: type, norm: str, dtype: torch.dtype, what: str) -> None:
    """Equal weights make all entries of a product equal, and zero ones make them zero: eps is what divides."""
    layer = kind(WIDTH, H, norm=norm, bias=False, dtype=dtype)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("weight_"):
                parameter.fill_(0.25 if what == "equal" else 0.0)
    x = drawn(4, B, WIDTH, dtype=dtype).requires_grad_()
    output, _ = layer(x)
    assert output.isfinite().all()
    if dtype != torch.float16:
        # Each norm multiplies a gradient by up to 316, the inverse root of eps: two of them leave the range of float16.
        upstream = drawn(*output.shape, dtype=dtype)
        gradients = torch.autograd.grad(output, (x, *layer.parameters()), upstream)
        assert all(one.isfinite().all() for one in gradients)
    if what == "zero" or norm != "rms_norm":
        # The inputs of all gates are zero, and so is the candidate: h stays zero.
        torch.testing.assert_close(output, torch.zeros_like(output), rtol=0, atol=1e-3)


@EACH
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}, {"norm": None}], ids=str)
@pytest.mark.parametrize(("steps", "batch"), [(0, B), (1, B), (4, 0), (0, 0), (1, 0)])
def test_no_steps_one_step_and_no_sequences_have_gradients(
    kind: type, options: dict[str, Any], steps: int, batch: int
) -> None:
    layer = kind(WIDTH, H, **options)
    if not steps and options.get("norm", "") is None:
        # torch's layer, and so ours without norm, has no sequences of no steps.
        for one in (layer, {LSTM: nn.LSTM, GRU: nn.GRU, RNN: nn.RNN}[kind](WIDTH, H)):
            with pytest.raises(RuntimeError, match=r"Expected sequence length to be larger than 0 in RNN|batch|size"):
                one(torch.zeros(steps, batch, WIDTH))
        return
    rows, directions = (4, 2) if options.get("bidirectional") else (1, 1)
    x = torch.randn(steps, batch, WIDTH, requires_grad=True)
    given = [torch.randn(rows, batch, H, requires_grad=True) for _ in range(2 if kind is LSTM else 1)]
    output, state = layer(x, tuple(given) if kind is LSTM else given[0])
    tensors = [output, *(state if isinstance(state, tuple) else (state,))]
    assert [list(one.shape) for one in tensors] == [[steps, batch, directions * H], *[[rows, batch, H]] * len(given)]
    if not steps:
        torch.testing.assert_close(tensors[1:], given)
    gradients = torch.autograd.grad(
        tensors, (x, *given, *layer.parameters()), [torch.randn_like(one) for one in tensors], allow_unused=True
    )
    assert gradients[0] is not None
    assert gradients[0].shape == x.shape
    assert all(one is None or one.isfinite().all() for one in gradients)


def naive(layer: Any, x: Tensor, kind: type) -> Tensor:
    """Compute the equations step by step in the dtype of the weights, with torch's operations, each of which rounds."""
    n = layer.norms["l0"]
    dtype = layer.weight_hh_l0.dtype
    h = c = torch.zeros(x.shape[1], H, dtype=dtype)

    def ln(z: Tensor, place: str, at: int = 0) -> Tensor:
        return nn.functional.layer_norm(z, z.shape[-1:], n[place][at].weight, n[place][at].bias)

    outputs = []
    for x_t in x:
        u, a = x_t @ layer.weight_ih_l0.T, h @ layer.weight_hh_l0.T
        if kind is LSTM:
            gates = ln(u, "ih") + ln(a, "hh") + layer.bias_ih_l0 + layer.bias_hh_l0
            i, f, g, o = gates.chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * ln(c, "cell").tanh()
        elif kind is GRU:
            (u, u_n), (a, a_n) = (one.split([2 * H, H], -1) for one in (u, a))
            (b, b_n), (d, d_n) = (one.split([2 * H, H]) for one in (layer.bias_ih_l0, layer.bias_hh_l0))
            r, z = (ln(u, "ih") + b + ln(a, "hh") + d).sigmoid().chunk(2, -1)
            candidate = (ln(u_n, "ih", 1) + b_n + r * (ln(a_n, "hh", 1) + d_n)).tanh()
            h = (1 - z) * candidate + z * h
        else:
            h = (ln(u + a, "ih") + layer.bias_ih_l0 + layer.bias_hh_l0).tanh()
        outputs.append(h)
    return torch.stack(outputs)


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_errors_of_rounding_are_at_most_twice_those_of_the_naive_formula(kind: type, dtype: torch.dtype) -> None:
    """Of the output and of every gradient, over six networks: a single one may have a lucky rounding."""
    errors: dict[str, list[list[float]]] = {"ours": [], "naive": []}
    for seed in range(6):
        torch.manual_seed(seed)
        layer, x = kind(WIDTH, H, dtype=dtype), drawn(50, 8, WIDTH, seed=seed, dtype=dtype)
        exact = kind(WIDTH, H).double()
        exact.load_state_dict(layer.state_dict())
        want, upstream = naive(exact, x.double(), kind), drawn(50, 8, H, seed=9, dtype=dtype)
        torch.testing.assert_close(exact(x.double())[0], want, rtol=1e-10, atol=1e-10)
        true = [want.detach(), *torch.autograd.grad(want, tuple(exact.parameters()), upstream.double())]
        for name, output in (("ours", layer(x)[0]), ("naive", naive(layer, x, kind))):
            got = [output.detach(), *torch.autograd.grad(output, tuple(layer.parameters()), upstream)]
            errors[name].append([float((a.double() - b).norm() / b.norm()) for a, b in zip(got, true, strict=True)])
    ours, simple = (torch.tensor(one).mean(0) for one in errors.values())
    assert (ours <= 2 * simple).all(), ours / simple
