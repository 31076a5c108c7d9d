"""The checks of a trial can fail: each is given something that is wrong in one respect."""

import pytest
import torch
from torch import nn

import normscope
from strangers import trial
from strangers.libraries import Call, Subject
from strangers.snapshot import differences, snapshot
from strangers.tiny import BATCH, Plain


@pytest.fixture
def own() -> trial.Own:
    return trial.Own(Subject(how="plain", build=Plain, call=Call(BATCH)), "eager")


def test_undo_that_leaves_something_behind_is_seen(own: trial.Own) -> None:
    class Undone:
        def __init__(self, change: object) -> None:
            self.undo = change

    model = own.fresh()
    before = snapshot(model)
    trial.undoes(own, model, Undone(lambda: None), before)
    with pytest.raises(trial.CheckFailed, match=r"undo leaves 1 changed: \['first.bias: parameter'\]"):
        trial.undoes(own, model, Undone(lambda: model.first.bias.data.add_(1e-7)), before)
    with pytest.raises(trial.CheckFailed, match=r"undo leaves \d+ changed: .*more: module"):
        trial.undoes(own, model, Undone(lambda: setattr(model, "more", nn.Identity())), before)
    model = own.fresh()
    model.last.register_forward_hook(lambda *given: given[2] + 1)
    with pytest.raises(trial.CheckFailed, match="outputs after undo are not the same: apart by"):
        trial.undoes(own, model, Undone(lambda: None), snapshot(model))


def test_a_refusal_that_changes_something_is_seen(own: trial.Own) -> None:
    model = own.fresh()
    with pytest.raises(ValueError, match="no"), trial.unchanged_where_refused(model, "swap"):
        raise ValueError("no")
    with pytest.raises(trial.CheckFailed, match=r"swap refused and changed 1: \['the model: training'\]"):
        changes_and_refuses(model)


def changes_and_refuses(model: nn.Module) -> None:
    with trial.unchanged_where_refused(model, "swap"):
        model.training = True
        raise ValueError("no")


def test_training_that_changes_nothing_or_starves_a_parameter_is_seen(own: trial.Own) -> None:
    own.train()
    starved = own.fresh()
    starved.norm.register_forward_hook(lambda module, given, output: output.detach())
    with pytest.raises(trial.CheckFailed, match="parameters without gradient, which had one before"):
        trial.trains(own, starved)
    still = own.fresh()
    still.last.register_forward_hook(lambda module, given, output: output * 0)
    with pytest.raises(trial.NotOurs, match=r"the loss stays .* and every norm of ours gives nonzero values"):
        trial.trains(own, still)
    silent = own.fresh()
    normscope.swap(silent, "layer_norm", "rms_norm")
    silent.norm.register_forward_hook(lambda module, given, output: output * 0)
    silent.last.requires_grad_(False)
    with pytest.raises(trial.CheckFailed, match="RMSNorm makes a nonzero input not nonzero") as failed:
        trial.trains(own, silent)
    assert not isinstance(failed.value, trial.NotOurs)


def test_a_compiler_that_computes_something_else_is_seen(own: trial.Own) -> None:
    own.compile()
    own.backend = lambda graph, inputs: lambda *given: [output * 1.01 for output in graph(*given)]  # type: ignore
    with pytest.raises(trial.CheckFailed, match="compiled outputs are"):
        own.compile()


def test_a_state_that_does_not_bring_everything_is_seen(own: trial.Own) -> None:
    model = own.fresh()
    normscope.swap(model, "layer_norm", "dyt")
    own.save()
    trial.saves(own, model, lambda other: normscope.swap(other, "layer_norm", "dyt"))
    model.last.register_forward_hook(lambda module, given, output: output + 1)
    with pytest.raises(trial.CheckFailed, match="outputs after save and load"):
        trial.saves(own, model, lambda other: normscope.swap(other, "layer_norm", "dyt"))


def test_a_norm_that_makes_finite_values_infinite_is_ours_and_a_network_that_does_is_not(own: trial.Own) -> None:
    wrong = own.fresh()
    normscope.swap(wrong, "layer_norm", "dyt")
    wrong.norm.alpha.data.fill_(float("nan"))
    with pytest.raises(trial.CheckFailed, match="DyT makes a finite input not finite") as failed:
        trial.trains(own, wrong)
    assert not isinstance(failed.value, trial.NotOurs)
    model = own.fresh()
    model.last.register_forward_hook(lambda module, given, output: output / 0)
    with pytest.raises(trial.NotOurs, match="every norm of ours gives finite values"):
        trial.swaps(own, model, ["layer_norm"], "dyt")
    with pytest.raises(trial.NotOurs, match="loss inf, norm of the gradient nan, and every norm of ours"):
        trial.trains(own, model)


def test_a_norm_whose_gradient_is_not_finite_is_ours(own: trial.Own) -> None:
    class WrongGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient / 0

    model = own.fresh()
    normscope.swap(model, "layer_norm", "rms_norm")
    model.norm.forward = lambda x: WrongGradient.apply(x)
    with pytest.raises(trial.CheckFailed, match="RMSNorm makes a finite gradient not finite"):
        trial.trains(own, model)


def test_a_snapshot_names_what_has_changed() -> None:
    model = Plain()
    before = snapshot(model)
    assert differences(before, snapshot(model)) == []
    model.norm.register_forward_hook(lambda *_: None)
    model.last.weight.grad = torch.ones(3, 8)
    model.first.eval()
    torch.rand(1)
    changed = differences(before, snapshot(model))
    assert "norm: _forward_hooks" in changed
    assert {"last.weight: parameter", "first: training", "the random state of torch"} <= set(changed)


def test_an_error_of_ours_in_a_sentence_is_a_refusal_and_another_is_a_failure(own: trial.Own) -> None:
    cells: list[dict] = []
    assert not trial.cell(cells.append, "rms_norm/swap", lambda: trial.swaps(own, own.fresh(), ["rms_norm"], "dyt"))
    assert cells[-1]["status"] == "refused"
    assert not trial.cell(cells.append, "rms_norm/swap", lambda: {}["nothing"])
    assert (cells[-1]["status"], cells[-1]["error"]) == ("failed", "KeyError: 'nothing'")
    assert not trial.cell(cells.append, "dyt/compile", lambda: 1 / 0, own=lambda: 1 / 0)
    assert cells[-1]["status"] == "theirs"
    assert not trial.cell(cells.append, "dyt/compile", lambda: 1 / 0, own=lambda: None)
    assert cells[-1]["status"] == "failed"
