"""Recurrent layers with norms are timed beside PyTorch's without any."""

import pytest
import torch
from torch import nn

from normscope import LSTM
from normscope.cli.costs.recurrent import CELLS, FirstOutput, bench_recurrent
from normscope.cli.costs.timing import passes, saved_bytes


def test_every_layer_has_its_cost_beside_torchs() -> None:
    norms = ["rms_norm", "ada_norm(scale=2.0)", "batch_norm"]
    sizes = [(2, 8, 3), (3, 4, 5)]
    done: list[int] = []
    measured = bench_recurrent(list(CELLS), norms, sizes, seconds=0.01, callback=done.append)
    assert done == [1, 2, 3, 4, 5, 6]
    assert [(cost.cell, cost.batch, cost.hidden, cost.steps, cost.norm) for cost in measured.costs] == [
        (cell, *size, norm) for cell in ("rnn", "lstm", "gru") for size in sizes for norm in (None, *norms)
    ]
    for cost in measured.costs:
        assert min(cost.forward_ms, cost.backward_ms, cost.forward_ratio, cost.backward_ratio, cost.saved_bytes) > 0
        assert cost.quartiles[0] <= cost.ratio <= cost.quartiles[1]
        plain = cost.norm is None
        assert plain == (cost.computed_by == "torch") == (cost.ratio == cost.memory_ratio == 1)
    assert {cost["dtype"] for cost in measured.to_dict()["costs"]} == {"float32"}


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    bench_recurrent(["gru"], ["rms_norm"], [(2, 4, 3)], threads=2, seconds=0.01)
    assert torch.get_num_threads() == before


def test_a_norm_that_does_not_fit_is_refused_before_anything_is_timed() -> None:
    with pytest.raises(ValueError, match="a recurrent layer normalizes each row by itself"):
        bench_recurrent(["lstm"], ["rms_norm", "frn"], [(10**6, 10**6, 10**6)])


def test_passes_and_memory_are_those_of_the_layer() -> None:
    torch.manual_seed(0)
    ours, x, upstream = LSTM(4, 6), torch.randn(5, 3, 4, requires_grad=True), torch.randn(5, 3, 6)
    ours(x)[0].backward(upstream)
    _, *gradients = passes(FirstOutput(ours), x, upstream)["both"]()
    assert all(torch.equal(one, p.grad) for one, p in zip(gradients, ours.parameters(), strict=True))
    plain = LSTM(4, 6, norm=None)
    assert saved_bytes(FirstOutput(plain), x) == saved_bytes(FirstOutput(nn.LSTM(4, 6)), x)
