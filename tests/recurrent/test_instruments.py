"""The instruments on a model with our recurrent layers: found, swapped and back, diagnosed, and left as it was."""

import pytest
import torch
from torch import Tensor, nn

import normscope
from normscope import GRU, LSTM


class Tagger(nn.Module):
    """An LSTM and a GRU under a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.head = LSTM(8, 16), GRU(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.lstm(x)[0])[0])


def batch() -> Tensor:
    return torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(0))


def test_norms_inside_are_found() -> None:
    found, unreachable = normscope.find_norms(Tagger())
    assert not unreachable
    assert [norm.name for norm in found] == [
        "lstm.norms.l0.ih.0",
        "lstm.norms.l0.hh.0",
        "lstm.norms.l0.cell.0",
        "gru.norms.l0.ih.0",
        "gru.norms.l0.ih.1",
        "gru.norms.l0.hh.0",
        "gru.norms.l0.hh.1",
    ]


def test_norms_inside_are_swapped_and_swapped_back() -> None:
    model, x = Tagger(), batch()
    want = model(x)
    report = normscope.swap(model, "layer_norm", "rms_norm")
    assert len(report.replaced) == 7
    assert not torch.equal(model(x), want)
    assert model.lstm.computed_by == "cpu"
    report.undo()
    assert torch.equal(model(x), want)


def test_a_model_with_them_is_diagnosed() -> None:
    model, x = Tagger(), batch()
    want = model(x)
    found = normscope.diagnose(model, x, lambda model, x: model(x).square().mean())
    assert "no norm" not in found.summary().lower()
    assert torch.equal(model(x), want)
    assert model.lstm.computed_by == "cpu"


def test_batch_norm_that_is_swapped_in_is_refused_where_it_runs() -> None:
    model = Tagger()
    report = normscope.swap(model, "layer_norm", "batch_norm")
    with pytest.raises(
        ValueError, match="or is made with norm='batch_norm'; BatchNorm shares its statistics over batch"
    ):
        model(batch())
    report.undo()
    model(batch())


def test_batch_norm_of_time_steps_is_out_of_reach_with_the_reason() -> None:
    model = Tagger()
    model.lstm = LSTM(8, 16, norm="batch_norm", batch_norm_steps=5)
    found, unreachable = normscope.find_norms(model)
    assert {norm.name.partition(".")[0] for norm in found} == {"gru"}
    assert {(one.what, one.why) for one in unreachable} == {
        ("StepBatchNorm", "its forward takes more than one input: x, step")
    }
    normscope.diagnose(model, batch(), lambda model, x: model(x).square().mean())
