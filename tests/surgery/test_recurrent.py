"""Recurrent layers with norms in the places of torch's, and back: the same weights, outputs and state dict."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import normscope
from normscope.surgery import norm_parameter_groups, swap

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

LAYERS = [
    ("lstm", nn.LSTM, {}),
    ("lstm", nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("lstm", nn.LSTM, {"proj_size": 3, "num_layers": 2, "dropout": 0.5}),
    ("lstm", nn.LSTM, {"bias": False}),
    ("gru", nn.GRU, {"num_layers": 2, "bidirectional": True}),
    ("rnn", nn.RNN, {"nonlinearity": "relu", "num_layers": 2, "batch_first": True}),
]
CELLS = [("rnn_cell", nn.RNNCell), ("lstm_cell", nn.LSTMCell), ("gru_cell", nn.GRUCell)]


class Tagger(nn.Module):
    """A recurrent layer between an embedding and a linear layer."""

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 6)
        self.core = nn.LSTM(6, 8) if layer is None else layer
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.core(self.embed(x))[0])


def numbers(output) -> list[Tensor]:
    """List the tensors of an output and a state."""
    return [output] if isinstance(output, Tensor) else [one for part in output for one in numbers(part)]


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Run a layer and return the gradients of a random projection of its outputs."""
    model.zero_grad()
    torch.manual_seed(1)
    outputs = numbers(model(x))
    torch.autograd.backward(outputs, [torch.randn_like(one) for one in outputs])
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("key", "kind", "options"), LAYERS)
def test_without_norms_it_is_the_same_function_of_the_same_parameters(key: str, kind, options: dict) -> None:
    model = nn.Sequential(kind(6, 8, **options)).eval()
    old = model[0]
    parameters = dict(model.named_parameters())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(4, 3, 6)
    want, want_gradients = numbers(model(x)), gradients(model, x)
    report = swap(model, key, f"ln_{key}(norm=None)", preserve=True)
    assert type(model[0]) is getattr(normscope, kind.__name__)
    assert [(one.old, one.new) for one in report.replaced] == [(f"nn.{kind.__name__}", f"normscope.{kind.__name__}")]
    assert report.replaced[0].difference == 0
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert all(map(torch.equal, numbers(model(x)), want))
    got_gradients = gradients(model, x)
    assert got_gradients.keys() == want_gradients.keys()
    assert all(torch.equal(got_gradients[name], grad) for name, grad in want_gradients.items())
    swap(model, f"ln_{key}", key)
    assert type(model[0]) is kind
    assert model[0] is not old
    assert repr(model[0]) == repr(old)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(map(torch.equal, numbers(model(x)), want))


