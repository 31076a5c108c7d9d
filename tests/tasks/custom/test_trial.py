"""What a user's function returns, and the batches that training takes from it."""

from collections import UserDict, namedtuple
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normscope.tasks import Metric, Recipe, Trial, UserCodeError
from normscope.tasks.custom.trial import Stop, TrialData, to_device

METRIC = Metric(name="error", unit="%", higher_is_better=False)
CPU = torch.device("cpu")


def trial(**changes: Any) -> Trial:
    given: dict[str, Any] = {
        "model": nn.Linear(2, 2),
        "metric": METRIC,
        "evaluate": lambda model, part: 1.0,
        "margin": 0.5,
        "loss": lambda model, batch: batch.sum(),
        "batches": [torch.ones(2)],
    }
    return Trial(**{**given, **changes})


def loop(model: nn.Module, callback: Any) -> None:
    """Train nothing."""


def loop_with_recipe(model: nn.Module, callback: Any, recipe: Recipe) -> None:
    """Train nothing."""


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"model": len}, TypeError, "model must be a Module, got <built-in function len>"),
        ({"metric": "accuracy"}, TypeError, "metric must be a Metric, got 'accuracy'"),
        ({"recipe": {"steps": 5}}, TypeError, "recipe must be a Recipe"),
        ({"evaluate": 3.0}, TypeError, "evaluate must be a function, got 3.0"),
        ({"evaluate": None}, TypeError, "evaluate must be a function, got None"),
        ({"loss": 3.0}, TypeError, "loss must be a function, got 3.0"),
        ({"placements": "pre"}, TypeError, "placements must be a tuple of names, got the string 'pre'"),
        ({"loss": None}, ValueError, "either loss and batches, or train"),
        ({"batches": None}, ValueError, "either loss and batches, or train"),
        ({"loss": None, "batches": None}, ValueError, "either loss and batches, or train"),
        ({"train": loop}, ValueError, "either loss and batches, or train"),
        ({"train": loop, "batches": None}, ValueError, "either loss and batches, or train"),
        ({"batches": []}, ValueError, "batches must not be empty"),
        ({"batches": iter([1])}, TypeError, r"such as list\(loader\), got list_iterator"),
        ({"margin": 0.0}, ValueError, "margin must be positive, got 0.0"),
        ({"margin": "1"}, TypeError, "margin must be a number, got '1'"),
        ({"margin": float("inf")}, ValueError, "margin must be finite, got inf"),
        ({"margin": float("nan")}, ValueError, "margin must be positive, got nan"),
    ],
)
def test_a_trial_that_cannot_be_run_is_refused(changes: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        trial(**changes)


def test_a_data_loader_is_reported_what_to_do() -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(8, 2)), batch_size=2)
    with pytest.raises(TypeError, match=r"such as list\(loader\), got DataLoader"):
        trial(batches=loader)
    assert len(list(loader)) == 4
    trial(batches=list(loader))


def test_a_loop_heeds_the_recipe_if_it_takes_one() -> None:
    assert trial().uses_recipe
    assert trial(loss=None, batches=None, train=loop_with_recipe).uses_recipe
    assert not trial(loss=None, batches=None, train=loop).uses_recipe


@pytest.mark.parametrize(
    ("loop", "given"),
    [
        (lambda model, callback: [], []),
        (lambda model, callback, recipe: [recipe], [3]),
        (lambda model, callback, other: [other], [3]),
        (lambda model, callback, *, recipe: [recipe], [3]),
        (lambda model, callback, epochs=7, recipe=None: [epochs, recipe], [7, 3]),
        (lambda model, callback, epochs=7: [epochs], [7]),
        (lambda model, callback, **more: list(more), []),
        (lambda *given: list(given[2:]), [3]),
    ],
)
def test_a_loop_is_given_what_it_takes(loop: Any, given: list[Any]) -> None:
    made = trial(loss=None, batches=None, train=loop)
    assert made.call_train(made.model, lambda step, loss: None, 3) == given  # pyright: ignore[reportArgumentType]
    assert made.uses_recipe is (3 in given)


