"""Hooks belong to the place, before a swap, after it, and after it is undone."""

import pytest
import torch
from torch import nn

from normscope.surgery import swap
from normscope.surgery.guards import copy_hook_direction, share_hooks


@pytest.mark.parametrize("had", [False, True])
def test_a_hook_that_comes_later_stays_and_its_handle_holds(had: bool) -> None:
    model, runs = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), []
    if had:
        model[1].register_forward_hook(lambda *given: runs.append("first"))
    report = swap(model, "layer_norm", "rms_norm")
    later = model[1].register_forward_hook(lambda *given: runs.append("later"))
    report.undo()
    model(torch.randn(2, 4))
    assert runs == [*(["first"] if had else []), "later"]
    later.remove()
    runs.clear()
    model(torch.randn(2, 4))
    assert runs == (["first"] if had else [])


def test_a_backward_hook_that_comes_later_is_still_a_full_one() -> None:
    model, seen = nn.Sequential(nn.LayerNorm(4)), []
    report = swap(model, "layer_norm", "rms_norm")
    model[0].register_full_backward_hook(lambda module, gin, gout: seen.append((type(module), gout[0].clone())))
    report.undo()
    x, upstream = torch.randn(2, 4, requires_grad=True), torch.randn(2, 4)
    model(x).backward(upstream)
    ((kind, given),) = seen
    assert kind is nn.LayerNorm
    assert torch.equal(given, upstream)


def test_hooks_that_the_new_one_brings_are_its_own() -> None:
    old, new, runs = nn.LayerNorm(4), nn.RMSNorm(4), []
    new.register_forward_hook(lambda *given: runs.append("own"))
    assert share_hooks(old, new) == ([], [])
    new(torch.randn(2, 4))
    assert runs == ["own"]
    old.register_forward_hook(lambda *given: runs.append("old"))
    assert share_hooks(old, new) == ([], ["1 of _forward_hooks, for the new module brings its own"])


def test_the_direction_follows_only_what_is_shared() -> None:
    one, two = nn.LayerNorm(4), nn.LayerNorm(4)
    one.register_full_backward_hook(lambda *given: None)
    copy_hook_direction(one, two)
    assert two._is_full_backward_hook is None
    share_hooks(one, two)
    assert two._is_full_backward_hook is True
