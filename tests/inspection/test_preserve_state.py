"""What is lent comes back to the bit, whatever happens to it."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from normscope.inspection.preserve_state import draw_seed, gradients_of, untouched


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


def buffered(mask: torch.Tensor) -> nn.Module:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", mask)
            self.linear, self.norm = nn.Linear(16, 16), nn.BatchNorm1d(16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.linear(x) * self.mask)

    return Masked()


def inference_mask() -> torch.Tensor:
    with torch.inference_mode():
        return torch.ones(16)


@pytest.mark.parametrize("mask", [torch.ones(1).expand(16), inference_mask()], ids=["expanded", "inference"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_buffer_that_cannot_be_written_comes_back_with_all_else(mask: torch.Tensor, fails: bool) -> None:
    model = buffered(mask)
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    error = None
    try:
        with untouched(model):
            model(torch.randn(4, 16)).square().mean().backward()
            model.eval()
            random.random()
            np.random.rand()  # noqa: NPY002
            if fails:
                raise KeyError("the caller's")
    except KeyError as caught:
        error = caught
    assert (error is not None) == fails
    assert model.mask is mask
    assert all(torch.equal(values[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert states[0] == random.getstate()
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002


class Restless(nn.Module):
    """Does to itself in a forward what people do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.frozen = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("cache", None)
        self.register_buffer("seen", torch.zeros(2))
        self.late: nn.Module | None = None
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.linear.weight.copy_(nn.functional.normalize(self.linear.weight, dim=-1))
        self.linear.bias.data.add_(1)
        self.cache = x.detach()
        self.seen.resize_(5).fill_(1)
        self.register_buffer("new", torch.ones(3), persistent=False)
        self.frozen.requires_grad_(True)
        if self.late is None:
            self.late = nn.Linear(4, 4)
        self.calls += 1
        return self.late(self.frozen(self.linear(x)))


def test_what_a_forward_does_in_place_is_taken_back() -> None:
    model = Restless()
    first = next(iter(model.parameters()))
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with untouched(model):
        model(torch.randn(3, 4)).sum().backward()
        assert not torch.equal(values["linear.weight"], model.linear.weight)
    assert next(iter(model.parameters())) is first
    assert list(values) == list(model.state_dict())
    assert all(torch.equal(values[name], tensor) for name, tensor in model.state_dict().items())
    assert (model.cache, model.late, model.calls) == (None, None, 0)
    assert not hasattr(model, "new")
    assert model._non_persistent_buffers_set == set()
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, False]
    # It can still do it all for itself.
    model(torch.randn(3, 4))
    assert model.calls == 1


def test_a_tensor_in_two_places_is_one_inside_and_outside() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    model[1].running_mean = model[0].running_mean
    with untouched(model):
        assert model[1].running_mean is model[0].running_mean
        model(torch.randn(5, 3))
    assert model[1].running_mean is model[0].running_mean
    assert torch.equal(model[0].running_mean, torch.zeros(3))


def test_gradients_leave_no_trace_and_tell_what_has_none() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "left": nn.Linear(3, 2), "frozen": nn.Linear(3, 3)})
    model["frozen"].requires_grad_(False)
    x = torch.randn(4, 3)
    told = gradients_of(model["used"](model["frozen"](x)).square().mean(), model)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert {*told} == {id(p) for name in ("used", "left") for p in model[name].parameters()}
    assert all(told[id(p)] is None for p in model["left"].parameters())
    model["used"](model["frozen"](x)).square().mean().backward()
    assert all(torch.equal(told[id(p)], p.grad) for p in model["used"].parameters())  # pyright: ignore
