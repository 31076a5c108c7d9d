"""The beginning of a custom task's run, tried before the first run of a study."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from normscope.norms import NORMS
from normscope.results.aggregates import AGGREGATES
from normscope.studies.plan import RunSpec
from normscope.tasks import CustomTask, Part, Recipe
from normscope.tasks.custom.sandbox import unseen_calls, watch_calls
from normscope.tasks.custom.task import digest
from normscope.tasks.custom.trial import Stop, TrialData
from normscope.tasks.task import TESTED
from normscope.training.outcome import describe_broken
from normscope.training.randomness import generator, generator_states, seed_dropout
from normscope.training.user_loop import read_callback

__tracebackhide__ = True

CALLBACKS = 2
"""Number of callbacks after which a rehearsed training function is stopped."""

PASSES = 8
"""Number of forward passes after which it is stopped in any case."""

MORE = 4
"""Factor of both where the first batches of several seeds are compared again, since they may be equal by chance."""

STEPS = 12
"""Number of first losses that are compared between two seeds with equal initial weights."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What the beginning of a run shows."""

    weights: list[str]
    """Digest of the initial weights."""
    batches: int
    """Number of batches per epoch."""
    draws: dict[str, str]
    """What the run's seed should decide, as :func:`draws` returns it."""
    broken: dict[str, str]
    """Description of the scores that are not finite with the initial weights, by part of the data."""


def rehearse(spec: RunSpec, task: CustomTask, device: torch.device) -> Rehearsal:
    """Call everything that a run needs from a custom task: model, batches, loss or training function, evaluation.

    Args:
        spec: Specification of the run.
        task: Task that :meth:`RunSpec.begin` returned, inside its context.
        device: Device of the run.

    Raises:
        UserCodeError: If the user's code fails.
        TypeError: If the loss is not a floating-point scalar tensor, or the scores are not numbers.
        ValueError: If the model has uninitialized weights, the loss has no gradient, the batches of a step vary, the
            training function trains another model, the scores do not fit the metric, or a norm is never called.
    """
    model, data = _begin(spec, task, device)
    weights, broken = digest(model), {}
    called: set[type] = set()
    compiled = unseen_calls(nn.Identity())
    with watch_calls(lambda module, given, output: called.add(type(module))):
        if task.trial.train is None:
            seen = _first_step(spec, task, model, data)
        for part, name in {"valid": "validation", **({"test": "test"} if spec.split in TESTED else {})}.items():
            with torch.no_grad():
                _, scores = task.evaluate(model.eval(), data, cast(Part, part))
            # Before training, scores may be NaN.
            AGGREGATES[task.metric.aggregate].value(np.nan_to_num(scores, nan=1.0))
            broken |= {name: words} if (words := describe_broken(scores)) else {}
        if task.trial.train is not None:
            seen, _ = _begin_training(spec, task, model.train())
    unused = [kind.__name__ for kind in task.norm.unused(called) if kind is not NORMS["none"]]
    if unused and unseen_calls(model) == compiled:
        raise ValueError(
            f"the {' and the '.join(unused)} that norm(...) returned is never called, neither in training nor in "
            "evaluate: the arm would have no effect"
        )
    return Rehearsal(weights=weights, batches=data.train_examples, draws=seen, broken=broken)


def draws(spec: RunSpec, task: CustomTask, device: torch.device) -> dict[str, str]:
    """Return a record of what the run's seed should decide, as ``normscope.results.seeding.shared`` compares it.

    Raises:
        UserCodeError: If the user's code fails.
        ValueError: If the model has uninitialized weights, or the training function trains another model.
    """
    model, data = _begin(spec, task, device)
    if task.trial.train is None:
        return _first_step(spec, task, model, data, times=MORE)
    return _begin_training(spec, task, model.train(), times=MORE)[0]


def first_values(spec: RunSpec, task: CustomTask, device: torch.device) -> list[Any]:
    """Return the losses of the first batches, or the outputs and callbacks of the first steps of a training function.

    Raises:
        UserCodeError: If the user's code fails.
        TypeError: If the loss is not a floating-point scalar tensor.
        ValueError: If the model has uninitialized weights, or the training function trains another model.
    """
    model, data = _begin(spec, task, device)
    if task.trial.train is not None:
        return _begin_training(spec, task, model.train())[1]
    order = data.order(spec.recipe.batch_size, partial(generator, spec.seed, "data"))
    losses = []
    for step in range(min(STEPS, spec.recipe.steps)):
        seed_dropout(spec.seed, step, device)
        with torch.no_grad():
            losses.append(task.loss(model.train(), data.batch(order.batch(step))).item())
    return losses