@pytest.mark.parametrize(("key", "kind", "options"), LAYERS)
def test_with_norms_the_layer_is_the_one_that_its_constructor_makes(key: str, kind, options: dict) -> None:
    model = nn.Sequential(kind(6, 8, **options)).eval()
    by_hand = getattr(normscope, kind.__name__)(6, 8, **options, norm="rms_norm").eval()
    by_hand.load_state_dict(model[0].state_dict(), strict=False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    swap(model, key, f"ln_{key}(norm='rms_norm')")
    x = torch.randn(4, 3, 6)
    assert all(map(torch.equal, numbers(model(x)), numbers(by_hand(x))))
    assert repr(model[0]) == repr(by_hand)
    report = swap(model, f"ln_{key}", key)
    assert report.replaced[0].lost == ("norms",)
    assert {name: value.tolist() for name, value in model.state_dict().items()} == {
        name: value.tolist() for name, value in state.items()
    }


@pytest.mark.parametrize(("key", "kind"), CELLS)
def test_cells(key: str, kind) -> None:
    model = nn.Sequential(kind(6, 8, bias=key != "gru_cell"))
    weight, x = model[0].weight_hh, torch.randn(3, 6)
    want = numbers(model(x))
    swap(model, key, f"ln_{key}(norm=None)", preserve=True)
    assert type(model[0]) is getattr(normscope, kind.__name__)
    assert all(map(torch.equal, numbers(model(x)), want))
    report = swap(model, f"ln_{key}", f"ln_{key}(norm='ada_norm(scale=2.0)')")
    assert report.replaced[0].difference > 0.01
    assert model[0].norms["ih"][0].scale == 2.0
    report = swap(model, f"ln_{key}", key)
    assert type(model[0]) is kind
    assert model[0].weight_hh is weight
    assert all(map(torch.equal, numbers(model(x)), want))


def test_arguments_reach_the_layer_and_the_forget_gate_is_set_in_copies() -> None:
    model = Tagger()
    old = model.core
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = swap(model, "lstm", "ln_lstm(norm='rms_norm', places='kiros', forget_bias=1.0, zoneout=0.1)")
    core = model.core
    assert (core.places, core.forget_bias) == (normscope.recurrent.PLACES["LSTM"]["kiros"], 1.0)
    for name in ("bias_ih_l0", "bias_hh_l0"):
        want = before[f"core.{name}"].clone()
        want[8:16] = 1.0 if name == "bias_ih_l0" else 0.0
        assert torch.equal(getattr(core, name), want)
        assert torch.equal(getattr(old, name), before[f"core.{name}"])
    assert core.weight_ih_l0 is old.weight_ih_l0
    assert report.replaced[0].kept == ("weights", "biases (as new parameters)")
    assert report.replaced[0].lost == ("biases of the forget gates",)
    report.undo()
    assert model.core is old
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_forget_bias_without_biases_is_refused() -> None:
    with pytest.raises(ValueError, match="core has no biases, and its forget gates none to be set"):
        swap(Tagger(nn.LSTM(6, 8, bias=False)), "lstm", "ln_lstm(forget_bias=1.0)")


def test_from_one_norm_to_another_the_options_stay() -> None:
    model = Tagger()
    swap(
        model, "lstm", "ln_lstm(places='kiros', zoneout=(0.1, 0.2), recurrent_dropout=0.3, learned_initial_state=True)"
    )
    first = model.core
    report = swap(model, "ln_lstm", "ln_lstm(cell_norm='rms_norm')")
    assert model.core.places == first.places
    assert model.core.regularizers == first.regularizers
    assert model.core.initial_c is first.initial_c
    assert model.core.norms["l0"]["ih"][0] is first.norms["l0"]["ih"][0]
    assert isinstance(model.core.norms["l0"]["cell"][0], normscope.RMSNorm)
    assert report.replaced[0].lost == ("other norms",)
    report = swap(model, "ln_lstm", "lstm")
    assert report.replaced[0].kept == ("weights", "biases")
    assert report.replaced[0].lost == ("initial_h", "initial_c", "norms", "zoneout", "recurrent dropout")


class Tempered(nn.Module):
    """A norm whose text does not show its number."""

    def __init__(self, width: int, power: float) -> None:
        super().__init__()
        self.weight, self.power = nn.Parameter(torch.ones(width)), power

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / x.square().mean(-1, keepdim=True) ** self.power


def test_norms_of_a_function_are_its_own() -> None:
    model = Tagger(normscope.LSTM(6, 8, norm=partial(Tempered, power=0.5)))
    swap(model, "ln_lstm", partial(normscope.LSTM, norm=partial(Tempered, power=0.25)))
    assert model.core.norms["l0"]["hh"][0].power == 0.25


def test_the_difference_is_that_in_evaluation() -> None:
    report = swap(Tagger(nn.LSTM(6, 8, num_layers=2, dropout=0.5)), "lstm", "ln_lstm(norm=None)", preserve=True)
    assert report.replaced[0].difference == 0
    assert report.replaced[0].module.training


def test_norms_with_other_numbers_are_not_carried_over() -> None:
    model = Tagger(normscope.LSTM(6, 8, norm=lambda width: normscope.LayerNorm(width, eps=1e-2)))
    report = swap(model, "ln_lstm", "ln_lstm")
    assert report.replaced[0].lost == ("norms",)
    assert model.core.norms["l0"]["ih"][0].eps == 1e-5


def test_batch_norm_of_every_step() -> None:
    model = Tagger()
    report = swap(model, "lstm", "ln_lstm(norm='batch_norm', batch_norm_steps=4)")
    assert report.replaced[0].difference > 0.01
    assert model(torch.randn(4, 3, 5)).shape == (4, 3, 2)
    report = swap(model, "ln_lstm", "lstm")
    assert report.replaced[0].lost == ("norms",)
    assert sorted(model.core.state_dict()) == ["bias_hh_l0", "bias_ih_l0", "weight_hh_l0", "weight_ih_l0"]


def test_packed_sequences() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = nn.LSTM(6, 8, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            return pad_packed_sequence(self.core(pack_padded_sequence(x, [2, 4, 1], enforce_sorted=False))[0])[0]

    model, x = Packed(), torch.randn(4, 3, 6)
    want = model(x)
    report = swap(model, "lstm", "ln_lstm")
    with_norms = model(x)
    assert not torch.allclose(with_norms, want)
    assert with_norms[2:, 0].abs().max() == 0
    assert report.unused(lambda: model(x)) == []
    report.undo()
    assert torch.equal(model(x), want)


def test_a_layer_at_two_places_is_replaced_once() -> None:
    shared = nn.LSTM(6, 6)
    model = nn.ModuleDict({"encoder": shared, "decoder": shared})
    (one,) = swap(model, "lstm", "ln_lstm").replaced
    assert (one.name, one.tied) == ("encoder", ("decoder",))
    assert model["encoder"] is model["decoder"]
    assert type(model["encoder"]) is normscope.LSTM


def test_shared_parameters_stay_shared() -> None:
    model = nn.ModuleList([nn.LSTM(6, 6), nn.LSTM(6, 6)])
    for name in ("weight_hh_l0", "bias_ih_l0"):
        setattr(model[1], name, getattr(model[0], name))
    swap(model, "lstm", "ln_lstm(forget_bias=1.0)")
    assert model[0].weight_hh_l0 is model[1].weight_hh_l0
    assert model[0].bias_ih_l0 is model[1].bias_ih_l0
    assert model[0].bias_hh_l0 is not model[1].bias_hh_l0
    report = swap(model, "ln_lstm", "ln_lstm(forget_bias=2.0)", where="0")
    assert "the tie of bias_ih_l0 with what is not converted" in report.replaced[0].lost


def test_mode_hooks_dtype_device_and_frozen_parameters() -> None:
    model = Tagger().to(torch.bfloat16).eval().requires_grad_(False)
    calls = []
    handle = model.core.register_forward_hook(lambda *_: calls.append(1))
    report = swap(model, "lstm", "ln_lstm")
    assert not any(module.training for module in model.modules())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in model.parameters())
    assert report.replaced[0].kept == ("weights", "biases", "1 hooks")
    x = torch.randn(4, 3, 5, dtype=torch.bfloat16)
    model(x)
    assert calls == [1]
    handle.remove()
    model(x)
    assert calls == [1]


def test_on_the_meta_device_and_from_there() -> None:
    with torch.device("meta"):
        model = Tagger()
    report = swap(model, "lstm", "ln_lstm")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    with pytest.raises(ValueError, match=r"1 modules have no numbers, for they are on the meta device \(core\)"):
        swap(model, "ln_lstm", "ln_lstm(norm=None)", preserve=True)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    weight = model.core.weight_hh_l0
    report.undo()
    assert model.core.weight_hh_l0 is weight
    assert model(torch.randn(4, 3, 5)).shape == (4, 3, 2)


def test_the_random_state_is_left_as_it_was() -> None:
    model = Tagger()
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    swap(model, "lstm", "ln_lstm")
    assert torch.equal(torch.rand(3), want)


def test_an_optimizer_goes_on() -> None:
    model = Tagger()
    optimizer = torch.optim.AdamW(norm_parameter_groups(model, 0.1), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randn(4, 3, 5)).square().mean().backward()
        optimizer.step()

    step()
    weight = model.core.weight_hh_l0
    moment = optimizer.state[weight]["exp_avg"].clone()
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    values = {name: value.clone() for name, value in model.state_dict().items()}
    report = swap(model, "lstm", "ln_lstm", optimizer=optimizer)
    assert torch.equal(optimizer.state[weight]["exp_avg"], moment)
    decaying, resting = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    assert decaying | resting == {id(p) for p in model.parameters()}
    # The parameters of norms are vectors, and join the biases, which do not decay.
    assert {id(p) for p in model.core.norms.parameters()} <= resting
    gain = model.core.norms["l0"]["cell"][0].weight
    step()
    assert not torch.equal(gain, torch.ones(8))
    report.undo()
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == groups
    assert torch.equal(optimizer.state[weight]["exp_avg"], moment)
    core = {name: value for name, value in model.state_dict().items() if name.startswith("core.")}
    assert all(torch.equal(value, values[name]) for name, value in core.items())


def test_an_optimizer_gets_copied_biases_and_the_old_ones_back() -> None:
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(4, 3, 5)).square().mean().backward()
    optimizer.step()
    bias = model.core.bias_ih_l0
    moment, value = optimizer.state[bias]["exp_avg"].clone(), bias.detach().clone()
    report = swap(model, "lstm", "ln_lstm(forget_bias=1.0)", optimizer=optimizer)
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert owned == {id(p) for p in model.parameters()}
    assert id(bias) not in owned
    report.undo()
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}
    assert torch.equal(bias, value)
    assert torch.equal(optimizer.state[bias]["exp_avg"], moment)


