"""What a user's own task is tried with before the first run: a batch, a look, the first steps of their own loop."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope.catalogue import NORMS
from normscope.results.aggregates import AGGREGATES
from normscope.study.plan import RunSpec
from normscope.tasks import OwnTask
from normscope.tasks.own import digest
from normscope.tasks.own_norm import unseen_calls, watch_calls
from normscope.tasks.trial import Stop, TrialData
from normscope.train.driven import told
from normscope.train.streams import generator, seed_dropout

TOLD = 2
"""How often a user's own loop tells something before it is left."""

PASSES = 8
"""How often it may call its model until then."""

STEPS = 12
"""Losses that two seeds must share, beside their first weights, to be taken for one."""


def rehearse(spec: RunSpec, task: OwnTask, device: torch.device) -> tuple[list[str], int]:
    """Try everything that a run will ask of a user's code, as far as it goes before training.

    Args:
        spec: The run.
        task: As the run began it; what it set for the process holds.
        device: Where.

    Returns:
        What tells the first weights from others, and how many batches a pass has.

    Raises:
        OwnCodeError: If the code fails.
        TypeError: If it gives something else than is asked for.
        ValueError: Likewise, or if the norms that were made are not called.
    """
    model, data = _begin(spec, task, device)
    weights = digest(model)
    called: set[type] = set()
    compiled = unseen_calls(nn.Identity())
    with watch_calls(lambda module, made: called.add(type(module))):
        if task.trial.train is None:
            _first_step(spec, task, model, data)
        with torch.no_grad():
            _, scores = task.evaluate(model.eval(), data, "valid")
        # Not a number is a matter of the training that there has not been.
        AGGREGATES[task.metric.aggregate].value(np.nan_to_num(scores))
        if task.trial.train is not None:
            _first_words(spec, task, model.train())
    unused = [kind.__name__ for kind in task.norm.unused(called) if kind is not NORMS["none"]]
    if unused and unseen_calls(model) == compiled:
        raise ValueError(
            f"the {' and the '.join(unused)} that norm(...) made is never called, neither in training nor in evaluate: "
            "the arm would change nothing"
        )
    return weights, data.train_examples


def heard(spec: RunSpec, task: OwnTask, device: torch.device) -> list[Any]:
    """Give what the first steps of a run show: losses of its first batches, or what its own loop computes and tells.

    Raises:
        OwnCodeError: As :func:`rehearse`.
        TypeError: Likewise.
        ValueError: Likewise.
    """
    model, data = _begin(spec, task, device)
    if task.trial.train is not None:
        return _first_words(spec, task, model.train())
    order = data.order(spec.recipe.batch_size, partial(generator, spec.seed, "data"))
    losses = []
    for step in range(min(STEPS, spec.recipe.steps)):
        seed_dropout(spec.seed, step, device)
        with torch.no_grad():
            losses.append(task.loss(model.train(), data.batch(order.batch(step))).item())
    return losses


def _begin(spec: RunSpec, task: OwnTask, device: torch.device) -> tuple[nn.Module, TrialData]:
    model = spec.build(task)
    lazy = [name for name, one in model.named_parameters() if isinstance(one, nn.UninitializedParameter)]
    if lazy:
        raise ValueError(
            f"the model has weights without a shape ({', '.join(lazy)}): call it once on a batch before it is returned"
        )
    return model.to(device), task.load(device, spec.split, spec.preset)


def _first_step(spec: RunSpec, task: OwnTask, model: nn.Module, data: TrialData) -> None:
    order = data.order(spec.recipe.batch_size, partial(generator, spec.seed, "data"))

    def batch() -> Any:
        seed_dropout(spec.seed, 0, torch.device(spec.recipe.device))
        return data.batch(order.batch(0))

    first = batch()
    if callable(data.batches) and not _alike(first, batch()):
        raise ValueError(
            "batches must be a function of the step alone: asked twice for step 0, it gave two batches, so a run that "
            "goes on after a stop would get others"
        )
    loss = task.loss(model.train(), first)
    if not loss.requires_grad:
        raise ValueError("the loss has no gradient: it was detached, or every weight of the model is frozen")
    loss.backward()
    model.zero_grad(set_to_none=True)


def _first_words(spec: RunSpec, task: OwnTask, model: nn.Module) -> list[Any]:
    """Let a loop of theirs begin; give what its model computed and what it told.

    Raises:
        OwnCodeError: As :func:`rehearse`.
        ValueError: If it trains another model than it was given, or none.
    """
    words: list[Any] = []
    calls: list[nn.Module] = []
    left = False

    def hear(word: Any, *, enough: Callable[[], bool]) -> None:
        nonlocal left
        if not left:
            words.append(word)
            left = enough()
        if left:
            raise Stop

    def tell(*given: Any, **named: Any) -> None:
        hear(told(*given, **named), enough=lambda: sum(isinstance(one, tuple) for one in words) >= TOLD)

    def notice(module: nn.Module, made: Any) -> None:
        calls.append(module)
        value = float(made.detach().double().sum()) if isinstance(made, Tensor) else 0.0
        hear(value, enough=lambda: calls.count(calls[0]) >= PASSES)

    seed_dropout(spec.seed, 0, torch.device(spec.recipe.device))
    try:
        with watch_calls(notice):
            task.drive(model, tell, spec.recipe)
    except Stop:
        pass
    except Exception:
        # Whatever they made of the stop.
        if not left:
            raise
    # What is compiled in their loop holds the modules that it was made of.
    if calls and not {one for call in calls for one in call.modules()} & set(model.modules()):
        raise ValueError(
            f"train calls a {type(calls[0]).__name__} and no module of the model that it was given: it must train that "
            "one, in place, no copy"
        )
    return words


def _alike(one: Any, other: Any) -> bool:
    """Whether two batches hold equal numbers; what cannot be looked into is taken for equal."""
    if isinstance(one, Tensor):
        return one.shape == other.shape and torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, Mapping):
        return all(_alike(value, other.get(key)) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, int | float | str | bytes):
        return one == other or one != one
    return not hasattr(one, "__dict__") or all(map(_alike, vars(one).values(), vars(other).values()))
