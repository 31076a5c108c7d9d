"""Recurrent layers against torch's with the norms off, and their ways of reading sequences."""

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from normscope import norms
from normscope.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from normscope.recurrent.scan import Regularizers
from normscope.registry import UnknownName

LAYERS = {LSTM: nn.LSTM, GRU: nn.GRU, RNN: nn.RNN}
WIDTH, H, B, T = 3, 5, 4, 6
LENGTHS = [3, 6, 1, 4]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def tuple_of(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def stepped(ours: type, theirs: nn.RNNBase, **options: Any) -> Any:
    """Build our layer with the weights of torch's, no norm, and our own steps instead of torch's."""
    layer = ours(WIDTH, H, norm=None, **options).double()
    layer.load_state_dict(theirs.state_dict())
    # A probability below what float64 can add to one: the layer is not torch's any more, and computes the same.
    layer.regularizers = Regularizers(zoneout=(1e-300,) * (2 if ours is LSTM else 1), recurrent_dropout=0.0)
    return layer.train(theirs.training)


SWITCH = (True, False)
FORMS = ("padded", "single", "packed", "sorted")
CASES = list(itertools.product(LAYERS, FORMS, SWITCH, (1, 2), SWITCH, SWITCH, SWITCH))


@pytest.mark.parametrize(("ours", "form", "given", "layers", "bias", "batch_first", "bidirectional"), CASES)
def test_without_norms_it_is_torchs(
    ours: type, form: str, given: bool, layers: int, bias: bool, batch_first: bool, bidirectional: bool
) -> None:
    options = {"num_layers": layers, "bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    check_parity(ours, form, given=given, options=options)


@pytest.mark.parametrize("form", ["padded", "single", "packed", "sorted"])
@pytest.mark.parametrize(
    ("given", "layers", "bias", "batch_first", "bidirectional"), list(itertools.product(*[SWITCH] * 5))
)
def test_projections_are_torchs(
    form: str, given: bool, layers: bool, bias: bool, batch_first: bool, bidirectional: bool
) -> None:
    options = {"num_layers": 1 + layers, "bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    check_parity(LSTM, form, given=given, options={"proj_size": 2, **options})


def test_the_relu_of_an_rnn_is_torchs() -> None:
    check_parity(RNN, "padded", given=True, options={"nonlinearity": "relu"})


def check_parity(ours: type, form: str, *, given: bool, options: dict[str, Any]) -> None:
    theirs = LAYERS[ours](WIDTH, H, **options).double()
    layer = stepped(ours, theirs, **options)
    single = form == "single"
    x: Any = drawn(T, WIDTH) if single else drawn(T, B, WIDTH)
    if options.get("batch_first") and not single:
        x = x.transpose(0, 1)
    x.requires_grad_()
    rows = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    widths = [options.get("proj_size") or H, *([H] if ours is LSTM else [])]
    states = tuple(drawn(rows, *([] if single else [B]), width, seed=5).requires_grad_() for width in widths)
    hx = (states if ours is LSTM else states[0]) if given else None
    inputs = [x, *theirs.parameters(), *(states if given else ())]
    got_inputs = [x, *layer.parameters(), *(states if given else ())]
    results = []
    for module, wanted in ((theirs, inputs), (layer, got_inputs)):
        feed = x
        if form in {"packed", "sorted"}:
            lengths = sorted(LENGTHS, reverse=True) if form == "sorted" else LENGTHS
            first = bool(options.get("batch_first"))
            feed = pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=form == "sorted")
        output, state = module(feed, hx)
        assert isinstance(output, PackedSequence) == isinstance(feed, PackedSequence)
        values = [output.data if isinstance(output, PackedSequence) else output, *tuple_of(state)]
        upstream = [drawn(*value.shape, seed=7) for value in values]
        results.append((values, torch.autograd.grad(values, wanted, upstream)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("ours", LAYERS, ids=lambda kind: kind.__name__)
def test_weights_of_torch_load_and_come_back(ours: type) -> None:
    theirs = LAYERS[ours](WIDTH, H, 2, bidirectional=True)
    layer = ours(WIDTH, H, 2, bidirectional=True)
    missing, unexpected = layer.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("norms.") for name in missing)
    plain = ours(WIDTH, H, 2, bidirectional=True, norm=None)
    assert plain.load_state_dict(theirs.state_dict())
    x = drawn(T, B, WIDTH, dtype=torch.float32)
    assert torch.equal(plain(x)[0], theirs(x)[0])
    assert isinstance(layer, LAYERS[ours])


@pytest.mark.parametrize("ours", LAYERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_sequences_do_not_see_each_other(ours: type, bidirectional: bool) -> None:
    layer = ours(WIDTH, H, 2, bidirectional=bidirectional).double()
    x = drawn(T, B, WIDTH)
    output, state = layer(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
    output, lengths = pad_packed_sequence(output)
    assert lengths.tolist() == LENGTHS
    for index, length in enumerate(LENGTHS):
        alone, end = layer(x[:length, index])
        torch.testing.assert_close(output[:length, index], alone, rtol=1e-12, atol=1e-12)
        for one, other in zip(tuple_of(state), tuple_of(end), strict=True):
            torch.testing.assert_close(one[:, index], other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ours", LAYERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("norm", ["layer_norm", "layer_norm_simple", "ada_norm", "rms_norm", "detach_norm", "dyt"])
def test_every_norm_of_rows(ours: type, norm: str) -> None:
    layer = ours(WIDTH, H, norm=norm)
    built = type(norms.NORMS[norm](H))
    assert all(type(one) is built for group in layer.norms["l0"].values() for one in group)
    output, _ = layer(drawn(T, B, WIDTH, dtype=torch.float32))
    output.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("ours", [*LAYERS, LSTMCell, GRUCell, RNNCell], ids=lambda kind: kind.__name__)
def test_norms_take_arguments_as_everywhere(ours: type) -> None:
    layer = ours(WIDTH, H, norm="ada_norm(k=0.3, scale=2)")
    built = [one for one in layer.modules() if isinstance(one, norms.AdaNorm)]
    assert {(one.k, one.scale) for one in built} == {(0.3, 2.0)}
    if issubclass(ours, nn.LSTM | nn.LSTMCell):
        layer = ours(WIDTH, H, norm="none", cell_norm="rms_norm(eps=0.5)")
        assert [one.eps for one in layer.modules() if isinstance(one, norms.RMSNorm)] == [0.5]


@pytest.mark.parametrize("ours", LAYERS, ids=lambda kind: kind.__name__)
def test_the_norm_called_none_leaves_torchs_layer(ours: type) -> None:
    layer, theirs = ours(WIDTH, H, norm="none"), LAYERS[ours](WIDTH, H)
    assert theirs.load_state_dict(layer.state_dict())
    x = drawn(T, B, WIDTH, dtype=torch.float32)
    assert torch.equal(layer(x)[0], theirs(x)[0])
    assert layer.computed_by == "torch"


@pytest.mark.parametrize(
    ("norm", "error", "words"),
    [
        ("ada_norm(q=1)", ValueError, "ada_norm has no argument 'q'; it takes eps"),
        ("ada_norm(k='a')", TypeError, "k must be a number"),
        ("layernorm", UnknownName, "did you mean 'layer_norm'"),
        ("weight_norm", ValueError, "norm must be one norm such as .*, got 'weight_norm'"),
        ("layer_norm+ada_norm:final", ValueError, "norm must be one norm such as"),
        (norms.LayerNorm(H), TypeError, "norm must be a string or a function or None"),
        (lambda width: width, TypeError, "must be a torch.nn.Module, got 5 of type int"),
    ],
)
def test_what_is_no_norm_is_refused(norm: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        RNN(WIDTH, H, norm=norm)


@pytest.mark.parametrize("places", ["paper", "per gate", "kiros"])
@pytest.mark.parametrize("ours", [LSTM, GRU], ids=lambda kind: kind.__name__)
def test_derivatives(ours: type, places: str) -> None:
    layer = ours(2, 3, places=places).double()
    names = [name for name, _ in layer.named_parameters()]
    x, h = drawn(3, 2, 2).requires_grad_(), drawn(1, 2, 3, seed=3).requires_grad_()
    c = drawn(1, 2, 3, seed=4).requires_grad_()

    def call(x: Tensor, h: Tensor, c: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        hx = (h, c) if ours is LSTM else h
        output, state = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, hx))
        return output, *tuple_of(state)

    arguments = (x, h, c, *(one.detach().clone().requires_grad_() for one in layer.parameters()))
    assert torch.autograd.gradcheck(call, arguments)
    assert torch.autograd.gradgradcheck(call, arguments)


@pytest.mark.parametrize("ours", LAYERS, ids=lambda kind: kind.__name__)
def test_resets_start_sequences_anew(ours: type) -> None:
    for options in ({}, {"bidirectional": True}, {"batch_first": True}, {"learned_initial_state": True}):
        layer = ours(WIDTH, H, 2, **options).double()
        if options.get("learned_initial_state"):
            with torch.no_grad():
                for name, parameter in layer.named_parameters():
                    if name.startswith("initial_"):
                        parameter.copy_(drawn(*parameter.shape, seed=2).expand_as(parameter))
        x = drawn(T, B, WIDTH)
        reset = torch.zeros(T, B, dtype=torch.bool)
        reset[2], reset[4, 1] = True, True
        feed, where = (x.transpose(0, 1), reset.T) if options.get("batch_first") else (x, reset)
        output, _ = layer(feed, reset=where)
        output = output.transpose(0, 1) if options.get("batch_first") else output
        for index in range(B):
            cuts = [0, *(t for t in range(T) if reset[t, index]), T]
            pieces = [layer(x[a:b, index])[0] for a, b in itertools.pairwise(cuts)]
            torch.testing.assert_close(output[:, index], torch.cat(pieces), rtol=1e-12, atol=1e-12)


def test_resets_of_packed_sequences() -> None:
    layer = LSTM(WIDTH, H).double()
    x, reset = drawn(T, B, WIDTH), torch.zeros(T, B, dtype=torch.bool)
    reset[2] = True
    packed, where = (pack_padded_sequence(one, LENGTHS, enforce_sorted=False) for one in (x, reset))
    output, _ = pad_packed_sequence(layer(packed, reset=where)[0])
    for index, length in enumerate(LENGTHS):
        pieces = [layer(x[a:b, index])[0] for a, b in ((0, min(2, length)), (2, length)) if b > a]
        torch.testing.assert_close(output[:length, index], torch.cat(pieces), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("reset", "error", "words"),
    [
        (torch.zeros(T, B), TypeError, "dtype bool, got torch.float32"),
        (torch.zeros(B, T, dtype=torch.bool), ValueError, r"but the last one, got \[4, 6\]"),
        (pack_padded_sequence(torch.zeros(T, B).bool(), [T] * B), TypeError, "packed if and only if"),
    ],
)
def test_resets_of_another_form_are_refused(reset: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        LSTM(WIDTH, H)(torch.zeros(T, B, WIDTH), reset=reset)


@pytest.mark.parametrize("ours", LAYERS, ids=lambda kind: kind.__name__)
def test_sequences_of_no_and_one_step_and_no_sequences(ours: type) -> None:
    layer = ours(WIDTH, H, bidirectional=True)
    for steps, batch in ((0, B), (1, B), (T, 0)):
        output, state = layer(torch.zeros(steps, batch, WIDTH))
        assert output.shape == (steps, batch, 2 * H)
        assert all(one.shape == (2, batch, H) for one in tuple_of(state))


def test_a_long_sequence_stays_finite() -> None:
    layer = LSTM(WIDTH, H)
    with torch.no_grad():
        layer.bias_ih_l0[H : 2 * H] = 20.0
    x = 10 * drawn(5000, 1, WIDTH, dtype=torch.float32)
    output, (_, c) = layer(x)
    assert output.isfinite().all()
    assert c.isfinite().all()
    assert c.abs().max() > 10


def test_the_forget_gate_can_start_open() -> None:
    layer = LSTM(WIDTH, H, 2, forget_bias=1.0, bidirectional=True)
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        total = getattr(layer, f"bias_ih_{suffix}") + getattr(layer, f"bias_hh_{suffix}")
        assert torch.equal(total[H : 2 * H], torch.ones(H))
        assert not torch.equal(total[:H], torch.ones(H))
    layer.reset_parameters()
    assert torch.equal((layer.bias_ih_l0 + layer.bias_hh_l0)[H : 2 * H], torch.ones(H))


@pytest.mark.parametrize("ours", LAYERS, ids=lambda kind: kind.__name__)
def test_copies_pickles_and_batches_of_models(ours: type) -> None:
    layer = ours(WIDTH, H, 2, learned_initial_state=True)
    x = drawn(T, B, WIDTH, dtype=torch.float32)
    want = layer(x)[0]
    assert torch.equal(copy.deepcopy(layer)(x)[0], want)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x)[0], want)
    models = [ours(WIDTH, H) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)

    def call(parameters: Any, buffers: Any) -> Tensor:
        return torch.func.functional_call(models[0], (parameters, buffers), (x,))[0]

    outputs = torch.func.vmap(call)(parameters, buffers)
    for model, output in zip(models, outputs, strict=True):
        torch.testing.assert_close(output, model(x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ours", LAYERS, ids=lambda kind: kind.__name__)
def test_half_precision(ours: type) -> None:
    half = ours(WIDTH, 64).bfloat16()
    # Of the rounded weights and inputs: an RNN amplifies what their rounding changes.
    layer = copy.deepcopy(half)
    x = drawn(50, B, WIDTH, dtype=torch.float32).bfloat16().float()
    exact = layer.double()(x.double())[0]
    output, state = half(x.bfloat16())
    assert output.dtype == torch.bfloat16
    assert all(one.dtype == torch.bfloat16 for one in tuple_of(state))
    assert (output.double() - exact).abs().mean() < 0.02
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = layer.float()(x)
    assert (mixed.double() - exact).abs().mean() < 0.02