def test_classes_and_functions() -> None:
    model = nn.ModuleList([nn.LSTM(6, 8), normscope.LSTM(6, 8), nn.GRU(6, 8)])
    ours = model[1]
    swap(model, nn.LSTM, partial(normscope.LSTM, norm=lambda width: nn.LayerNorm(width, eps=1e-3)))
    assert model[0].norms["l0"]["hh"][0].eps == 1e-3
    assert model[1] is ours
    swap(model, normscope.LSTM, nn.LSTM)
    assert [type(one) for one in model] == [nn.LSTM, nn.LSTM, nn.GRU]


def test_an_inner_norm_is_swapped_and_used() -> None:
    model, x = Tagger(), torch.randn(4, 3, 5)
    swap(model, "lstm", "ln_lstm(norm='rms_norm')")
    report = swap(model, "rms_norm", "ada_norm")
    assert [one.name for one in report.replaced] == [f"core.norms.l0.{place}.0" for place in ("ih", "hh", "cell")]
    assert report.unused(lambda: model(x)) == []


class Padded(nn.LSTM):
    """A user's layer."""


def parametrized() -> nn.LSTM:
    return parametrizations.weight_norm(nn.LSTM(6, 8), "weight_hh_l0")


def pruned() -> nn.LSTM:
    return prune.l1_unstructured(nn.LSTM(6, 8), "weight_hh_l0", 0.5)


