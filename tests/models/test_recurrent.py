"""The recurrent networks, against torch's layers and hand-written segments."""

from typing import Any

import pytest
import torch
from torch import nn

from normscope import GRU, LSTM
from normscope.models import RecurrentLanguageModel, SequenceClassifier
from normscope.norms import NORMS, LayerNorm
from normscope.training.randomness import initialize

CELLS: list[Any] = ["LSTM", "GRU"]
PEERS = {"LSTM": nn.LSTM, "GRU": nn.GRU}


@pytest.mark.parametrize("cell", CELLS)
def test_the_classifier_without_norms_is_torchs_layer_and_a_linear_map(cell: Any) -> None:
    model = SequenceClassifier(cell=cell, inputs=2, width=5, classes=3, steps=7, norm=NORMS["none"])
    peer = PEERS[cell](2, 5, batch_first=True)
    peer.load_state_dict(model.layer.state_dict())
    x = torch.randn(4, 7, 2)
    torch.testing.assert_close(model(x), model.head(peer(x)[0][:, 6]), rtol=0, atol=0)
    assert model.layer.computed_by == "torch"


@pytest.mark.parametrize("cell", CELLS)
def test_norms_are_those_of_the_papers_places(cell: Any) -> None:
    widths: list[int] = []

    def norm(width: int) -> nn.Module:
        widths.append(width)
        return LayerNorm(width)

    model = SequenceClassifier(cell=cell, inputs=2, width=5, classes=3, steps=7, norm=norm)
    assert widths == ([20, 20, 5] if cell == "LSTM" else [10, 5, 10, 5])
    layer = {"LSTM": LSTM, "GRU": GRU}[cell](2, 5, batch_first=True, norm="layer_norm")
    layer.load_state_dict(model.layer.state_dict())
    x = torch.randn(4, 7, 2)
    torch.testing.assert_close(model(x), model.head(layer(x)[0][:, -1]), rtol=0, atol=0)


def test_the_forget_gates_begin_open_in_every_arm() -> None:
    for name in ("none", "layer_norm", "ada_norm"):
        model = SequenceClassifier(cell="LSTM", inputs=1, width=5, classes=3, steps=7, norm=NORMS[name])
        initialize(model, 3)
        both = model.layer.bias_ih_l0 + model.layer.bias_hh_l0
        assert both[5:10].tolist() == [1.0] * 5
        assert both[:5].abs().min() > 0


def test_weights_that_arms_share_are_equal() -> None:
    models = [
        SequenceClassifier(cell="GRU", inputs=1, width=5, classes=3, steps=7, norm=NORMS[n])
        for n in ("none", "rms_norm")
    ]
    for model in models:
        initialize(model, 3)
    ours, theirs = (model.state_dict() for model in models)
    assert len(theirs) > len(ours)
    for name, weights in ours.items():
        assert torch.equal(weights, theirs[name])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("norm", ["none", "layer_norm"])
def test_segments_with_their_state_are_one_text(cell: Any, norm: str) -> None:
    model = RecurrentLanguageModel(cell=cell, vocabulary=11, width=6, layers=2, batch=3, norm=NORMS[norm])
    text = torch.randint(11, (3, 10))
    whole, end = model(text, model.empty_memory(3, 0))
    first, between = model(text[:, :4], model.empty_memory(3, 0))
    second, last = model(text[:, 4:], between)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(last, end)
    assert not between.requires_grad
    # In training the model keeps the state, also for a checkpoint.
    torch.testing.assert_close(torch.cat([model.advance(text[:, :4]), model.advance(text[:, 4:])], 1), whole)
    torch.testing.assert_close(model.state_dict()["memory"], end)
    assert end.abs().min() > 0
    model.forget()
    torch.testing.assert_close(model.advance(text), whole)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("norm", ["none", "layer_norm", "scale_norm"])
def test_the_gradient_is_that_of_the_segment_from_its_state(cell: Any, norm: str) -> None:
    model = RecurrentLanguageModel(cell=cell, vocabulary=11, width=6, layers=1, batch=3, norm=NORMS[norm])
    text, upstream = torch.randint(11, (3, 8)), torch.randn(3, 4, 11)
    model.advance(text[:, :4])
    before = model.memory.clone()
    (model.advance(text[:, 4:]) * upstream).sum().backward()
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    (model(text[:, 4:], before)[0] * upstream).sum().backward()
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=0)


def test_a_norm_over_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="GroupNorm shares its statistics over channels"):
        SequenceClassifier(cell="LSTM", inputs=1, width=8, classes=3, steps=7, norm=NORMS["group_norm"])
    with pytest.raises(ValueError, match=r"a text whose state is carried on .* has no such steps"):
        RecurrentLanguageModel(cell="GRU", vocabulary=11, width=6, layers=1, batch=3, norm=NORMS["batch_norm"])
