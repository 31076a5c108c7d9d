"""Batch normalization of every time step against the equations of Cooijmans et al. (2016), written out by hand."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.optim.swa_utils import update_bn

from normscope.norms import BatchNorm
from normscope.recurrent import GRU, LSTM, RNN, LSTMCell

WIDTH, H, B, T = 3, 5, 4, 6
LENGTHS = [3, 6, 4, 6]
LAYERS = [LSTM, GRU, RNN]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def built(kind: type, *arguments: Any, seed: int = 0, **options: Any) -> Any:
    """Build a layer in float64 whose gains and biases have values of their own."""
    layer = kind(WIDTH, H, *arguments, **{"norm": "batch_norm", "batch_norm_steps": T, **options}).double()
    with torch.no_grad():
        for index, parameter in enumerate(layer.parameters()):
            parameter.copy_(0.7 * drawn(*parameter.shape, seed=100 * seed + index + 1))
    return layer


def tuple_of(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def bn(z: Tensor, gain: Tensor, bias: Tensor | float, moments: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Compute BN(z; gain, bias) of the paper's eq. 5 by the moments of the batch, or the given ones."""
    mean, variance = moments or (z.sum(0) / len(z), ((z - z.sum(0) / len(z)) ** 2).sum(0) / len(z))
    return bias + gain * (z - mean) / (variance + 1e-5).sqrt()


