"""An optimizer goes on with what stays, forgets what goes and learns what comes."""

import pytest
import torch
from torch import nn

from normscope.surgery import swap
from normscope.surgery.weight_decay import norm_parameter_groups


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
    with pytest.raises(
        ValueError, match="the optimizer has 2 groups and none holds a parameter of the swapped modules"
    ):
        swap(network, "layer_norm", "dyt", optimizer=optimizer)
    assert snapshot(optimizer) == before
    assert isinstance(network[1], nn.LayerNorm)


def trained_by(optimizer: torch.optim.Optimizer) -> list[int]:
    return sorted(id(p) for group in optimizer.param_groups for p in group["params"])


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("to", ["dyt", "ada_norm", "rms_norm"])
def test_two_swaps_are_undone_in_any_order(first: int, to: str) -> None:
    network = model()
    optimizer = torch.optim.AdamW(network.named_parameters(), lr=0.1)
    step(network, optimizer)
    before, order = trained_by(optimizer), [id(p) for p in optimizer.param_groups[0]["params"]]
    reports = [swap(network, "layer_norm", to, where=where, optimizer=optimizer) for where in ("1", "3")]
    step(network, optimizer)
    reports.pop(first).undo()
    assert trained_by(optimizer) == sorted(id(p) for p in network.parameters())
    values = {name: p.detach().clone() for name, p in network.named_parameters()}
    step(network, optimizer)
    assert all(not torch.equal(p, values[name]) for name, p in network.named_parameters())
    reports.pop().undo()
    (group,) = optimizer.param_groups
    assert trained_by(optimizer) == before
    assert set(optimizer.state) == set(network.parameters())
    assert dict(zip(group["param_names"], group["params"], strict=True)) == dict(network.named_parameters())
    # What was there before is in its old order.
    assert [id(p) for p in group["params"]] == order


def test_a_tied_bias_comes_back_with_the_first_undo_and_goes_never() -> None:
    network = model()
    network[3].bias = network[1].bias
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    first, second = (swap(network, "layer_norm", "rms_norm", where=place, optimizer=optimizer) for place in ("1", "3"))
    assert id(network[0].weight) in trained_by(optimizer)
    for report in (first, second):
        report.undo()
        assert trained_by(optimizer) == sorted(id(p) for p in network.parameters())


def test_undo_brings_the_state_of_what_was_kept_back_with_its_value() -> None:
    network = model()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    step(network, optimizer)
    norms = [*network[1].parameters(), *network[3].parameters()]
    before = [{key: value.clone() for key, value in optimizer.state[p].items()} for p in norms]
    report = swap(network, "layer_norm", "rms_norm", optimizer=optimizer)
    for _ in range(3):
        step(network, optimizer)
    rest = optimizer.state[network[0].weight]["step"].item()
    report.undo()
    for parameter, state in zip(norms, before, strict=True):
        torch.testing.assert_close(dict(optimizer.state[parameter]), state, rtol=0, atol=0)
    assert optimizer.state[network[0].weight]["step"].item() == rest == 4


def test_state_that_came_after_the_swap_goes_with_its_value() -> None:
    network = model()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    report = swap(network, "layer_norm", "layer_norm", optimizer=optimizer)
    step(network, optimizer)
    report.undo()
    assert set(optimizer.state) == {p for place in (0, 2, 4) for p in network[place].parameters()}


def test_undo_of_an_optimizer_that_was_loaded_meanwhile() -> None:
    network = model()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    step(network, optimizer)
    report = swap(network, "layer_norm", "ada_norm", optimizer=optimizer)
    step(network, optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    report.undo()
    assert trained_by(optimizer) == sorted(id(p) for p in network.parameters())
    step(network, optimizer)


def test_names_of_both_kinds_follow() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(norm_parameter_groups(network, 0.1), lr=0.1)
    report = swap(network, "batch_norm", "dyt", optimizer=optimizer)
    assert optimizer.param_groups[1]["names"] == ["0.bias", "1.norm.weight", "1.norm.bias", "1.norm.alpha"]
    report.undo()
    assert optimizer.param_groups[1]["names"] == ["0.bias", "1.weight", "1.bias"]


@pytest.mark.parametrize(
    ("give", "error", "words"),
    [
        (lambda of: [], TypeError, r"must be a torch.optim.Optimizer or None, got \[\]"),
        (
            lambda of: torch.optim.SGD,
            TypeError,
            "must be a torch.optim.Optimizer or None, got the class SGD: build it",
        ),
        (lambda of: torch.optim.SGD(model().parameters()), ValueError, "holds no parameter of this model"),
        (lambda of: torch.optim.LBFGS(of.parameters()), ValueError, "LBFGS keeps one history for all parameters"),
    ],
)
def test_no_optimizer_of_this_model(give, error: type[Exception], words: str) -> None:
    network = model()
    with pytest.raises(error, match=words):
        swap(network, "layer_norm", "rms_norm", optimizer=give(network))
    assert type(network[1]) is nn.LayerNorm


def test_a_group_that_is_gone() -> None:
    network = model()
    optimizer = torch.optim.SGD(norm_parameter_groups(network, 0.1), lr=0.1)
    report = swap(network, "layer_norm", "ada_norm", optimizer=optimizer)
    del optimizer.param_groups[1]
    with pytest.raises(RuntimeError, match="the optimizer has 1 groups and had 2 when this was swapped"):
        report.undo()
    assert type(network[1]) is not nn.LayerNorm
