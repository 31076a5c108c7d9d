"""Recipes: looks, learning rates by hand, optimizers against torch's own, and what is refused."""

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from normscope.tasks import Recipe
from normscope.tasks.adam_kiros2015 import AdamKiros2015
from normscope.tasks.recipe import CLIP_RULES, OPTIMIZERS, SCHEDULES

RECIPE = Recipe(steps=60, batch_size=16, learning_rate=3e-3)


def test_looks_are_evenly_spaced_and_end_at_the_end() -> None:
    ten = Recipe(steps=10, batch_size=1, learning_rate=1.0)
    assert all(ten.evaluates_after(step) for step in range(1, 11))
    seven = Recipe(steps=100, batch_size=1, learning_rate=1.0, evaluations=7)
    looks = [step for step in range(1, 101) if seven.evaluates_after(step)]
    assert len(looks) == 7
    assert looks[-1] == 100
    assert sum(Recipe(steps=3, batch_size=1, learning_rate=1.0).evaluates_after(step) for step in (1, 2, 3)) == 3


def rates(**changes: Any) -> list[float]:
    recipe = Recipe(**{"steps": 8, "batch_size": 1, "learning_rate": 0.4, **changes})
    return [recipe.learning_rate_at(step) for step in range(recipe.steps)]


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"schedule": "constant"}, [0.4] * 8),
        ({"schedule": "constant", "warmup": 4}, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4]),
        # The eighth update would be followed by a rate of 0.
        ({"schedule": "linear"}, [0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05]),
        ({"schedule": "linear", "warmup": 4}, [0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1]),
        ({"schedule": "linear", "warmup": 8}, [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4]),
        ({"schedule": "inverse_sqrt"}, [0.4 / math.sqrt(step) for step in range(1, 9)]),
        (
            {"schedule": "inverse_sqrt", "warmup": 4},
            [
                0.1,
                0.2,
                0.3,
                0.4,
                0.4 * math.sqrt(4 / 5),
                0.4 * math.sqrt(4 / 6),
                0.4 * math.sqrt(4 / 7),
                0.4 / math.sqrt(2),
            ],
        ),
    ],
)
def test_learning_rates_by_hand(changes: dict[str, Any], want: list[float]) -> None:
    assert rates(**changes) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_warm_up_is_xiongs(schedule: str) -> None:
    """Section 3.3: lr(t) = t / T_warmup * lr_max, t from 1 to T_warmup; the largest rate is reached at T_warmup."""
    found = rates(schedule=schedule, steps=9000, warmup=4000, learning_rate=1e-3)
    assert found[:4000] == pytest.approx([t / 4000 * 1e-3 for t in range(1, 4001)], rel=1e-12)
    assert max(found) == found[3999] == 1e-3
    assert all(later <= earlier for earlier, later in itertools.pairwise(found[3999:]))


def test_without_warm_up_the_square_root_begins_at_a_tenth_of_the_updates() -> None:
    """Runs with a warm-up of that length and without one have one rate after it: they differ in the warm-up alone."""
    without, short = (rates(schedule="inverse_sqrt", steps=1000, warmup=warmup) for warmup in (0, 100))
    assert without[:100] == [0.4] * 100
    assert without[100:] == short[100:]
    assert without[-1] == pytest.approx(0.4 * math.sqrt(0.1))


def test_a_warm_up_must_end_within_the_run() -> None:
    with pytest.raises(ValueError, match=r"warmup must end within the 8 updates, .* got 9"):
        rates(warmup=9)