@pytest.mark.parametrize("loop", [lambda model: 0, lambda m, t, r, more: 0, lambda *, model, callback: 0])
def test_a_loop_that_cannot_be_called_is_refused(loop: Any) -> None:
    with pytest.raises(TypeError, match=r"train must take model and callback, or model, callback and recipe"):
        trial(loss=None, batches=None, train=loop)


def test_nothing_but_the_loop_itself_catches_a_stop() -> None:
    assert not issubclass(Stop, Exception)


def data(batches: Any) -> TrialData:
    return TrialData(name="f.py:make", batches=batches, device=CPU, hashes={})


def draw(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def test_a_function_is_asked_for_every_step() -> None:
    asked = data(lambda step: torch.tensor([step]))
    order = asked.order(16, draw)
    assert asked.train_examples == 1
    assert [int(asked.batch(order.batch(step))) for step in (0, 5, 7)] == [0, 5, 7]


def test_a_sequence_is_seen_once_in_every_pass_in_another_order() -> None:
    asked = data([torch.tensor(number) for number in range(6)])
    order = asked.order(16, draw)
    passes = [[int(asked.batch(order.batch(start + step))) for step in range(6)] for start in (0, 6, 12)]
    assert asked.train_examples == 6
    assert all(sorted(one) == list(range(6)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3


def test_what_a_batch_draws_the_step_decides() -> None:
    import random

    import numpy as np

    asked = data(lambda step: [random.random(), np.random.rand(), torch.rand(1).item()])  # noqa: NPY002

    def at(seed: int) -> list[float]:
        torch.manual_seed(seed)
        return asked.batch(torch.tensor([0]))

    first = at(3)
    assert len(set(first)) == 3
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    assert at(3) == first
    assert not set(at(4)) & set(first)


def test_batches_that_fail_are_user_errors() -> None:
    def batches(step: int) -> Tensor:
        raise ZeroDivisionError("no batch")

    with pytest.raises(UserCodeError, match=r"f.py:make failed:(?s:.*)in batches(?s:.*)ZeroDivisionError: no batch"):
        data(batches).batch(torch.tensor([0]))


Pair = namedtuple("Pair", "x y")


class Encoding(UserDict):
    """As Hugging Face's: it moves by itself."""

    def to(self, device: torch.device) -> "Encoding":
        return Encoding({key: value.to(device) for key, value in self.items()})


def test_tensors_are_moved_wherever_they_are() -> None:
    meta = torch.device("meta")
    x = torch.ones(2)
    assert to_device(x, meta).device == meta
    assert to_device(Pair(x, "label"), meta).x.device == meta
    assert to_device(Pair(x, "label"), meta).y == "label"
    found = to_device({"x": [x, (x, 3)], "name": "n", "none": None}, meta)
    assert found["x"][0].device == found["x"][1][0].device == meta
    assert (found["x"][1][1], found["name"], found["none"]) == (3, "n", None)
    assert to_device(Encoding({"ids": x}), meta)["ids"].device == meta


OURS = {"optimizer", "beta2", "weight_decay", "schedule", "warmup", "clip", "clip_rule", "average", "evaluations"}
NO_LOSS = {"loss": None, "batches": None}


@pytest.mark.parametrize(
    ("changes", "given", "unknown"),
    [
        ({}, True, set()),
        ({}, False, {"batch_size"}),
        ({**NO_LOSS, "train": loop}, True, OURS),
        ({**NO_LOSS, "train": loop}, False, OURS | {"steps", "batch_size", "learning_rate", "precision", "compile"}),
        ({**NO_LOSS, "train": loop_with_recipe}, True, {"evaluations"}),
        ({**NO_LOSS, "train": loop_with_recipe}, False, OURS | {"steps", "batch_size", "precision", "compile"}),
    ],
)
def test_what_nobody_stated_or_follows_is_unknown(changes: dict[str, Any], given: bool, unknown: set[str]) -> None:
    recipe = Recipe(steps=1000, batch_size=1, learning_rate=1e-3)
    one = trial(**changes, **({"recipe": recipe} if given else {}))
    assert one.recipe == recipe
    assert one.unknown(recipe) == unknown
    # What is chosen for one study is known.
    assert one.unknown(replace(recipe, steps=7, warmup=3)) == unknown - {"steps", "warmup"}
