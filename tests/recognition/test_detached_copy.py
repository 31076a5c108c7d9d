"""A copy shares nothing with its module, and runs none of its hooks."""

import torch
from torch import nn

from normscope.recognition.detached_copy import copy_of
from normscope.swapping.channels_first import ChannelsFirst


def test_copy_is_apart() -> None:
    module = nn.BatchNorm1d(4)
    twin = copy_of(module)
    twin.train().forward(torch.randn(8, 4, dtype=torch.float64))
    assert torch.equal(module.state_dict()["running_mean"], torch.zeros(4))
    assert not torch.equal(twin.state_dict()["running_mean"], torch.zeros(4, dtype=torch.float64))
    assert twin.state_dict()["weight"].dtype == torch.float64


def test_hooks_stay_behind_also_those_of_children() -> None:
    module, runs = ChannelsFirst(nn.LayerNorm(4)), []
    handle = module.norm.register_forward_hook(lambda *_: runs.append(1))
    copy_of(module).forward(torch.randn(2, 4, 3, dtype=torch.float64))
    assert not runs
    module(torch.randn(2, 4, 3))
    assert runs == [1]
    handle.remove()


def test_other_numbers_on_request_and_on_the_meta_device() -> None:
    module = nn.LayerNorm(4)
    drawn = copy_of(module, generator=torch.Generator().manual_seed(3)).state_dict()["weight"]
    assert ((drawn > 0.5) & (drawn < 1.5)).all()
    assert torch.equal(module.weight, torch.ones(4))
    assert copy_of(module.to("meta")).state_dict()["weight"].device.type == "cpu"


def test_lists_that_a_forward_adds_to_stay_as_they_were() -> None:
    class Counting(nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(len(x))
            return super().forward(x)

    module = Counting(4)
    module.seen = []  # pyright: ignore
    copy_of(module).forward(torch.randn(2, 4, dtype=torch.float64))
    assert module.seen == []
