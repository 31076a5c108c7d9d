"""Every named place of norms against the equations of the paper or the published code, written out by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope import norms
from normscope.recurrent import GRU, LSTM, PLACES, RNN, Places

WIDTH, H, B, T = 3, 5, 4, 6


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def randomized(layer: Any) -> Any:
    """Give every parameter, gains included, other values."""
    layer = layer.double()
    with torch.no_grad():
        for index, parameter in enumerate(layer.parameters()):
            parameter.copy_(0.7 * drawn(*parameter.shape, seed=index + 1))
    return layer


def ln(z: Tensor, norm: nn.Module) -> Tensor:
    """Compute eqs. 15-16 with the gain and the bias of a norm."""
    mean = z.sum(-1, keepdim=True) / z.shape[-1]
    variance = ((z - mean) ** 2).sum(-1, keepdim=True) / z.shape[-1]
    y = (z - mean) / (variance + 1e-5) ** 0.5 * norm.weight
    return y if norm.bias is None else y + norm.bias


def run_lstm(layer: LSTM, step: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, h, c = drawn(T, B, WIDTH), drawn(B, H, seed=8), drawn(B, H, seed=9)
    want_h, want_c, outputs = h, c, []
    for x_t in x:
        want_h, want_c = step(layer, x_t, want_h, want_c)
        outputs.append(want_h)
    got, (got_h, got_c) = layer(x, (h[None], c[None]))
    torch.testing.assert_close(got, torch.stack(outputs), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got_h[0], want_h, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got_c[0], want_c, rtol=1e-12, atol=1e-12)
    return got, got_h, got_c


def paper_lstm(p: LSTM, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    n = p.norms["l0"]
    gates = ln(h @ p.weight_hh_l0.T, n["hh"][0]) + ln(x @ p.weight_ih_l0.T, n["ih"][0])
    i, f, g, o = (gates + p.bias_ih_l0 + p.bias_hh_l0).split(H, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * ln(c, n["cell"][0]).tanh(), c


def draw_lstm(p: LSTM, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = (h @ p.weight_hh_l0.T + x @ p.weight_ih_l0.T + p.bias_ih_l0 + p.bias_hh_l0).split(H, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * ln(c, p.norms["l0"]["cell"][0]).tanh(), c


def kiros_lstm(p: LSTM, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    n, b = p.norms["l0"], p.bias_ih_l0 + p.bias_hh_l0
    x_ = ln(x @ p.weight_ih_l0.T + b, n["ih"][0])
    i, f, g, o = (ln(h @ p.weight_hh_l0.T, n["hh"][0]) + x_ + b).split(H, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * ln(c, n["cell"][0]).tanh(), c


def per_gate_lstm(p: LSTM, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    n = p.norms["l0"]
    hidden = [ln(part, norm) for part, norm in zip((h @ p.weight_hh_l0.T).split(H, -1), n["hh"], strict=True)]
    inputs = [ln(part, norm) for part, norm in zip((x @ p.weight_ih_l0.T).split(H, -1), n["ih"], strict=True)]
    b = (p.bias_ih_l0 + p.bias_hh_l0).split(H)
    i, f, g, o = (one + other + bias for one, other, bias in zip(hidden, inputs, b, strict=True))
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * ln(c, n["cell"][0]).tanh(), c


def fastrnns_lstm(p: LSTM, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    n = p.norms["l0"]
    ingate, forgetgate, cellgate, outgate = (
        ln(torch.mm(x, p.weight_ih_l0.t()), n["ih"][0]) + ln(torch.mm(h, p.weight_hh_l0.t()), n["hh"][0])
    ).chunk(4, 1)
    cy = ln(torch.sigmoid(forgetgate) * c + torch.sigmoid(ingate) * torch.tanh(cellgate), n["cell"][0])
    return torch.sigmoid(outgate) * torch.tanh(cy), cy


def tensorflow_lstm(p: LSTM, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    n = p.norms["l0"]
    linear = torch.cat([x, h], 1) @ torch.cat([p.weight_ih_l0, p.weight_hh_l0], 1).T
    i, f, g, o = (ln(part, norm) for part, norm in zip(linear.split(H, 1), n["ih"], strict=True))
    new_c = ln(c * f.sigmoid() + i.sigmoid() * g.tanh(), n["cell"][0])
    return new_c.tanh() * o.sigmoid(), new_c


@pytest.mark.parametrize(
    ("places", "bias", "step"),
    [
        ("paper", True, paper_lstm),
        ("read-out", True, draw_lstm),
        ("per gate", True, per_gate_lstm),
        ("kiros", True, kiros_lstm),
        ("fastrnns", False, fastrnns_lstm),
        ("tensorflow", False, tensorflow_lstm),
    ],
)
def test_lstm(places: str, bias: bool, step: Any) -> None:
    layer = randomized(LSTM(WIDTH, H, bias=bias, places=places))
    run_lstm(layer, step)


def test_lstm_of_haste_has_norms_of_products_without_bias() -> None:
    layer = randomized(
        LSTM(WIDTH, H, norm=lambda width: norms.LayerNorm(width, bias=False), cell_norm="layer_norm", places="paper")
    )
    assert [name for name, _ in layer.named_parameters() if name.startswith("norms.")] == [
        "norms.l0.ih.0.weight",
        "norms.l0.hh.0.weight",
        "norms.l0.cell.0.weight",
        "norms.l0.cell.0.bias",
    ]
    run_lstm(layer, paper_lstm)


def test_a_projection_follows_the_read_out() -> None:
    layer = randomized(LSTM(WIDTH, H, proj_size=2))
    x, h, c = drawn(1, B, WIDTH), drawn(B, 2, seed=8), drawn(B, H, seed=9)
    want_h, want_c = paper_lstm(layer, x[0], h, c)
    got, (_, got_c) = layer(x, (h[None], c[None]))
    torch.testing.assert_close(got[0], want_h @ layer.weight_hr_l0.T)
    torch.testing.assert_close(got_c[0], want_c)


def paper_gru(p: GRU, x: Tensor, h: Tensor) -> Tensor:
    n = p.norms["l0"]
    w_x, w = p.weight_ih_l0.split((2 * H, H))
    w_h, u = p.weight_hh_l0.split((2 * H, H))
    b_x, b_xn = p.bias_ih_l0.split((2 * H, H))
    b_h, b_hn = p.bias_hh_l0.split((2 * H, H))
    r, z = (ln(h @ w_h.T, n["hh"][0]) + ln(x @ w_x.T, n["ih"][0]) + b_x + b_h).split(H, -1)
    candidate = (ln(x @ w.T, n["ih"][1]) + b_xn + r.sigmoid() * (ln(h @ u.T, n["hh"][1]) + b_hn)).tanh()
    # The paper's z is one minus torch's.
    z = 1 - z.sigmoid()
    return (1 - z) * h + z * candidate


def kiros_gru(p: GRU, x: Tensor, h: Tensor) -> Tensor:
    n = p.norms["l0"]
    x_, xx_ = (x @ p.weight_ih_l0.T + p.bias_ih_l0).split((2 * H, H), -1)
    h_, hx_ = (h @ p.weight_hh_l0.T + p.bias_hh_l0).split((2 * H, H), -1)
    r, u = (ln(h_, n["hh"][0]) + ln(x_, n["ih"][0])).sigmoid().split(H, -1)
    candidate = (ln(hx_, n["hh"][1]) * r + ln(xx_, n["ih"][1])).tanh()
    return u * h + (1 - u) * candidate


def reset_before_gru(p: GRU, x: Tensor, h: Tensor) -> Tensor:
    n = p.norms["l0"]
    w_h, u = p.weight_hh_l0.split((2 * H, H))
    x_, xx_ = (x @ p.weight_ih_l0.T).split((2 * H, H), -1)
    b_x, b_xn = p.bias_ih_l0.split((2 * H, H))
    b_h, b_hn = p.bias_hh_l0.split((2 * H, H))
    r, z = (ln(h @ w_h.T, n["hh"][0]) + ln(x_, n["ih"][0]) + b_x + b_h).sigmoid().split(H, -1)
    candidate = (ln(xx_, n["ih"][1]) + b_xn + ln((r * h) @ u.T, n["hh"][1]) + b_hn).tanh()
    return z * h + (1 - z) * candidate


def haste_gru(p: GRU, x: Tensor, h: Tensor) -> Tensor:
    n = p.norms["l0"]
    x_r, x_z, x_n = (ln(x @ p.weight_ih_l0.T, n["ih"][0]) + p.bias_ih_l0).split(H, -1)
    h_r, h_z, h_n = (ln(h @ p.weight_hh_l0.T, n["hh"][0]) + p.bias_hh_l0).split(H, -1)
    r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
    return z * h + (1 - z) * (x_n + r * h_n).tanh()


def per_gate_gru(p: GRU, x: Tensor, h: Tensor) -> Tensor:
    n = p.norms["l0"]
    xs = [ln(part, norm) for part, norm in zip((x @ p.weight_ih_l0.T).split(H, -1), n["ih"], strict=True)]
    hs = [ln(part, norm) for part, norm in zip((h @ p.weight_hh_l0.T).split(H, -1), n["hh"], strict=True)]
    xs = [one + b for one, b in zip(xs, p.bias_ih_l0.split(H), strict=True)]
    hs = [one + b for one, b in zip(hs, p.bias_hh_l0.split(H), strict=True)]
    r, z = (xs[0] + hs[0]).sigmoid(), (xs[1] + hs[1]).sigmoid()
    return z * h + (1 - z) * (xs[2] + r * hs[2]).tanh()


@pytest.mark.parametrize(
    ("places", "step"),
    [
        ("paper", paper_gru),
        ("reset before", reset_before_gru),
        ("per gate", per_gate_gru),
        ("kiros", kiros_gru),
        ("haste", haste_gru),
    ],
)
def test_gru(places: str, step: Any) -> None:
    layer = randomized(GRU(WIDTH, H, places=places))
    x, h = drawn(T, B, WIDTH), drawn(B, H, seed=8)
    want, outputs = h, []
    for x_t in x:
        want = step(layer, x_t, want)
        outputs.append(want)
    got, last = layer(x, h[None])
    torch.testing.assert_close(got, torch.stack(outputs), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last[0], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("places", ["paper", "apart"])
def test_rnn(places: str, nonlinearity: str) -> None:
    layer = randomized(RNN(WIDTH, H, nonlinearity=nonlinearity, places=places))
    n, b = layer.norms["l0"], layer.bias_ih_l0 + layer.bias_hh_l0
    x, h = drawn(T, B, WIDTH), drawn(B, H, seed=8)
    got, _ = layer(x, h[None])
    for t, x_t in enumerate(x):
        a, u = x_t @ layer.weight_ih_l0.T, h @ layer.weight_hh_l0.T
        a = ln(a + u, n["ih"][0]) if places == "paper" else ln(a, n["ih"][0]) + ln(u, n["hh"][0])
        h = (a + b).tanh() if nonlinearity == "tanh" else F.relu(a + b)
        torch.testing.assert_close(got[t], h, rtol=1e-12, atol=1e-12)


def test_every_named_place_has_a_test_here() -> None:
    assert set(PLACES["RNN"]) == {"paper", "apart"}
    assert set(PLACES["LSTM"]) == {"paper", "read-out", "per gate", "kiros", "fastrnns", "tensorflow"}
    assert set(PLACES["GRU"]) == {"paper", "reset before", "per gate", "kiros", "haste"}


def test_a_network_whose_gates_get_constants_is_saved_by_eps() -> None:
    layer = LSTM(WIDTH, H)
    with torch.no_grad():
        for parameter in (layer.weight_ih_l0, layer.weight_hh_l0):
            parameter.fill_(0.25)
    x = torch.ones(T, B, WIDTH, requires_grad=True)
    output, _ = layer(x)
    output.square().sum().backward()
    assert output.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: LSTM(WIDTH, H, places="papers"), "places of LSTM are 'paper', 'read-out'"),
        (lambda: GRU(WIDTH, H, places=Places(products="summed")), "no sum of its products"),
        (lambda: GRU(WIDTH, H, places=Places(groups="whole", reset="before")), "only if the reset gate acts after"),
        (lambda: RNN(WIDTH, H, places=Places(cell="carried")), "no cell state"),
        (lambda: LSTM(WIDTH, H, places=Places(reset="before")), "no reset gate"),
        (lambda: Places(groups="gate"), "groups must be one of 'stacked', 'gates', 'whole', got 'gate'"),
        (lambda: LSTM(WIDTH, H, norm="instance_norm"), "each row by itself, or is made .*; InstanceNorm shares"),
    ],
)
def test_what_cannot_be_is_refused(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()