def test_gains_under_weight_normalization_do_not_decay() -> None:
    from normscope.norms import apply_weight_norm

    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Embedding(3, 4))
    apply_weight_norm(model)
    recipe = Recipe(steps=8, batch_size=1, learning_rate=0.1, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, rest = ({names[id(one)] for one in group["params"]} for group in recipe.make_optimizer(model).param_groups)
    assert decayed == {"0.parametrizations.weight.original1", "2.weight"}
    assert rest == {"0.bias", "0.parametrizations.weight.original0", "1.weight", "1.bias"}


def test_inverse_square_root_is_that_of_attention_is_all_you_need() -> None:
    """Their equation (3), d_model^-0.5 min(step^-0.5, step T^-1.5), has its largest rate at T: (d_model T)^-0.5."""
    width, warmup = 512, 4000
    want = [width**-0.5 * min(step**-0.5, step * warmup**-1.5) for step in range(1, 9001)]
    found = rates(schedule="inverse_sqrt", steps=9000, warmup=warmup, learning_rate=(width * warmup) ** -0.5)
    assert found == pytest.approx(want, rel=1e-12)


class Network(nn.Module):
    """Matrices, vectors and a number, all of which get a gradient."""

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(4)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=source))

        self.first, self.matrix, self.kernel = drawn(2, 3), drawn(4, 3), drawn(2, 3, 5)
        self.vector, self.number, self.last = drawn(6), drawn(), drawn(3, 2)


def upstream(step: int) -> Iterator[torch.Tensor]:
    source = torch.Generator().manual_seed(step)
    return (torch.randn(parameter.shape, generator=source) for parameter in Network().parameters())


def after(optimizer: Callable[[Network], torch.optim.Optimizer], steps: int = 12) -> dict[str, torch.Tensor]:
    network = Network()
    made = optimizer(network)
    for step in range(steps):
        for parameter, gradient in zip(network.parameters(), upstream(step), strict=True):
            parameter.grad = gradient
        made.step()
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