def patched() -> nn.LSTM:
    layer = nn.LSTM(6, 8)
    layer.forward = lambda x: (x, x)  # pyright: ignore[reportAttributeAccessIssue]
    return layer


def with_buffer() -> nn.LSTM:
    layer = nn.LSTM(6, 8)
    layer.register_buffer("start", torch.zeros(8))
    return layer


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Padded(6, 8), "a class derived from LSTM, whose changes would be lost"),
        (
            parametrized,
            r"parametrized \(weight_hh_l0\): torch.nn.utils.parametrize.remove_parametrizations comes first",
        ),
        (pruned, r"its parameters are made by a hook \(pruning, weight norm\): remove that first"),
        (patched, "its forward was put on the instance by another library: undo that first"),
        (with_buffer, "has parameters, buffers or modules of its own: start"),
        (lambda: torch.ao.nn.quantizable.LSTM(6, 8), "quantized, or prepared for it: swap first, quantize afterwards"),
        (lambda: nn.RNNBase("LSTM", 6, 8), "a class derived from RNNBase, whose changes would be lost"),
    ],
)
def test_what_is_left_alone_is_named(make, why: str) -> None:
    left = make()
    model = nn.ModuleDict({"left": left, "plain": nn.LSTM(6, 8)})
    report = swap(model, "lstm", "ln_lstm")
    assert model["left"] is left
    assert type(model["plain"]) is normscope.LSTM
    assert [one.name for one in report.unreachable if one.name == "left"] == ["left"]
    alone = nn.ModuleDict({"left": make()})
    with pytest.raises(ValueError, match=rf"no lstm to replace; it has left \(\w+\), out of reach: {why}"):
        swap(alone, "lstm", "ln_lstm")


def test_lists_that_hold_the_old_layer_are_named() -> None:
    model = Tagger()
    model.layers = [model.core]
    (one,) = swap(model, "lstm", "ln_lstm").unreachable
    assert (one.name, one.why) == ("layers", "a plain list holds the old one of core, too")


