"""Tensors are found wherever a model may return them."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normscope.surgery.to_rms_norm.same_function import tensors_in


@dataclass
class Scores:
    logits: Tensor
    more: object = None


class Slotted:
    __slots__ = ("missing", "state")

    def __init__(self, state: Tensor) -> None:
        self.state = state


def test_places() -> None:
    a, b, c, d, e = (torch.randn(n + 1) for n in range(5))
    pair = namedtuple("pair", "left right")(c, torch.arange(3))
    given = OrderedDict(scores=Scores(a, {"inner": [b, pair]}), slotted=Slotted(d), again=a, half=e.half(), words="a")
    found = tensors_in(given)
    assert list(found) == ["scores.logits", "scores.more.inner.0", "scores.more.inner.1.0", "slotted.state", "half"]
    assert found["scores.more.inner.1.0"] is c
    assert tensors_in(a) == {"": a}
    assert set(tensors_in(torch.distributions.Normal(a, a.exp()))) == {"loc", "scale"}
    assert tensors_in(torch.ones(2, dtype=torch.complex64))[""].is_complex()


def test_nothing_to_find() -> None:
    ring: list[object] = [torch.arange(3), "words", None, nn.Linear(2, 2), Tensor]
    ring.append(ring)
    assert tensors_in(ring) == {}
