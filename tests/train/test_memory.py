"""Memory: the peak of a process, and the bytes kept for backward, by hand."""

import sys

import pytest
import torch
from torch import nn

from normscope.train.memory import count_saved, peak_bytes, reset_peak

CPU = torch.device("cpu")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can forget an earlier peak")
def test_peak_rises_with_an_allocation_and_forgets() -> None:
    reset_peak(CPU)
    before = peak_bytes(CPU)
    block = torch.ones(32 * 2**20)
    grown = peak_bytes(CPU)
    assert grown - before > 100 * 2**20
    del block
    reset_peak(CPU)
    assert peak_bytes(CPU) < grown - 100 * 2**20


def test_saved_bytes_by_hand() -> None:
    model = nn.Linear(10, 20)
    x = torch.randn(3, 10)
    with count_saved(model) as saved:
        model(x).relu()
    # The input of the linear map and the output of the ReLU, in float32; the weight is a parameter.
    assert saved == [4 * (3 * 10 + 3 * 20)]


def test_counting_changes_no_gradient() -> None:
    model = nn.Linear(10, 20)
    x, g = torch.randn(3, 10), torch.randn(3, 20)
    (want,) = torch.autograd.grad(model(x).tanh(), model.weight, grad_outputs=g)
    with count_saved(model):
        y = model(x).tanh()
    (found,) = torch.autograd.grad(y, model.weight, grad_outputs=g)
    assert torch.equal(found, want)
