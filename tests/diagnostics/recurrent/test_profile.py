"""The steps of recurrent layers against closed forms, torch's cells run by hand, and the layers themselves."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.checkpoint import checkpoint

import normscope
from normscope import torch_internals
from normscope.diagnostics.gradients.at_norms import gradients_at_norms
from normscope.diagnostics.recurrent import LayerSteps, NormSteps, step_profile
from normscope.diagnostics.recurrent.profile import EDGE

WIDTH, HIDDEN, STEPS, BATCH = 5, 6, 9, 4
Loss = Callable[[nn.Module, Any], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def size(x: Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


def permuted(rho: float, **settings: Any) -> nn.RNN:
    """Return a relu RNN whose step is rho times a permutation while its input is positive."""
    rnn = nn.RNN(WIDTH, HIDDEN, nonlinearity="relu", dtype=torch.float64, **settings)
    with torch.no_grad():
        for name, parameter in rnn.named_parameters():
            parameter.copy_(parameter.abs() if "_ih" in name else torch.zeros_like(parameter))
            if name.startswith("weight_hh"):
                parameter.copy_(rho * torch.eye(HIDDEN).roll(1, 0))
    return rnn


@pytest.mark.parametrize("rho", [0.8, 1.2])
def test_the_gradient_of_a_permutation_is_a_power(rho: float) -> None:
    upstream = draw(BATCH, HIDDEN)
    (steps,) = step_profile(permuted(rho), draw(STEPS, BATCH, WIDTH).abs(), lambda m, x: (m(x)[0][-1] * upstream).sum())
    want = [size(upstream) * rho ** (STEPS - 1 - t) for t in range(STEPS)]
    assert steps.gradient_h == pytest.approx(want, rel=1e-3)
    assert steps.gain[0] is None
    assert steps.gain[1:] == pytest.approx([rho] * (STEPS - 1), rel=1e-3)
    assert steps.fade == pytest.approx(rho, rel=1e-3)
    assert steps.growth == pytest.approx(rho ** (STEPS - 1), rel=1e-2)
    assert isinstance(steps, LayerSteps)


def test_a_gain_is_that_of_the_path_through_the_step_alone() -> None:
    upstream = draw(STEPS, BATCH, HIDDEN)
    (steps,) = step_profile(permuted(0.9), draw(STEPS, BATCH, WIDTH).abs(), lambda m, x: (m(x)[0] * upstream).sum())
    assert steps.gain[1:] == pytest.approx([0.9] * (STEPS - 1), rel=1e-3)
    assert steps.gradient_h[-2] != pytest.approx(0.9 * (steps.gradient_h[-1] or 0.0), rel=1e-2)


def remembering(forget: float, **settings: Any) -> nn.LSTM:
    """Return an LSTM whose gates are constant: c falls by the forget gate at every step."""
    lstm = nn.LSTM(WIDTH, HIDDEN, dtype=torch.float64, **settings)
    with torch.no_grad():
        for name, parameter in lstm.named_parameters():
            parameter.zero_()
            if name.startswith("bias_ih"):
                parameter[HIDDEN : 2 * HIDDEN] = math.log(forget / (1 - forget))
            if name.startswith("weight_ih"):
                parameter[2 * HIDDEN : 3 * HIDDEN] = 0.5
    return lstm


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_the_gradient_of_c_falls_by_the_forget_gate(packed: bool, direction: int) -> None:
    lengths = [2, 7, 5, 7] if packed else [7] * 4
    sequences = [draw(length, WIDTH, seed=length) for length in lengths]
    x: Any = pack_sequence(sequences, enforce_sorted=False) if packed else torch.stack(sequences, 1)
    upstream = draw(4, HIDDEN)
    told = step_profile(remembering(0.7, bidirectional=True), x, lambda m, x: (m(x)[1][1][direction] * upstream).sum())
    steps = told[direction]
    assert steps.reverse == bool(direction)
    assert steps.fade == pytest.approx(0.7, rel=1e-3)
    known = [gain for gain in steps.gain if gain is not None]
    assert known == pytest.approx([0.7] * (steps.steps - 1), rel=1e-3)
    assert (steps.gain[-1] is None) == steps.reverse
    assert (steps.gain[0] is None) == (not steps.reverse)
    other = told[1 - direction]
    assert other.fade is None
    assert not any(other.gradient_c)


def test_numbers_are_those_of_torchs_cell_run_by_hand() -> None:
    lstm, cell = nn.LSTM(WIDTH, HIDDEN, dtype=torch.float64), nn.LSTMCell(WIDTH, HIDDEN, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            parameter.copy_(3 * draw(*parameter.shape, seed=len(name)))
    lstm.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    x, upstream = draw(STEPS, BATCH, WIDTH), draw(STEPS, BATCH, HIDDEN, seed=1)
    (steps,) = step_profile(lstm, x, lambda m, x: (m(x)[0] * upstream).sum())
    h = c = torch.zeros(BATCH, HIDDEN, dtype=torch.float64)
    hs, cs, gates = [], [], []
    for now in x:
        gates.append(nn.functional.linear(now, cell.weight_ih, cell.bias_ih) + nn.functional.linear(h, cell.weight_hh))
        gates[-1] = gates[-1] + cell.bias_hh
        h, c = cell(now, (h, c))
        hs.append(h)
        cs.append(c)
    by_h = torch.autograd.grad((torch.stack(hs) * upstream).sum(), [*hs, *cs])
    assert steps.h == pytest.approx(list(map(size, hs)), rel=1e-3)
    assert steps.c == pytest.approx(list(map(size, cs)), rel=1e-3)
    assert steps.gradient_h == pytest.approx(list(map(size, by_h[:STEPS])), rel=1e-3)
    assert steps.gradient_c == pytest.approx(list(map(size, by_h[STEPS:])), rel=1e-3)
    for place, gate in enumerate(("input gate", "forget gate", "candidate", "output gate")):
        inputs = [each.chunk(4, -1)[place].detach() for each in gates]
        values = [torch.tanh(each) if gate == "candidate" else torch.sigmoid(each) for each in inputs]
        low = EDGE - 1 if gate == "candidate" else EDGE
        shares = [float(((z < low) | (z > 1 - EDGE)).double().mean()) for z in values]
        assert steps.saturated[gate] == pytest.approx(shares, abs=1e-3)
        assert 0.1 < sum(shares) / STEPS < 0.9
        if gate != "candidate":
            assert steps.closed[gate] == pytest.approx([float((z < EDGE).double().mean()) for z in values], abs=1e-3)
    assert steps.saturated["read-out of c"] == pytest.approx(
        [float((each.tanh().abs() > 1 - EDGE).double().mean()) for each in cs], abs=1e-3
    )


def test_rows_of_the_norms_inside() -> None:
    torch.manual_seed(0)
    lstm = normscope.LSTM(WIDTH, HIDDEN, dtype=torch.float64)
    x = draw(STEPS, BATCH, WIDTH)
    (steps,) = step_profile(lstm, x, lambda m, x: (m(x)[0] * draw(STEPS, BATCH, HIDDEN, seed=1)).sum())
    ih, hh, cell = steps.norms
    assert isinstance(hh, NormSteps)
    assert [(norm.name, norm.place) for norm in (ih, hh, cell)] == [
        ("norms.l0.ih.0", "ih"),
        ("norms.l0.hh.0", "hh"),
        ("norms.l0.cell.0", "cell"),
    ]
    h = torch.cat([torch.zeros(1, BATCH, HIDDEN), lstm(x)[0][:-1]])
    for norm, rows in ((ih, x @ lstm.weight_ih_l0.T), (hh, h @ lstm.weight_hh_l0.T)):
        deviation, mean = rows.std(-1, correction=0), rows.mean(-1).abs()
        assert norm.deviation == pytest.approx(deviation.median(-1).values.tolist(), rel=1e-3)
        assert norm.mean == pytest.approx(mean.median(-1).values.tolist(), rel=1e-3)
        assert norm.ratio[1:] == pytest.approx((mean / deviation)[1:].median(-1).values.tolist(), rel=1e-3)
    assert hh.deviation[0] == 0
    # The state that it starts from has no gradient.
    assert hh.below_eps == (0.0,) * STEPS


def test_a_learned_start_of_zero_counts_as_equal_entries() -> None:
    lstm = normscope.LSTM(WIDTH, HIDDEN, learned_initial_state=True, dtype=torch.float64)
    (steps,) = step_profile(lstm, draw(STEPS, BATCH, WIDTH), lambda m, x: m(x)[0].square().mean())
    assert steps.norms[1].below_eps == (1.0, *(0.0,) * (STEPS - 1))


def inputs(form: str) -> Any:
    if form == "packed":
        return pack_sequence([draw(length, WIDTH).float() for length in (3, 7, 1)], enforce_sorted=False)
    return draw(*((STEPS, WIDTH) if form == "single" else (STEPS, BATCH, WIDTH))).float()


KINDS = [nn.LSTM, nn.GRU, nn.RNN, normscope.LSTM, normscope.GRU, normscope.RNN]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("form", ["padded", "packed", "single"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_run_step_by_step_gives_its_own_numbers(kind: type[nn.RNNBase], form: str) -> None:
    choices: dict[str, list[Any]] = {"bidirectional": [False, True], "num_layers": [1, 2], "bias": [True, False]}
    if issubclass(kind, nn.LSTM):
        choices["proj_size"] = [0, 3]
    for values in itertools.product(*choices.values()):
        settings = dict(zip(choices, values, strict=True))
        torch.manual_seed(0)
        layer = kind(WIDTH, HIDDEN, dropout=0.5 if settings["num_layers"] == 2 else 0.0, batch_first=True, **settings)
        outputs: list[Any] = []

        def loss(model: nn.Module, x: Any, outputs: list[Any] = outputs) -> Tensor:
            output, state = model(x)
            outputs.append((output, state))
            return (output.data if isinstance(output, PackedSequence) else output).square().mean()

        told = step_profile(layer, inputs(form), loss, generator=torch.Generator().manual_seed(1))
        assert len(told) == settings["num_layers"] * (1 + settings["bidirectional"])
        seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(1)))
        torch.manual_seed(seed)
        loss(layer, inputs(form))
        watched, own = (list(_tensors(each)) for each in outputs)
        for one, other in zip(watched, own, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def _tensors(value: Any) -> Any:
    if isinstance(value, Tensor):
        yield value
    elif value is not None:
        for each in value:
            yield from _tensors(each)


def test_a_given_state_a_reset_and_a_second_call_are_measured() -> None:
    torch.manual_seed(0)
    gru = normscope.GRU(WIDTH, HIDDEN)
    reset = torch.zeros(STEPS, BATCH, dtype=torch.bool)
    reset[4] = True

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        output, h = model(x, reset=reset)
        return (output + model(x, h)[0]).square().mean()

    first, second = step_profile(gru, inputs("padded"), loss)
    assert (first.call, second.call) == (0, 1)
    assert first.gain[4] == pytest.approx(0.0)
    assert second.gain[0] is None


def test_a_batch_norm_of_every_step_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    lstm = normscope.LSTM(WIDTH, HIDDEN, norm="batch_norm", batch_norm_steps=STEPS, bidirectional=True)
    before = {name: value.clone() for name, value in lstm.state_dict().items()}
    forward, backward = step_profile(lstm, inputs("padded"), lambda m, x: m(x)[0].square().mean())
    assert all(torch.equal(before[name], value) for name, value in lstm.state_dict().items())
    assert (forward.name, backward.name, backward.norms) == ("l0", "l0_reverse", ())
    assert all(backward.gradient_h)


def test_empty_sequences_and_batches_are_left_out() -> None:
    lstm = nn.LSTM(WIDTH, HIDDEN)
    for shape in ((0, BATCH, WIDTH), (STEPS, 0, WIDTH)):
        assert (
            step_profile(lstm, torch.zeros(shape), lambda m, x: m(x)[0].sum() + sum(p.sum() for p in m.parameters()))
            == []
        )


@pytest.mark.parametrize("change", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_weights_that_something_else_makes_are_those_that_are_used(change: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    lstm = change(nn.LSTM(WIDTH, HIDDEN), "weight_hh_l0")
    with torch.no_grad():
        for name, parameter in lstm.named_parameters():
            if name.endswith(("original0", "_g")):
                parameter.mul_(2)
    own = lstm(inputs("padded"))[0].square().mean()
    found = normscope.diagnose(lstm, inputs("padded"), lambda m, x: m(x)[0].square().mean())
    assert found.loss == pytest.approx(float(own.detach()), rel=1e-6)
    assert len(found.recurrent) == 1


class OwnForward(nn.LSTM):
    """Doubles what an LSTM returns."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        output, state = super().forward(input, hx)
        return 2 * output, state