class Both(torch.optim.Optimizer):
    """Muon of torch's on the one inner matrix, and Adam of torch's on the rest, one after the other."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        rest = list(parameters)
        self.parts = (
            torch.optim.Muon([rest.pop(1)], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.Adam(rest, lr=0.01, betas=(0.9, 0.98)),
        )

    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for part in self.parts:
            part.step()


class KirosLoop(torch.optim.Optimizer):
    """The loop of the published code, training/optim.py of skip-thoughts, number by number in float64."""

    def __init__(self, parameters: Iterator[nn.Parameter], rate: float, b2: float) -> None:
        self.parameters, self.rate, self.b2 = list(parameters), rate, b2
        self.i = 0.0
        self.m = [torch.zeros_like(one, dtype=torch.float64) for one in self.parameters]
        self.v = [torch.zeros_like(one, dtype=torch.float64) for one in self.parameters]

    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.i += 1
        fix1, fix2 = 1 - 0.1**self.i, 1 - self.b2**self.i
        lr_t = self.rate * math.sqrt(fix2) / fix1
        for n, parameter in enumerate(self.parameters):
            assert parameter.grad is not None
            g = parameter.grad.double()
            self.m[n] = 0.1 * g + (1 - 0.1) * self.m[n]
            self.v[n] = self.b2 * g**2 + (1 - self.b2) * self.v[n]
            parameter.data -= (lr_t * self.m[n] / (self.v[n].sqrt() + 1e-8)).float()


PEERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01, betas=(0.9, 0.98)),
    "adam_kiros2015": lambda groups: KirosLoop(groups, 0.01, 0.02),
    "radam": lambda groups: torch.optim.RAdam(groups, lr=0.01, betas=(0.9, 0.98)),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.01),
    "muon": Both,
}


def test_every_optimizer_has_a_peer() -> None:
    assert set(PEERS) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_make_torchs_updates(name: str) -> None:
    recipe = Recipe(steps=9, batch_size=1, learning_rate=0.01, optimizer=name, beta2=0.98)
    ours, theirs = after(recipe.make_optimizer), after(lambda network: PEERS[name](network.parameters()))
    for key, want in theirs.items():
        # A fused kernel adds in another order: some ulps of numbers of order one, over twelve updates.
        torch.testing.assert_close(ours[key], want, rtol=0, atol=1e-6)


def test_adams_first_update_is_the_sign_of_the_gradient() -> None:
    recipe = Recipe(steps=9, batch_size=1, learning_rate=0.01)
    before = dict(Network().named_parameters())
    for (name, found), gradient in zip(after(recipe.make_optimizer, 1).items(), upstream(0), strict=True):
        torch.testing.assert_close(found, before[name].detach() - 0.01 * gradient.sign(), rtol=0, atol=1e-6)


def test_adam_of_the_skip_thoughts_begins_too_fast() -> None:
    """A constant gradient moves Adam by the rate at every update; without correction by 3.5 times that, then 6.6."""
    moves = []
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = AdamKiros2015([parameter], lr=1.0, eps=0.0)
    for _ in range(100):
        before = parameter.item()
        parameter.grad = torch.full((1,), 0.3, dtype=torch.float64)
        optimizer.step()
        moves.append(before - parameter.item())
    assert moves[0] == pytest.approx(0.1 * math.sqrt(0.999) / (math.sqrt(0.001) * 0.9), rel=1e-12)
    assert moves[0] == pytest.approx(3.5, abs=0.02)
    assert max(moves) == pytest.approx(6.6, abs=0.05)
    before = parameter.item()
    loss = optimizer.step(lambda: parameter.sum() * 2)
    assert loss is not None
    assert loss.item() == 2 * before


def test_adam_of_the_skip_thoughts_resumes_to_the_bit() -> None:
    recipe = dataclasses.replace(RECIPE, optimizer="adam_kiros2015")
    network = Network()
    made = recipe.make_optimizer(network)
    for step in range(6):
        if step == 3:
            state = copy.deepcopy((network.state_dict(), made.state_dict()))
            network = Network()
            made = recipe.make_optimizer(network)
            network.load_state_dict(state[0])
            made.load_state_dict(state[1])
        for parameter, gradient in zip(network.parameters(), upstream(step), strict=True):
            parameter.grad = gradient
        made.step()
    whole = after(recipe.make_optimizer, 6)
    assert all(torch.equal(parameter, whole[name]) for name, parameter in network.named_parameters())


@pytest.mark.parametrize("rule", CLIP_RULES)
@pytest.mark.parametrize("clip", [0.0, 0.5, 2.0, 4.0, 50.0])
def test_gradients_are_clipped_by_hand(rule: str, clip: float) -> None:
    network = Network()
    gradients = list(upstream(1))
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    recipe = dataclasses.replace(RECIPE, clip=clip, clip_rule=rule)
    whole = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
    recipe.clip_gradients(network)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        length = {"tensor": float(gradient.double().norm())}.get(rule, whole)
        if rule == "reader2016":
            # switch(g2 > clip ** 2, g * clip / sqrt(g2)), where g2 is the length and not its square.
            factor = clip / math.sqrt(length) if clip and length > clip**2 else 1.0
        else:
            factor = min(1.0, clip / length) if clip else 1.0
        # torch adds 1e-6 to the length.
        torch.testing.assert_close(parameter.grad, factor * gradient, rtol=1e-5, atol=1e-6)
    assert 4.0 < whole < 4.0**2


def test_the_usual_rule_of_clipping_changes_no_name() -> None:
    content = RECIPE.content()
    assert set(content) == {field.name for field in dataclasses.fields(Recipe)} - {"clip_rule", "devices_per_run"}
    other = dataclasses.replace(RECIPE, clip_rule="tensor").content()
    assert other == {**content, "clip_rule": "tensor"}
    assert Recipe(**other).content() == other


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_matrices_decay_and_nothing_else(name: str) -> None:
    recipe = Recipe(steps=9, batch_size=1, learning_rate=0.01, optimizer=name)
    plain, decayed = (after(dataclasses.replace(recipe, weight_decay=decay).make_optimizer, 1) for decay in (0.0, 0.5))
    start = {key: parameter.detach() for key, parameter in Network().named_parameters()}
    for key in ("first", "matrix", "kernel", "last"):
        # Decoupled or not, plain descent and a first adaptive step shrink a weight by rate times decay.
        torch.testing.assert_close(decayed[key], plain[key] - 0.01 * 0.5 * start[key], rtol=0, atol=1e-6)
    for key in ("vector", "number"):
        assert torch.equal(decayed[key], plain[key])


@pytest.mark.parametrize("name", ["adam", "radam"])
def test_the_decay_of_adaptive_optimizers_is_decoupled(name: str) -> None:
    """Over several updates a coupled decay would pass through the moments, and equal AdamW's no more."""
    recipe = Recipe(steps=9, batch_size=1, learning_rate=0.01, optimizer=name, beta2=0.98, weight_decay=0.5)
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.98)),
        "radam": lambda groups: torch.optim.RAdam(groups, lr=0.01, betas=(0.9, 0.98), decoupled_weight_decay=True),
    }

    def peer(network: Network) -> torch.optim.Optimizer:
        matrices = [network.first, network.matrix, network.kernel, network.last]
        rest = [network.vector, network.number]
        return kinds[name]([{"params": matrices, "weight_decay": 0.5}, {"params": rest, "weight_decay": 0.0}])

    ours, theirs = after(recipe.make_optimizer), after(peer)
    for key, want in theirs.items():
        torch.testing.assert_close(ours[key], want, rtol=0, atol=1e-6)