def lstm_by_hand(p: LSTM, x: Tensor, h: Tensor, c: Tensor, moments: Any = None) -> tuple[Tensor, Tensor, list[Any]]:
    """Compute eqs. 6-8; return the outputs, the last c, and what was normalized at every step."""
    n, outputs, seen = p.norms["l0"], [], []
    for t, x_t in enumerate(x):
        at = {place: None if moments is None else moments(n[place][0], t) for place in ("hh", "ih", "cell")}
        a, u = h @ p.weight_hh_l0.T, x_t @ p.weight_ih_l0.T
        gates = bn(a, n["hh"][0].weight, 0.0, at["hh"]) + bn(u, n["ih"][0].weight, 0.0, at["ih"])
        i, f, g, o = (gates + p.bias_ih_l0 + p.bias_hh_l0).split(H, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * bn(c, n["cell"][0].weight, n["cell"][0].bias, at["cell"]).tanh()
        outputs.append(h)
        seen.append({"hh": a, "ih": u, "cell": c})
    return torch.stack(outputs), c, seen


def test_an_lstm_in_training_is_that_of_the_paper() -> None:
    layer = built(LSTM)
    x, h, c = drawn(T, B, WIDTH), drawn(B, H, seed=8), drawn(B, H, seed=9)
    want, want_c, seen = lstm_by_hand(layer, x, h, c)
    got, (got_h, got_c) = layer(x, (h[None], c[None]))
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close((got_h[0], got_c[0]), (want[-1], want_c), rtol=1e-11, atol=1e-11)
    for place in ("hh", "ih", "cell"):
        norm = layer.norms["l0"][place][0]
        for t in range(T):
            # The first batch sets the running moments, with the divisor n - 1 as torch's.
            torch.testing.assert_close(norm.running_mean[t], seen[t][place].mean(0), rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(norm.running_var[t], seen[t][place].var(0), rtol=1e-10, atol=1e-10)
        assert norm.num_batches_tracked.tolist() == [1] * T


def test_an_lstm_in_evaluation_uses_the_running_moments_of_each_step_and_beyond_them_those_of_the_last() -> None:
    layer = built(LSTM, batch_norm_steps=4)
    for seed in range(30):
        layer(drawn(5, B, WIDTH, seed=seed))
    layer.eval()
    x, h, c = drawn(7, B, WIDTH, seed=40), drawn(B, H, seed=8), drawn(B, H, seed=9)

    def moments(norm: Any, t: int) -> tuple[Tensor, Tensor]:
        return norm.running_mean[min(t, 3)], norm.running_var[min(t, 3)]

    want, want_c, _ = lstm_by_hand(layer, x, h, c, moments)
    got, (_, got_c) = layer(x, (h[None], c[None]))
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(got_c[0], want_c, rtol=1e-11, atol=1e-11)
    running = layer.norms["l0"]["hh"][0].running_mean
    assert all(not torch.allclose(one, other) for one, other in itertools.pairwise(running))


def test_steps_that_training_never_reached_use_the_moments_of_the_last_one_that_it_did() -> None:
    long, short = built(LSTM, batch_norm_steps=20), built(LSTM, batch_norm_steps=3)
    for seed in range(4):
        long(drawn(3, B, WIDTH, seed=seed)), short(drawn(3, B, WIDTH, seed=seed))
    x = drawn(T, B, WIDTH, seed=9)
    assert torch.equal(long.eval()(x)[0], short.eval()(x)[0])


def test_running_moments_are_the_average_of_few_batches_and_move_by_the_momentum_after_many() -> None:
    for batches, momentum in ((5, 0.1), (40, 0.1), (40, None)):
        layer = built(RNN, norm=f"batch_norm(momentum={momentum})", places="apart")
        want_mean, want_variance = torch.zeros(H).double(), torch.zeros(H).double()
        for n in range(1, batches + 1):
            x = drawn(1, B, WIDTH, seed=n)
            layer(x)
            u = x[0] @ layer.weight_ih_l0.T
            share = max(1 / n, momentum or 0)
            want_mean = (1 - share) * want_mean + share * u.mean(0)
            want_variance = (1 - share) * want_variance + share * u.var(0)
        norm = layer.norms["l0"]["ih"][0]
        torch.testing.assert_close(norm.running_mean[0], want_mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(norm.running_var[0], want_variance, rtol=1e-9, atol=1e-9)
        assert norm.num_batches_tracked.tolist() == [batches, *[0] * (T - 1)]


def test_update_bn_of_torch_computes_the_moments_of_a_whole_training_set() -> None:
    layer = built(LSTM, batch_first=True)
    layer(100 * drawn(B, T, WIDTH))
    batches = [drawn(B, T, WIDTH, seed=seed) for seed in range(3)]
    update_bn(batches, layer)
    u = torch.stack(batches) @ layer.weight_ih_l0.T
    norm = layer.norms["l0"]["ih"][0]
    torch.testing.assert_close(norm.running_mean, u.mean((0, 1)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(norm.running_var, u.var(1).mean(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("places", ["paper", "apart"])
def test_rnn(places: str, nonlinearity: str) -> None:
    layer = built(RNN, places=places, nonlinearity=nonlinearity)
    n, b, x, h = layer.norms["l0"], layer.bias_ih_l0 + layer.bias_hh_l0, drawn(T, B, WIDTH), drawn(B, H, seed=8)
    got, _ = layer(x, h[None])
    for t, x_t in enumerate(x):
        a, u = x_t @ layer.weight_ih_l0.T, h @ layer.weight_hh_l0.T
        parts = [(a + u, "ih")] if places == "paper" else [(a, "ih"), (u, "hh")]
        h = sum(bn(part, n[place][0].weight, 0.0) for part, place in parts) + b
        h = h.tanh() if nonlinearity == "tanh" else h.relu()
        torch.testing.assert_close(got[t], h, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("places", ["paper", "haste", "per gate", "reset before"])
def test_gru(places: str) -> None:
    """Batch norm acts on each feature, so that groups change nothing but the names of the parameters."""
    layer = built(GRU, places=places)
    n, x, h = layer.norms["l0"], drawn(T, B, WIDTH), drawn(B, H, seed=8)
    gain = {place: torch.cat([norm.weight for norm in n[place]]) for place in ("ih", "hh")}
    b_x, b_h, w_h = layer.bias_ih_l0, layer.bias_hh_l0, layer.weight_hh_l0
    got, _ = layer(x, h[None])
    for t, x_t in enumerate(x):
        u_r, u_z, u_n = (bn(x_t @ layer.weight_ih_l0.T, gain["ih"], 0.0) + b_x).split(H, -1)
        a_r, a_z, a_n = (bn(h @ w_h.T, gain["hh"], 0.0) + b_h).split(H, -1)
        r, z = (u_r + a_r).sigmoid(), (u_z + a_z).sigmoid()
        if places == "reset before":
            candidate = u_n + bn((r * h) @ w_h[2 * H :].T, gain["hh"][2 * H :], 0.0) + b_h[2 * H :]
        else:
            candidate = u_n + r * a_n
        h = z * h + (1 - z) * candidate.tanh()
        torch.testing.assert_close(got[t], h, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("training", [True, False])
def test_derivatives(kind: type, training: bool) -> None:
    layer = kind(2, 3, norm="batch_norm(eps=0.01)", batch_norm_steps=2, bidirectional=True).double()
    layer(drawn(3, 4, 2, seed=5))
    layer.train(training)
    names = [name for name, _ in layer.named_parameters()]
    x = drawn(3, 4, 2).requires_grad_()
    states = [drawn(2, 4, 3, seed=3 + index).requires_grad_() for index in range(2 if kind is LSTM else 1)]

    def call(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        hx = values[: len(states)] if kind is LSTM else values[0]
        parameters = dict(zip(names, values[len(states) :], strict=True))
        output, state = torch.func.functional_call(layer, parameters, (x, hx))
        return output, *tuple_of(state)

    arguments = (x, *states, *(one.detach().clone().requires_grad_() for one in layer.parameters()))
    assert torch.autograd.gradcheck(call, arguments)


def test_weights_start_at_a_tenth_and_the_products_have_no_bias() -> None:
    layer = LSTM(WIDTH, H, norm="batch_norm", batch_norm_steps=T)
    names = {name for name, _ in layer.named_parameters() if name.startswith("norms.")}
    places = {"norms.l0.hh.0.weight", "norms.l0.ih.0.weight", "norms.l0.cell.0.weight"}
    assert names == places | {"norms.l0.cell.0.bias"}
    layer.reset_parameters()
    assert all(torch.equal(p, torch.full_like(p, 0.1)) for name, p in layer.named_parameters() if name in places)
    assert layer.norms["l0"]["hh"][0].running_var.shape == (T, 4 * H)
    assert built(LSTM, cell_norm="batch_norm(bias=False)").norms["l0"]["cell"][0].bias is None
    assert [type(one) for one in built(LSTM, norm=None, cell_norm="batch_norm").norms["l0"]["cell"]] != [BatchNorm]


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_packed_sequences_share_moments_with_those_that_are_still_running(kind: type) -> None:
    layer, x = built(kind, places="apart" if kind is RNN else "paper"), drawn(T, B, WIDTH)
    layer(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
    norm = layer.norms["l0"]["ih"][0]
    for t in range(T):
        rows = x[t, [length > t for length in LENGTHS]] @ layer.weight_ih_l0.T[:, : norm.weight.numel()]
        torch.testing.assert_close(norm.running_mean[t], rows.mean(0), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(norm.running_var[t], rows.var(0), rtol=1e-10, atol=1e-10)


def test_a_step_with_one_sequence_is_refused_in_training_and_named() -> None:
    layer, x = built(LSTM), drawn(T, B, WIDTH)
    with pytest.raises(ValueError, match="at time step 4 there is only one: pad the sequences"):
        layer(pack_padded_sequence(x, [6, 4, 4, 3]))
    with pytest.raises(ValueError, match="at time step 0 there is only one"):
        layer(x[:, 0])
    layer.eval()(pack_padded_sequence(x, [6, 4, 4, 3]))


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_the_second_direction_counts_steps_from_the_end_of_each_sequence(kind: type) -> None:
    layer, x = built(kind, 2, bidirectional=True), drawn(T, B, WIDTH)
    for seed in range(3):
        layer(drawn(T, B, WIDTH, seed=seed))
    layer.eval()
    output, state = layer(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
    output, _ = pad_packed_sequence(output)
    for index, length in enumerate(LENGTHS):
        alone, end = layer(x[:length, index])
        torch.testing.assert_close(output[:length, index], alone, rtol=1e-12, atol=1e-12)
        for one, other in zip(tuple_of(state), tuple_of(end), strict=True):
            torch.testing.assert_close(one[:, index], other, rtol=1e-12, atol=1e-12)
    # The second direction of one layer is the first one on sequences that are turned round.
    one = built(kind, bidirectional=True)
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            if "reverse" in name:
                parameter.copy_(one.get_parameter(name.replace("_reverse", "")))
    first, second = one(torch.cat([x, x.flip(0)], 1))[0].chunk(2, -1)
    torch.testing.assert_close(second.flip(0).roll(B, 1), first, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_first_step_without_variance_has_finite_gradients(dtype: torch.dtype) -> None:
    """All h are zero at the first step, and all first inputs may be equal, as the corners of MNIST are."""
    layer = LSTM(WIDTH, H, norm="batch_norm", batch_norm_steps=T, dtype=dtype)
    x = torch.ones(T, B, WIDTH, dtype=dtype, requires_grad=True)
    output, _ = layer(x)
    output.backward(torch.ones_like(output))
    assert output.dtype == dtype
    assert all(one.grad is not None and one.grad.isfinite().all() for one in (x, *layer.parameters()))


def test_no_sequences_and_no_steps() -> None:
    layer = LSTM(WIDTH, H, norm="batch_norm", batch_norm_steps=T, bidirectional=True)
    for steps, batch in ((0, B), (T, 0)):
        assert layer(torch.zeros(steps, batch, WIDTH))[0].shape == (steps, batch, 2 * H)
    assert not layer.norms["l0"]["hh"][0].num_batches_tracked.any()


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: LSTM(WIDTH, H, norm="batch_norm"), ValueError, "give a layer batch_norm_steps, the length"),
        (lambda: LSTMCell(WIDTH, H, norm="batch_norm"), ValueError, "a cell, which does not know the time step"),
        (
            lambda: GRU(WIDTH, H, norm="batch_norm", batch_norm_steps=0),
            ValueError,
            "batch_norm_steps must be .* at least 1, got 0",
        ),
        (lambda: GRU(WIDTH, H, norm="batch_norm", batch_norm_steps=2.0), TypeError, "must be a whole number, got 2.0"),
        (
            lambda: RNN(WIDTH, H, norm=nn.BatchNorm1d),
            ValueError,
            "or is made with norm='batch_norm'; BatchNorm1d shares its stat",
        ),
    ],
)
def test_what_cannot_be_is_refused(build: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build()


def test_resets_are_refused() -> None:
    with pytest.raises(ValueError, match="reset starts sequences anew at different ones"):
        built(LSTM)(drawn(T, B, WIDTH), reset=torch.zeros(T, B, dtype=torch.bool))