def _begin(spec: RunSpec, task: CustomTask, device: torch.device) -> tuple[nn.Module, TrialData]:
    model = spec.build(task)
    lazy = [name for name, weight in model.named_parameters() if isinstance(weight, nn.UninitializedParameter)]
    if lazy:
        raise ValueError(
            f"the model has uninitialized weights ({', '.join(lazy)}): call it once on a batch before you return it"
        )
    return model.to(device), task.load(device, spec.split, spec.preset)


class _WatchedRecipe(Recipe):
    """A recipe that records which of its settings are read."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if "read" in (own := super().__getattribute__("__dict__")):
            own["read"].add(name)
        return value

    @classmethod
    def of(cls, recipe: Recipe) -> tuple["_WatchedRecipe", set[str]]:
        """Return a copy of a recipe, and the set to which the names are added."""
        watched, read = cls(**asdict(recipe)), set[str]()
        vars(watched)["read"] = read
        return watched, read


def _check_read(spec: RunSpec, task: CustomTask, read: set[str]) -> None:
    """Check that a training function has read the settings that were chosen for it.

    Raises:
        ValueError: If it takes the recipe and has not read one of them.
    """
    options = {"steps": "--steps", "warmup": "--warmup", "optimizer": "--optimizer", "learning_rate": "--tune"}
    for name, option in options.items():
        differs = getattr(spec.recipe, name) != getattr(task.first.recipe, name)
        if name not in read and (differs or (name == "learning_rate" and spec.split not in TESTED)):
            raise ValueError(
                f"train was given a recipe with {name}={getattr(spec.recipe, name)} and did not read it, so {option} "
                f"would change nothing: read recipe.{name} where training begins, or leave {option} out"
            )


class _Draws:
    """Records the states of the generators and the inputs of the network during its calls in training."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.device = model, device
        self.calls: list[nn.Module] = []
        self.states: dict[str, str] = {}
        self.inputs: dict[int, list[str]] = {}

    def see(self, module: nn.Module, given: Any) -> None:
        self.calls.append(module)
        if module is self.model or module is self.calls[0]:
            self.states = generator_states(self.device)
            self.inputs.setdefault(id(module), []).append(_fingerprint(given))

    def record(self, seeded_with: int, weights: list[str], batches: list[str] | None = None) -> dict[str, str]:
        """Return the record of the run; ``batches`` replaces the inputs of the network."""
        if batches is None:
            first = self.calls[:1]
            batches = self.inputs.get(id(self.model)) or [each for one in first for each in self.inputs[id(one)]]
        found = dict(self.states)
        # Weights that come from a file are the same in all seeds, and nothing is wrong with that.
        if weights:
            found["weights"] = _fingerprint([seeded_with, *weights])
        # A batch that is always the same has no order.
        if len(set(batches)) > 1:
            found["batches"] = _fingerprint(batches)
        return found


def _first_step(
    spec: RunSpec, task: CustomTask, model: nn.Module, data: TrialData, *, times: int = 1
) -> dict[str, str]:
    """Compute the loss of the first batch with its gradient; return a record of what the run's seed should decide.

    Raises:
        UserCodeError: If the user's code fails.
        TypeError: If the loss is not a floating-point scalar tensor.
        ValueError: If the loss has no gradient, two calls for the first batch differ, or the optimizer does not fit.
    """
    spec.recipe.make_optimizer(model)
    order = data.order(spec.recipe.batch_size, partial(generator, spec.seed, "data"))
    seen = _Draws(model, torch.device(spec.recipe.device))
    weights = digest(model)

    def batch(step: int = 0) -> Any:
        seed_dropout(spec.seed, step, seen.device)
        return data.batch(order.batch(step))

    first, batches = batch(), []
    if callable(data.batches):
        if not _are_equal(first, batch()):
            raise ValueError(
                "batches must be a function of the step alone: two calls for step 0 returned different batches, so a "
                "resumed run would be trained on other batches"
            )
        batches = [_fingerprint(batch(step)) for step in range(min(times * CALLBACKS, spec.recipe.steps))]
        first = batch()
    with watch_calls(lambda module, given, output: seen.see(module, given)):
        loss = task.loss(model.train(), first)
    if not loss.requires_grad:
        raise ValueError("the loss has no gradient: it was detached, or all weights of the model are frozen")
    loss.backward()
    model.zero_grad(set_to_none=True)
    return seen.record(task.seeded_with, weights, batches)


