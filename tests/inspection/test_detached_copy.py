"""A copy shares nothing with its module, and runs none of its hooks."""

import random
import threading
from collections import deque

import torch
from torch import nn

from normscope.inspection.preserve_state import copy_of
from normscope.norms import ChannelsFirst


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


def test_nothing_that_a_forward_writes_to_is_shared() -> None:
    class Book:
        def __init__(self) -> None:
            self.calls, self.pages = 0, {"first": [0]}

    class Writing(nn.LayerNorm):
        def __init__(self) -> None:
            super().__init__(4)
            self._seen, self.book, self._last, self.tries = [], Book(), torch.zeros(1), deque([[0]])
            self._pair = ([0], self)
            self._count = self.count

        def count(self) -> None:
            self.book.calls += 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self._seen.append(x)
            self._count()
            self.book.pages["first"][0] += 1
            self._last += 1
            self.tries[0].append(1)
            self._pair[0].append(1)
            self._pair[1].book.pages["second"] = [1]
            return super().forward(x)

    module = Writing()
    book, seen, last = module.book, module._seen, module._last
    twin = copy_of(module)
    twin.forward(torch.randn(2, 4, dtype=torch.float64))
    assert (book.calls, book.pages, seen, list(module.tries), module._pair[0]) == (0, {"first": [0]}, [], [[0]], [0])
    assert float(last) == 0
    assert twin.book.calls == 1  # pyright: ignore
    assert module.book is book
    assert module._last is last


def test_its_own_generators_go_on_where_they_were() -> None:
    module = nn.LayerNorm(4)
    module.draws = torch.Generator().manual_seed(3)  # pyright: ignore
    module._others = random.Random(3)  # pyright: ignore
    first, second = module.draws.get_state(), module._others.getstate()
    twin = copy_of(module)
    torch.rand(3, generator=twin.draws)  # pyright: ignore
    twin._others.random()  # pyright: ignore
    assert torch.equal(module.draws.get_state(), first)
    assert module._others.getstate() == second


def test_a_parameter_in_a_list_is_the_copys() -> None:
    module = nn.LayerNorm(4)
    module.listed = [module.weight]  # pyright: ignore
    twin = copy_of(module)
    assert twin.listed[0] is twin.weight  # pyright: ignore


def test_a_model_that_a_norm_holds_is_not_copied_and_what_cannot_be_copied_is_no_hindrance() -> None:
    module, parent = nn.LayerNorm(4), nn.Linear(3, 3)
    module._parent, module.lock = [parent], threading.Lock()  # pyright: ignore
    twin = copy_of(module)
    assert twin._parent[0] is parent  # pyright: ignore
    assert twin.lock is module.lock  # pyright: ignore
