"""The norm that a user's function is given: nothing of it is lost, and what it made is known."""

import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normscope.norms import LayerNorm, RMSNorm
from normscope.placement import NormFactory, norm_at
from normscope.placement.sites import Site
from normscope.specs import NormSpec
from normscope.tasks.custom.sandbox import WatchedNorm, unseen_calls, watch_calls


def drawing(width: int) -> nn.Module:
    random.random()
    np.random.rand()  # noqa: NPY002
    return nn.LayerNorm(width)


def drawn() -> tuple[float, float]:
    return random.random(), float(np.random.rand())  # noqa: NPY002


def test_what_a_norm_draws_is_drawn_again() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    wanted = drawn()
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert isinstance(WatchedNorm(drawing)(4), nn.LayerNorm)
    assert drawn() == wanted


def test_what_was_made_and_not_called_is_known() -> None:
    norm = WatchedNorm(LayerNorm)
    assert norm.unused(set()) == []
    norm(4)
    assert norm.unused({nn.LayerNorm}) == [LayerNorm]
    assert norm.unused({nn.Linear, LayerNorm}) == []


def test_different_norms_at_different_places_are_known_by_site() -> None:
    resolved: NormFactory = NormSpec.parse("layer_norm+rms_norm:final").factory
    norm = WatchedNorm(resolved)
    assert not hasattr(WatchedNorm(drawing), "at")
    places: list[Any] = [
        Site(part="only", layer=1, layers=2, kind="ff"),
        Site(part="only", layer=2, layers=2, kind="final"),
    ]
    made = [type(norm_at(norm, place)(4)) for place in places]
    assert made == [type(norm_at(resolved, place)(4)) for place in places] == [LayerNorm, RMSNorm]
    assert norm.unused({LayerNorm}) == [RMSNorm]


def test_every_call_is_noticed_inside_and_none_outside() -> None:
    model, seen = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), []
    with watch_calls(lambda module, given, made: seen.append((type(module), given[0][0].shape, made.shape))):
        model(torch.ones(3, 2))
    model(torch.ones(3, 2))
    assert seen == [(kind, (3, 2), (3, 2)) for kind in (nn.Linear, nn.ReLU, nn.Sequential)]


def test_what_cannot_be_seen_is_counted() -> None:
    plain, seen = nn.Sequential(nn.Linear(2, 2)), []
    before = unseen_calls(plain)
    plain(torch.ones(1, 2))
    assert unseen_calls(plain) == before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert unseen_calls(nn.Sequential(torch.jit.ScriptModule())) == before + 1
    # Behind eight shapes that other tests compiled it would run as it is.
    torch.compiler.reset()
    with watch_calls(lambda module, given, made: seen.append(type(module))):
        torch.compile(plain, backend="eager")(torch.ones(1, 2))
    assert nn.Linear not in seen
    assert unseen_calls(plain) > before


def test_a_norm_that_fails_is_reported_as_it_is() -> None:
    def none(width: int) -> nn.Module:
        raise RuntimeError("no such width")

    with pytest.raises(RuntimeError, match="no such width"):
        WatchedNorm(none)(4)