def _begin_training(
    spec: RunSpec, task: CustomTask, model: nn.Module, *, times: int = 1
) -> tuple[dict[str, str], list[Any]]:
    """Run the first steps of a training function.

    Returns:
        A record of what the run's seed should decide; and the sums of module outputs and the (step, loss) callbacks.

    Raises:
        UserCodeError: If the function fails.
        ValueError: If it trains another model than the given one, or changes no weight.
    """
    values: list[Any] = []
    seen = _Draws(model, torch.device(spec.recipe.device))
    weights = digest(model)
    recipe, read = _WatchedRecipe.of(spec.recipe)
    stopped = passed = False

    def add(value: Any, *, is_last: Callable[[], bool]) -> None:
        nonlocal stopped
        if not stopped:
            values.append(value)
            stopped = is_last()
        if stopped:
            raise Stop

    def callback(*given: Any, **named: Any) -> None:
        limit = times * CALLBACKS
        add(read_callback(*given, **named), is_last=lambda: sum(isinstance(v, tuple) for v in values) >= limit)

    def watch(module: nn.Module, given: Any, output: Any) -> None:
        nonlocal passed
        if not stopped:
            seen.see(module, given)
            passed = seen.calls.count(seen.calls[0]) >= times * PASSES
        value = float(output.detach().double().sum()) if isinstance(output, Tensor) else 0.0
        add(value, is_last=lambda: passed)

    seed_dropout(spec.seed, 0, seen.device)
    try:
        with watch_calls(watch):
            assert task.train is not None
            task.train(model, callback, recipe)
    except Stop:
        pass
    except Exception:
        # The user's code may convert Stop to another exception.
        if not stopped:
            raise
    # A model compiled in the training function contains the modules of the given one.
    if seen.calls and not {module for call in seen.calls for module in call.modules()} & set(model.modules()):
        raise ValueError(
            f"train calls a {type(seen.calls[0]).__name__}, but no module of the given model: it must train the given "
            "model in place, not a copy"
        )
    # A loop that was left within its first epoch may read them at its end.
    if not passed:
        _check_read(spec, task, read)
    return seen.record(task.seeded_with, weights), values


def _fingerprint(value: Any) -> str:
    """Return a digest of the numbers and texts in nested containers; other objects do not enter it."""
    found = hashlib.sha256()
    waiting, seen = [value], set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, Tensor):
            try:
                plain = each.detach().cpu().resolve_conj().resolve_neg().contiguous()
                each = plain.reshape(-1).view(torch.uint8).numpy()
            except (RuntimeError, NotImplementedError, TypeError):
                # A sparse, nested or transformed tensor has no bytes of its own.
                each = str(each.shape)
        if isinstance(each, np.ndarray):
            found.update(repr(each.tolist()).encode() if each.dtype.hasobject else np.ascontiguousarray(each).tobytes())
        elif isinstance(each, int | float | complex | str | bytes):
            found.update(repr(each).encode())
        elif id(each) not in seen:
            seen.add(id(each))
            if isinstance(each, Mapping):
                waiting += [part for item in each.items() for part in item]
            elif isinstance(each, list | tuple):
                waiting += each
            else:
                waiting += vars(each).values() if hasattr(each, "__dict__") and not callable(each) else ()
    return found.hexdigest()[:16]


def _are_equal(first: Any, second: Any) -> bool:
    """Check whether two batches are equal; objects that cannot be inspected count as equal."""
    if isinstance(first, Tensor):
        return first.shape == second.shape and torch.allclose(first, second, rtol=0.0, atol=0.0, equal_nan=True)
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    if isinstance(first, Mapping):
        return all(_are_equal(value, second.get(key)) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_are_equal, first, second))
    if isinstance(first, int | float | str | bytes):
        return first == second or first != first
    return not hasattr(first, "__dict__") or all(map(_are_equal, vars(first).values(), vars(second).values()))
