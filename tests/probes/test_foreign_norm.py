"""Strangers' norms, written as they are found in the field, are told by what they compute."""

import copy

import pytest
import torch
from torch import Tensor, nn

from normscope.probes.foreign_norm import observe, worth_a_look


class OnePlusNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(12))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * (1 + self.weight)


class AnnotatedNorm(nn.Module):
    """The unbiased deviation, and eps added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.a_2, self.b_2 = nn.Parameter(torch.ones(12)), nn.Parameter(torch.zeros(12))
        self.eps = 1e-3

    def forward(self, x: Tensor) -> Tensor:
        return self.a_2 * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + self.eps) + self.b_2


class ChannelsNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(12)), nn.Parameter(torch.zeros(12))
        self.eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        y = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + self.eps).sqrt()
        return self.weight[:, None, None] * y + self.bias[:, None, None]


@pytest.mark.parametrize(
    ("made", "want"),
    [
        (OnePlusNorm, ("rms_norm", 1e-6, "variance", True, False, False)),
        (AnnotatedNorm, ("layer_norm", 1e-3, "deviation", False, True, False)),
        (ChannelsNorm, ("layer_norm", 1e-5, "variance", False, False, True)),
    ],
)
def test_facts(made: type[nn.Module], want: tuple[object, ...]) -> None:
    module = made()
    facts = observe(module)
    assert not isinstance(facts, str)
    told = (facts.kind, facts.eps, facts.eps_place, facts.unit_offset, facts.unbiased, facts.channels_first)
    assert told == want


def test_gain_and_bias_are_told_apart_by_what_they_do() -> None:
    facts = observe(AnnotatedNorm())
    assert not isinstance(facts, str)
    assert (facts.gain, facts.bias) == ("a_2", "b_2")


def test_the_module_is_not_run_and_not_changed() -> None:
    module = OnePlusNorm()
    ran: list[int] = []
    module.register_forward_hook(lambda *_: ran.append(1))
    before = copy.deepcopy(module.state_dict())
    observe(module)
    assert ran == []
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_who_is_worth_a_look() -> None:
    assert worth_a_look(OnePlusNorm())
    assert not worth_a_look(nn.Linear(3, 3))
    assert not worth_a_look(nn.LocalResponseNorm(2))
    assert not worth_a_look(nn.Sequential(OnePlusNorm()))
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    assert not any(worth_a_look(module) for module in parametrized.modules())