@pytest.mark.parametrize(
    ("what", "to", "error", "words"),
    [
        ("rnn", "ln_rnn", ValueError, r"Tagger has no rnn to replace; it has 1 lstm \(LSTM: core\)$"),
        ("layer_norm", "rms_norm", ValueError, "it has no norm at all that is a module"),
        ("lstn", "ln_lstm", ValueError, r"a class or one of none, .*frn, rnn, lstm, gru, .*, got 'lstn'"),
        ("lstm", "ln_lsm", LookupError, "no recurrent layer 'ln_lsm': did you mean 'ln_lstm'"),
        (
            "lstm",
            "ln_gru",
            ValueError,
            "core is of the kind lstm, in whose place ln_gru cannot stand: give lstm or ln_",
        ),
        ("lstm", "rms_norm", ValueError, r'''rms_norm is a norm .*: write it inside, "ln_lstm\(norm='rms_norm'\)"'''),
        ("layer_norm", "ln_lstm", ValueError, "ln_lstm is a recurrent layer and layer_norm is not"),
        (["lstm", "layer_norm"], "ln_lstm", ValueError, "swapped one after the other, got lstm . layer_norm"),
        ("lstm", "ln_lstm(num_layers=2)", ValueError, "takes norm, cell_norm, .*, got num_layers; the model decides"),
        ("lstm", "ln_lstm(norm='frn')", ValueError, r"ln_lstm\(norm='frn'\).*normalizes each row"),
        ("lstm", "ln_lstm(norm='x')", LookupError, "there is no norm 'x'"),
        ("lstm", "ln_lstm(places='x')", ValueError, "places of LSTM are 'paper', .*, got 'x'"),
        ("lstm", nn.LSTM(6, 8), TypeError, "to must be a string or a function"),
        ("lstm", lambda *_, **__: 3, TypeError, "must give a torch.nn.Module, got 3"),
        ("lstm", lambda *_, **__: nn.LSTM(6, 9), ValueError, r"weight_ih_l0 has the shape \[32, 6\], got \[36, 6\]"),
        ("lstm", lambda *_, **__: nn.Linear(2, 2), ValueError, "got none: it must have the parameters of nn.LSTM"),
    ],
)
def test_what_cannot_be_swapped_changes_nothing(what, to, error: type[Exception], words: str) -> None:
    model = Tagger()
    core = model.core
    with pytest.raises(error, match=words):
        swap(model, what, to)
    assert model.core is core


def test_the_model_itself_and_a_model_without_layers() -> None:
    with pytest.raises(ValueError, match="the model itself is the recurrent layer, a LSTM: there is no place"):
        swap(nn.LSTM(6, 8), "lstm", "ln_lstm")
    with pytest.raises(ValueError, match="Sequential has no lstm to replace; it has no recurrent layer at all"):
        swap(nn.Sequential(nn.LayerNorm(4)), "lstm", "ln_lstm")


def test_one_module_for_two_places_is_refused() -> None:
    one = normscope.LSTM(6, 8)
    model = nn.ModuleList([nn.LSTM(6, 8), nn.LSTM(6, 8)])
    with pytest.raises(ValueError, match="gave for 1 the very module of 0: it must make a new one for every place"):
        swap(model, "lstm", lambda *_, **__: one)


def test_another_function_is_refused_with_preserve() -> None:
    model = Tagger()
    with pytest.raises(ValueError, match=r"preserve=True .*\. Nothing was changed$"):
        swap(model, "lstm", "ln_lstm", preserve=True)
    assert type(model.core) is nn.LSTM


class Longer(nn.LSTM):
    """A layer with a further output in a feature."""

    def forward(self, input, hx=None):
        output, state = super().forward(input, hx)
        return torch.cat([output, output], -1), state


def test_another_shape_needs_force() -> None:
    model = Tagger()
    with pytest.raises(ValueError, match=r"Longer gives \[4, 6, 16\] for core where LSTM gave \[4, 6, 8\]"):
        swap(model, "lstm", Longer)
    report = swap(model, "lstm", Longer, force=True)
    assert any(note.startswith("Longer gives") for note in report.notes)
    assert type(model.core) is Longer


def test_what_the_report_says() -> None:
    report = swap(Tagger(), "lstm", "ln_lstm")
    lines = str(report).splitlines()
    assert lines[0] == "Tagger: lstm -> ln_lstm, 1 replaced, 566 -> 710 parameters"
    assert lines[3].split()[:6] == ["core", "nn.LSTM", "normscope.LSTM", "512", "->", "656"]
    assert lines[3].endswith("weights, biases  -")