class ByHand(nn.Module):
    """Makes the steps of a cell itself, beside an LSTM with a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.lstm = normscope.LSTMCell(WIDTH, HIDDEN), OwnForward(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for now in x:
            state = self.cell(now, state)
            outputs.append(state[0])
        return self.lstm(torch.stack(outputs))[0]


def test_what_is_not_measured_is_named_and_runs_as_it_is() -> None:
    torch.manual_seed(0)
    model, x = ByHand(), inputs("padded")
    found = normscope.diagnose(model, x, lambda m, x: m(x).square().mean())
    assert found.recurrent == ()
    assert found.loss == float(model(x).square().mean().detach())
    assert "cell (is a cell, whose steps the model makes itself), lstm (has a forward of its own)" in found.summary()
    assert [norm.name for norm in found.gradients] == ["cell.norms.ih.0", "cell.norms.hh.0", "cell.norms.cell.0"]


def test_the_steps_of_a_norm_are_one_entry_with_the_rows_of_all() -> None:
    torch.manual_seed(0)
    lstm, x = normscope.LSTM(WIDTH, HIDDEN, dtype=torch.float64), draw(STEPS, BATCH, WIDTH)
    upstream, seen = draw(STEPS, BATCH, HIDDEN, seed=1), []
    norm = lstm.norms["l0"]["hh"][0]  # pyright: ignore[reportIndexIssue]

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return (model(x)[0] * upstream).sum()

    norms = {each.name: each for each in gradients_at_norms(lstm, x, loss)}
    assert list(norms) == ["norms.l0.ih.0", "norms.l0.hh.0", "norms.l0.cell.0"]
    told = norms["norms.l0.hh.0"]
    norm.register_full_backward_hook(lambda module, given, came: seen.append((given[0], came[0])))
    # A norm with a hook of its forward is called at every step.
    norm.register_forward_hook(lambda module, given, output: None)
    loss(lstm, x).backward()
    given, came = (torch.cat(each) for each in zip(*seen, strict=True))
    assert told.rows == len(came) == STEPS * BATCH
    assert told.upstream_energy == pytest.approx(float(came.square().sum()), rel=1e-9)
    assert told.arriving_energy == pytest.approx(float(given.square().sum()), rel=1e-9)
    assert told.upstream_mean == pytest.approx(size(came.mean(-1)), rel=1e-9)
    assert told.upstream_variance == pytest.approx(float(came.var(-1, correction=0).mean()), rel=1e-9)
    assert told.recentering == pytest.approx(float(came.mean(-1).square().sum() * came.shape[1] / came.square().sum()))
    assert told.law_error == pytest.approx(0.0, abs=1e-6)


class Two(nn.Module):
    """Two recurrent layers, whose activations may be recomputed in the backward pass."""

    def __init__(self, *, recomputed: bool = False) -> None:
        super().__init__()
        self.lstm, self.gru, self.recomputed = normscope.LSTM(WIDTH, HIDDEN), nn.GRU(HIDDEN, HIDDEN), recomputed

    def run(self, x: Tensor) -> Tensor:
        return self.gru(self.lstm(x)[0])[0]

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.run, x, use_reentrant=False) if self.recomputed else self.run(x)


def mean_square(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).float().square().mean()


def test_recomputed_activations_are_those_of_the_first_call() -> None:
    torch.manual_seed(0)
    model, twin = Two(recomputed=True), Two()
    twin.load_state_dict(model.state_dict())
    assert step_profile(model, inputs("padded"), mean_square) == step_profile(twin, inputs("padded"), mean_square)


def test_half_precision_and_autocast_are_measured() -> None:
    def in_autocast(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return mean_square(model, x)

    torch.manual_seed(0)
    model, x = Two(), inputs("padded")
    wide = step_profile(model, x, mean_square)
    for told in (step_profile(model, x, in_autocast), step_profile(model.bfloat16(), x.bfloat16(), mean_square)):
        for steps, exact in zip(told, wide, strict=True):
            assert steps.h == pytest.approx(exact.h, rel=0.05)
            assert steps.fade == pytest.approx(exact.fade, rel=0.05)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [nn.LSTM, normscope.LSTM])
def test_a_compiled_model_is_measured_before_and_after_its_first_call(kind: type[nn.RNNBase]) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(WIDTH, HIDDEN)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0][-1]

    torch.manual_seed(0)
    model: Any = torch.compile(Last(), backend="eager")
    x = inputs("padded")[:3]
    for _ in range(2):
        frames = torch_internals.compiled_frames()
        (steps,) = step_profile(model, x, lambda m, x: m(x).square().mean())
        assert torch_internals.compiled_frames() == frames
        assert steps.name == "_orig_mod.rnn.l0"
        assert all(steps.gradient_h)
        model(x)
