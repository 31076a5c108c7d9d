"""An optimizer goes on with what stays, forgets what goes and learns what comes."""

import pytest
import torch
from torch import nn

from normscope.swapping import norm_parameter_groups, swap


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 1))


def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    network(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()


def snapshot(optimizer: torch.optim.Optimizer) -> tuple:
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    state = {id(p): {k: v.clone() for k, v in entry.items()} for p, entry in optimizer.state.items()}
    return groups, state


def test_gains_keep_their_state_and_new_parameters_learn() -> None:
    network = model()
    optimizer = torch.optim.AdamW(norm_parameter_groups(network, 0.1), lr=0.1)
    step(network, optimizer)
    gain = network[1].weight
    moment = optimizer.state[gain]["exp_avg"].clone()
    swap(network, "layer_norm", "dyt", optimizer=optimizer)
    assert network[1].weight is gain
    assert torch.equal(optimizer.state[gain]["exp_avg"], moment)
    owned = [{id(p) for p in group["params"]} for group in optimizer.param_groups]
    assert set().union(*owned) == {id(p) for p in network.parameters()}
    # The slope joined the group of its norm, which does not decay.
    assert id(network[1].alpha) in owned[1]
    before = network[1].alpha.item()
    step(network, optimizer)
    assert network[1].alpha.item() != before


def test_what_goes_is_forgotten_and_undo_brings_it_back() -> None:
    network = model()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    step(network, optimizer)
    before = snapshot(optimizer)
    bias = network[1].bias
    report = swap(network, "layer_norm", "ada_norm", optimizer=optimizer)
    assert bias not in optimizer.state
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6
    report.undo()
    groups, state = snapshot(optimizer)
    assert groups == before[0]
    assert state.keys() == before[1].keys()
    for identity, entry in before[1].items():
        torch.testing.assert_close(state[identity], entry, rtol=0, atol=0)


def test_named_parameters() -> None:
    network = model()
    optimizer = torch.optim.SGD(network.named_parameters(), lr=0.1)
    report = swap(network, "layer_norm", "dyt", optimizer=optimizer)
    (group,) = optimizer.param_groups
    known = dict(network.named_parameters())
    assert {name: id(p) for name, p in zip(group["param_names"], group["params"], strict=True)} == {
        name: id(p) for name, p in known.items()
    }
    assert "1.alpha" in known
    report.undo()
    assert group["param_names"] == [name for name, _ in network.named_parameters()]


def test_a_tied_bias_that_the_rest_still_has_stays() -> None:
    network = model()
    network[3].bias = network[1].bias
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    swap(network, "layer_norm", "rms_norm", optimizer=optimizer, where="1")
    assert any(p is network[3].bias for p in optimizer.param_groups[0]["params"])


def test_frozen_norms_stay_outside() -> None:
    network = model()
    network[1].requires_grad_(False)
    network[3].requires_grad_(False)
    groups = [{"params": network[0].parameters()}, {"params": network[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    before = snapshot(optimizer)
    swap(network, "layer_norm", "dyt", optimizer=optimizer)
    assert snapshot(optimizer) == before


def test_no_telling_where_new_parameters_belong() -> None:
    network = model()
    groups = [{"params": network[0].parameters()}, {"params": network[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="the optimizer has 2 groups and none holds a parameter of the swapped norms"):
        swap(network, "layer_norm", "dyt", optimizer=optimizer)
    assert snapshot(optimizer) == before
    assert isinstance(network[1], nn.LayerNorm)
