"""A diagnosis leaves the model bit-identical, rejects unsupported arguments, and is fast on a large model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import normscope
from normscope.diagnostics import Diagnosis, diagnose
from normscope.placement import PLACEMENTS
from support.planted import CASES, Convolutions, images, text, which_digit


def snapshot(model: nn.Module) -> list[object]:
    tensors = [tensor.clone() for tensor in (*model.parameters(), *model.buffers())]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    return [tensors, [module.training for module in model.modules()], hooks]


@pytest.mark.parametrize("cause", CASES)
def test_the_model_is_as_it_was(cause: str) -> None:
    case = CASES[cause][0](0)
    before, state = snapshot(case.model), torch.get_rng_state()
    sentinel = torch.ones(())
    first = next(case.model.parameters())
    first.grad = torch.full_like(first, 3.0)
    kept = first.grad
    diagnose(case.model, case.batch, case.loss, **{"learning_rate": 0.1, **case.settings})
    after = snapshot(case.model)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))  # pyright: ignore
    assert before[1:] == after[1:]
    assert torch.equal(state, torch.get_rng_state())
    assert first.grad is kept
    assert torch.equal(kept, sentinel * torch.full_like(first, 3.0))
    assert all(p.grad is None for p in list(case.model.parameters())[1:])


def test_the_model_is_as_it_was_when_the_loss_fails() -> None:
    model = Convolutions(8)
    before = snapshot(model)

    def loss(model: nn.Module, batch: object) -> torch.Tensor:
        which_digit(model, batch)  # pyright: ignore
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        diagnose(model, images(0), loss)
    after = snapshot(model)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))  # pyright: ignore
    assert before[1:] == after[1:]


def test_it_is_the_same_twice() -> None:
    case = CASES["double_norm"][0](0)
    told = [
        diagnose(case.model, case.batch, case.loss, learning_rate=1e-3, generator=torch.Generator().manual_seed(4))
        for _ in range(2)
    ]
    first, second = ({**one.to_json(), "cost": None} for one in told)
    assert first == second


def test_json_is_plain_and_finite() -> None:
    case = CASES["unscaled_residual"][0](0)
    told = diagnose(case.model, case.batch, case.loss, learning_rate=1e-3, warmup=10)
    assert isinstance(told, Diagnosis)
    content = json.loads(json.dumps(told.to_json(), allow_nan=False))
    assert set(content["findings"][0]) == {"name", "title", "where", "evidence", "remedy"}
    assert content["findings"][0]["name"] == "unscaled_residual"
    assert content["parameters"] == sum(p.numel() for p in case.model.parameters())
    assert content["first_update"]["learning_rate"] == 1e-4
    assert content["cost"]["forward_passes"] == 2


def test_a_loss_that_is_not_finite_is_a_diagnosis_still() -> None:
    case = text(0, "pre")
    with torch.no_grad():
        case.model.get_parameter("head.weight").fill_(float("nan"))
    told = diagnose(case.model, case.batch, case.loss, learning_rate=1e-3)
    assert told.first_update is None
    assert told.to_json()["loss"] is None


def test_a_model_without_norms_or_layers() -> None:
    told = diagnose(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), images(0), which_digit, learning_rate=1e-3, warmup=0
    )
    assert told.findings == ()
    assert told.gradients == ()
    assert told.stacks == ()
    assert "No stack" in told.readings["depth"]


def test_the_rate_and_the_rule_come_from_the_optimizer() -> None:
    case = text(0, "pre")
    adam = diagnose(case.model, case.batch, case.loss, optimizer=torch.optim.AdamW(case.model.parameters(), lr=2e-3))
    sgd = diagnose(case.model, case.batch, case.loss, optimizer=torch.optim.SGD(case.model.parameters(), lr=2e-3))
    other = torch.optim.Adafactor(case.model.parameters())
    assert adam.first_update is not None
    assert sgd.first_update is not None
    assert adam.learning_rate == sgd.learning_rate == 2e-3
    assert adam.first_update["output_change"] > 5 * sgd.first_update["output_change"]
    assert diagnose(case.model, case.batch, case.loss, optimizer=other).first_update is None


@pytest.mark.parametrize(
    ("loss", "error", "words"),
    [
        (lambda m, b: 1.0, TypeError, "the loss must be a tensor, got float"),
        (lambda m, b: m(b[0]), ValueError, r"a scalar with a gradient, got one of shape \[32, 10\]"),
        (lambda m, b: m(b[0]).sum().detach(), ValueError, "a scalar with a gradient, got one without a gradient"),
    ],
)
def test_an_invalid_loss_is_refused(loss, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        diagnose(Convolutions(4), images(0), loss)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"learning_rate": -1.0}, "must be positive and finite, got -1"),
        ({"learning_rate": float("inf")}, "must be positive and finite, got inf"),
        ({"warmup": -5}, "0 steps or more, got -5"),
        ({"precision": "float8"}, "one of 'float16', 'bfloat16', 'float32', 'float64' or None, got 'float8'"),
    ],
)
def test_invalid_settings_are_refused(told: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        diagnose(Convolutions(4), images(0), which_digit, **told)  # pyright: ignore


def test_a_frozen_model_is_refused() -> None:
    with pytest.raises(ValueError, match="Convolutions has no trainable parameter"):
        diagnose(Convolutions(4).requires_grad_(False), images(0), which_digit)


class Recomputing(nn.Module):
    """Pre-LN perceptrons with or without recomputation of activations in the backward pass."""

    def __init__(self, *, recompute: bool, reentrant: bool = False) -> None:
        super().__init__()
        width = 16
        branches = [("feed_forward", nn.Sequential(nn.Linear(width, width), nn.ReLU())) for _ in range(4)]
        self.blocks = PLACEMENTS["pre"].stack(branches, width, nn.LayerNorm).blocks  # pyright: ignore
        self.recompute, self.reentrant = recompute, reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant) if self.recompute else block(x)  # pyright: ignore
        return x


def test_activations_that_are_recomputed_are_measured_once() -> None:
    plain = Recomputing(recompute=False)
    again = Recomputing(recompute=True)
    again.load_state_dict(plain.state_dict())
    x = torch.randn(8, 16, requires_grad=True)
    told = [diagnose(model, x, lambda m, b: m(b).square().mean()).to_json() for model in (plain, again)]
    for key in ("gradients", "stacks", "ranges", "findings"):
        assert told[0][key] == told[1][key], key
    assert [finding["name"] for finding in told[1]["findings"]] == ["missing_final_norm"]


def test_reentrant_recomputation_is_refused() -> None:
    model = Recomputing(recompute=True, reentrant=True)
    with pytest.raises(ValueError, match="must do so with use_reentrant=False"):
        diagnose(model, torch.randn(8, 16, requires_grad=True), lambda m, b: m(b).square().mean())
    deeper = nn.Sequential(nn.Linear(4, 16), model)
    with pytest.raises(RuntimeError, match="use_reentrant=True"):
        diagnose(deeper, torch.randn(8, 4), lambda m, b: m(b).square().mean())


def test_a_loss_of_another_model_is_refused() -> None:
    other = nn.Linear(3, 1)
    with pytest.raises(ValueError, match="the loss depends on no parameter of Linear: it must call the model"):
        diagnose(nn.Linear(3, 1), torch.randn(2, 3), lambda m, b: other(b).mean())


def test_under_autocast_norms_see_what_they_see() -> None:
    case = text(0, "post")

    def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return case.loss(model, batch)

    told = diagnose(case.model, case.batch, loss)
    assert told.stacks[0].placement == "post"
    assert all(each.law_error is not None and each.law_error < 1e-2 for each in told.gradients)


def test_a_lazy_model_is_refused() -> None:
    with pytest.raises(ValueError, match="lazy parameters or buffers: run a batch through it first"):
        diagnose(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), images(0), which_digit)


def test_the_summary_names_the_cause() -> None:
    case = CASES["batch_norm_in_eval"][0](0)
    words = normscope.diagnose(case.model, case.batch, case.loss).summary()
    assert words.startswith(
        "Batch norms use moments of other data (batch_norm_in_eval), at body.0.1, body.1.1, body.2.1: 3 batch norms"
    )
    healthy = CASES["batch_norm_in_eval"][1](0)
    assert normscope.diagnose(healthy.model, healthy.batch, healthy.loss).summary().startswith("No known cause")


@pytest.mark.slow
def test_a_model_of_gpt2_s_size() -> None:
    """In separate processes: under a minute, and under twice the memory of a training step with AdamW."""
    script = Path(__file__).parents[1] / "support" / "gpt2_size.py"
    told = {
        what: json.loads(
            subprocess.run([sys.executable, script, what], capture_output=True, text=True, check=True).stdout
        )
        for what in ("step", "diagnose")
    }
    assert told["diagnose"]["layers"] == 12
    assert told["diagnose"]["findings"] == []
    assert told["diagnose"]["seconds"] < 60
    assert told["diagnose"]["peak"] < 2 * told["step"]["peak"]


@pytest.mark.parametrize(
    ("optimizer", "tried"),
    [(torch.optim.AdamW, True), (torch.optim.SGD, True), (torch.optim.RAdam, False), (torch.optim.RMSprop, False)],
)
def test_a_first_update_is_tried_where_its_rule_is_known(optimizer: type[torch.optim.Optimizer], tried: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    given = optimizer(model.parameters(), lr=1e-3)  # pyright: ignore[reportCallIssue]
    told = diagnose(model, torch.randn(6, 4), lambda m, b: m(b).square().mean(), optimizer=given)
    assert (told.first_update is not None) == tried
    assert tried or optimizer.__name__ in told.readings["first_update"]
