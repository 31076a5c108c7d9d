"""In and out again, to the bit."""

import copy
import sys

import pytest
import torch
from torch import nn

from normscope.norms import AdaNorm
from normscope.surgery import swap
from support.architectures import ARCHITECTURES


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("to", ["ada_norm", "dyt"])
def test_undo_is_to_the_bit_also_after_training(name: str, to: str) -> None:
    architecture = ARCHITECTURES[name]
    model = architecture.build().eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    text = repr(model)
    with torch.no_grad():
        want = architecture.run(model)
    report = swap(model, architecture.kind, to)
    optimizer = torch.optim.SGD([p for one in report.replaced for p in one.module.parameters()] or [torch.zeros(1)])
    out = architecture.run(model)
    out.backward(torch.randn_like(out))
    optimizer.step()
    report.undo()
    assert repr(model) == text
    assert list(model.state_dict()) == list(state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    with torch.no_grad():
        assert torch.equal(architecture.run(model), want)


def test_undone_once_and_in_order() -> None:
    model = nn.Sequential(nn.LayerNorm(4))
    first = swap(model, "layer_norm", "rms_norm")
    second = swap(model, "rms_norm", "ada_norm")
    with pytest.raises(
        RuntimeError, match="0 is a AdaNorm that this swap did not put there: undo what came later first"
    ):
        first.undo()
    assert isinstance(model[0], AdaNorm)
    second.undo()
    first.undo()
    assert type(model[0]) is nn.LayerNorm
    with pytest.raises(RuntimeError, match="undone already"):
        first.undo()


def test_undo_follows_the_model_to_its_dtype_and_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    report = swap(model, "layer_norm", "ada_norm")
    model.to(torch.float64).eval()
    report.undo()
    assert model[1].weight.dtype == torch.float64
    assert not model[1].training


def test_tied_norms_stay_tied() -> None:
    norm = nn.LayerNorm(4)
    model = nn.ModuleDict({"a": norm, "b": nn.Sequential(norm)})
    report = swap(model, "layer_norm", "rms_norm")
    assert model["a"] is model["b"][0]
    assert report.replaced[0].tied == ("b.0",)
    report.undo()
    assert model["a"] is model["b"][0] is norm


def test_a_copy_of_the_model_and_its_class_are_not_touched() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 8)
    other = copy.deepcopy(model)
    swap(model, "layer_norm", "rms_norm")
    assert type(other.norm1) is nn.LayerNorm
    assert type(nn.TransformerEncoderLayer(8, 2, 8).norm1) is nn.LayerNorm


def deep() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))


def test_a_place_that_is_gone() -> None:
    for change in (lambda model: model.__delitem__(2), lambda model: model.__setitem__(2, nn.Identity())):
        model = deep()
        report = swap(model, "layer_norm", "rms_norm")
        kept = model[2]
        change(model)
        with pytest.raises(RuntimeError, match=r"2\.1, where this swap put a RMSNorm, is no longer in the model"):
            report.undo()
        assert type(model[1]) is not nn.LayerNorm
        model._modules["2"] = kept
        report.undo()
        assert type(model[1]) is nn.LayerNorm


def test_a_layer_that_moved() -> None:
    model = deep()
    report = swap(model, "layer_norm", "rms_norm")
    del model[0]
    with pytest.raises(RuntimeError, match="1 is a Sequential that this swap did not put there"):
        report.undo()


def test_a_failure_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = deep()
    text = repr(model)
    optimizer = torch.optim.SGD([{"params": model[0].weight}, {"params": model[2][0].weight}], lr=0.1)
    with pytest.raises(ValueError, match="the optimizer has 2 groups"):
        swap(model, "layer_norm", "dyt", optimizer=optimizer)
    assert repr(model) == text

    def unreadable(*given):
        raise AttributeError("source")

    # The reading of source is the last that can fail.
    monkeypatch.setattr(sys.modules["normscope.surgery.swap"], "held_in_lists", unreadable)
    with pytest.raises(AttributeError, match="source"):
        swap(model, "layer_norm", "rms_norm")
    assert repr(model) == text