def test_norms_and_biases_of_a_network_do_not_decay() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Conv1d(3, 2, 1), nn.Embedding(5, 3))
    optimizer = dataclasses.replace(RECIPE, weight_decay=0.1).make_optimizer(network)
    decays = {id(one): group["weight_decay"] for group in optimizer.param_groups for one in group["params"]}
    found = {name: decays[id(one)] for name, one in network.named_parameters()}
    assert {name for name, decay in found.items() if decay} == {"0.weight", "2.weight", "3.weight"}
    assert len(found) == len(decays) == 7
    (group,) = RECIPE.make_optimizer(network).param_groups
    assert [id(one) for one in group["params"]] == [id(one) for one in network.parameters()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": True}, "steps must be a whole number of at least 1, got True"),
        ({"average": 0}, "average must be a whole number of at least 1, got 0"),
        ({"average": 1.5}, r"average must be a whole number of at least 1, got 1\.5"),
        ({"learning_rate": -1.0}, r"learning_rate must be positive and finite, got -1\.0"),
        ({"learning_rate": math.nan}, "learning_rate must be positive and finite, got nan"),
        ({"warmup": -1}, "warmup must be a whole number of at least 0, got -1"),
        ({"warmup": 0.5}, r"warmup must be a whole number of at least 0, got 0\.5"),
        ({"warmup": True}, "warmup must be a whole number of at least 0, got True"),
        ({"clip": -0.1}, r"clip must be finite and not negative, got -0\.1"),
        ({"clip": math.inf}, "clip must be finite and not negative, got inf"),
        ({"weight_decay": math.nan}, "weight_decay must be finite and not negative, got nan"),
        ({"beta2": 1.0}, r"beta2 must be from 0 to below 1, got 1\.0"),
        ({"beta2": math.nan}, "beta2 must be from 0 to below 1, got nan"),
        ({"optimizer": "adamw"}, "optimizer must be one of adam, adam_kiros2015, radam, sgd, muon, got 'adamw'"),
        ({"clip_rule": "value"}, "clip_rule must be one of norm, tensor, reader2016, got 'value'"),
        ({"schedule": "cosine"}, "schedule must be one of linear, inverse_sqrt, constant, got 'cosine'"),
        ({"precision": "float8"}, "precision must be one of float32, bfloat16, got 'float8'"),
        ({"device": "mps"}, "device must be cpu, or cuda with or without a number, got .mps."),
        ({"device": "gpu one"}, "device must be cpu, or cuda with or without a number, got .gpu one."),
    ],
)
def test_recipes_are_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(RECIPE, **change)
