"""Memory: the peak of an accelerator, and the bytes kept for backward, by hand."""

import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from normscope.training.memory import count_saved, peak_bytes, reset_peak, watch_update


def test_a_processor_has_no_peak_to_tell() -> None:
    reset_peak(torch.device("cpu"))
    assert peak_bytes(torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_rises_with_an_allocation_and_forgets() -> None:
    device = torch.device("cuda")
    reset_peak(device)
    before = peak_bytes(device)
    block = torch.ones(32 * 2**20, device=device)
    grown = peak_bytes(device)
    assert before is not None
    assert grown is not None
    assert grown - before >= 128 * 2**20
    del block
    reset_peak(device)
    assert peak_bytes(device) == before


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


def test_the_peak_of_an_update_by_hand() -> None:
    model = nn.Linear(256, 256, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(1024, 256)

    def update() -> None:
        y = model(x)
        loss = y.square().sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    update()
    with watch_update(model, optimizer) as peak:
        update()
    weight, rows = 4 * 256 * 256, 4 * 1024 * 256
    # Weight and momentum stand; y, its square, its gradient and a factor of it, and the weight's gradient come and go.
    assert 2 * weight + 2 * rows <= peak[0] <= 3 * weight + 4 * rows + 4096


def test_watching_an_update_changes_no_number() -> None:
    def train(watched: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model, x = nn.Linear(8, 8), torch.randn(4, 8)
        optimizer = torch.optim.Adam(model.parameters())
        for step in range(3):
            with watch_update(model, optimizer) if watched and step == 1 else nullcontext():
                optimizer.zero_grad()
                nn.functional.dropout(model(x), 0.5).square().sum().backward()
                optimizer.step()
        return model.weight.detach()

    assert torch.equal(train(True), train(False))


@pytest.mark.slow
def test_watching_an_update_says_nothing() -> None:
    # A process of its own: torch reads the level of its profiler's messages once.
    program = """
import torch
from normscope.training.memory import watch_update
model = torch.nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters())
with watch_update(model, optimizer) as peak:
    model(torch.ones(4, 8)).square().sum().backward()
print(peak[0] > 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
