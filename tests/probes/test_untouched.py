"""What is lent comes back to the bit, whatever happens to it."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from normscope.probes.untouched import draw_seed, untouched


def made() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    model[1].eval()
    model(torch.randn(5, 4)).backward(torch.randn(5, 2))
    return model


def abuse(model: nn.Module) -> None:
    model.train()
    model(torch.randn(5, 4)).square().sum().backward()
    for parameter in model.parameters():
        parameter.data = parameter.data + 1
    model[1].running_mean = torch.ones(6)
    random.random()
    np.random.rand()  # noqa: NPY002


@pytest.mark.parametrize("fails", [False, True])
def test_everything_comes_back(fails: bool) -> None:
    model = made()
    storages = [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [(p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None]
    modes = [module.training for module in model.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    try:
        with untouched(model):
            abuse(model)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert storages == [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
    assert all(torch.equal(values[name], tensor) for name, tensor in model.state_dict().items())
    for parameter, (gradient, value) in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient, value)
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_two_blocks_in_a_row_drop_the_same() -> None:
    model = made()
    with untouched(model):
        first = torch.rand(3)
    with untouched(model):
        assert torch.equal(first, torch.rand(3))
    with untouched(model, seed=3):
        third = torch.rand(3)
    assert torch.equal(third, torch.rand(3, generator=torch.Generator().manual_seed(3)))


def test_a_seed_is_drawn_from_the_generator() -> None:
    assert draw_seed(None) is None
    seeds = [draw_seed(torch.Generator().manual_seed(5)) for _ in range(2)]
    assert seeds[0] == seeds[1] is not None


def test_the_fast_path_of_torch_is_off_inside_and_back_outside() -> None:
    with untouched(nn.Linear(2, 2)):
        assert not torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mha.get_fastpath_enabled()
