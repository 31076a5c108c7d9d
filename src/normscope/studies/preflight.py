"""Checks before the first run: every arm computes a loss; custom tasks are also evaluated and begin training."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from normscope.data import DataDamaged, DataNotFound
from normscope.errors import NormscopeError
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.registry import Registry
from normscope.results.aggregates import AGGREGATES
from normscope.specs import find_task
from normscope.studies.engines.engine import EngineError
from normscope.studies.plan import RunSpec, plan
from normscope.studies.spec import TUNING_SEEDS, StudySpec
from normscope.tasks import TASKS, CustomTask, Task
from normscope.tasks.custom.sandbox import unseen_calls, watch_calls
from normscope.tasks.custom.task import digest
from normscope.tasks.custom.trial import Stop, TrialData
from normscope.training.randomness import generator, seed_dropout
from normscope.training.user_loop import read_callback

__tracebackhide__ = True

T = TypeVar("T")


class ArmMisfit(NormscopeError, ValueError):
    """An arm cannot be trained on the task."""


def preflight(study_spec: StudySpec) -> None:
    """Check that every arm can compute its loss on the first training batch; the random state is preserved.

    Custom tasks get the further checks of :func:`rehearse`, so that their errors appear before training.

    Raises:
        EngineError: If the device has too little memory.
        DataNotFound: If a data set that a custom task loads is missing.
        DataDamaged: If a file of the data set has the wrong hash.
        ArmMisfit: If a package that the task requires is missing; if the network of an arm cannot be built or computed
            (the message names the arm, the task, the reason and the plug-ins involved); if the arms of a custom task
            differ in their number of batches, or its seed has no effect.
    """
    absent = [name for name in getattr(find_task(study_spec.task), "packages", ()) if find_spec(name) is None]
    if absent:
        raise ArmMisfit(f"{study_spec.task} needs {' and '.join(absent)}; install with `pip install normscope[text]`")
    device = torch.device(study_spec.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if find_task(study_spec.task).location:
            _check_custom_task(study_spec, device)
            return
        for spec in plan(study_spec, seeds=study_spec.seeds[:1]):
            with torch.no_grad(), _as_misfit(spec):
                _compute_first_loss(spec, spec.begin(), device)


def _compute_first_loss(spec: RunSpec, task: Task, device: torch.device) -> None:
    model = spec.build(task).to(device)
    data = task.load(device, spec.split, spec.preset)
    order = data.order(spec.recipe.batch_size, lambda number: torch.Generator().manual_seed(number))
    task.loss(model, data.batch(order.batch(0)))


def _check_custom_task(study_spec: StudySpec, device: torch.device) -> None:
    """Rehearse one run per arm, one with another seed, and, if the study is tuned, one on the tuning split.

    Raises:
        ArmMisfit: As :func:`preflight`.
    """
    specs = plan(study_spec, seeds=study_spec.seeds[:1])
    results = [_call_in_run(rehearse, spec, device) for spec in specs]
    first_weights, batches = results[0]
    for spec, (_, count) in zip(specs, results, strict=True):
        if count != batches:
            raise ArmMisfit(
                f"{spec.task} has {batches} batches for arm {specs[0].label} and {count} for arm {spec.label}: with "
                "one seed, all arms must be trained on the same batches"
            )
    if study_spec.tune:
        _call_in_run(rehearse, plan(study_spec, seeds=TUNING_SEEDS[:1], split="tune")[0], device)
    if len(study_spec.seeds) > 1:
        other = plan(study_spec, seeds=study_spec.seeds[1:2])[0]
        try:
            weights, _ = _call_in_run(rehearse, other, device)
        except ArmMisfit:
            # An error with one seed fails only the runs with that seed.
            return
        if weights != first_weights:
            return
        first, second = (_call_in_run(first_values, spec, device) for spec in (specs[0], other))
        if first == second:
            raise ArmMisfit(
                f"the seed changes nothing in {other.task}: seeds {specs[0].seed} and {other.seed} give equal initial "
                "weights and equal first losses, so all runs of an arm would be identical. The generators of torch, "
                "NumPy and Python are already seeded with the run's seed: remove the code that seeds them again"
            )


def _call_in_run(check: Callable[[RunSpec, CustomTask, torch.device], T], spec: RunSpec, device: torch.device) -> T:
    with _as_misfit(spec):
        # Only custom tasks have a location.
        task = cast(CustomTask, spec.begin())
        with task.context(), torch.enable_grad():
            return check(spec, task, device)


@contextmanager
def _as_misfit(spec: RunSpec) -> Iterator[None]:
    """Convert errors in the block to :class:`ArmMisfit`, which names the arm; errors of the machine stay as they are.

    Raises:
        EngineError: If the device has too little memory.
        DataNotFound: If a data set is missing.
        DataDamaged: If a file of a data set has the wrong hash.
        MemoryError: If the machine has too little memory.
        OSError: If a file cannot be read or written.
        ArmMisfit: On any other error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineError(f"{spec.recipe.device} has too little memory for arm {spec.label} on {spec.task}") from error
    except (DataNotFound, DataDamaged, MemoryError, OSError):
        raise
    except Exception as error:
        plain = isinstance(error, TypeError | ValueError | RuntimeError) and str(error)
        reason = str(error) if plain else f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ArmMisfit(f"arm {spec.label} cannot be trained on {spec.task}: {reason}{_origins(spec)}") from error


def _origins(spec: RunSpec) -> str:
    """Return a note that names the plug-ins that define the norms, the placements and the task of a run."""
    named: list[tuple[Registry[Any], str]] = [(NORMS, spec.norm.name), (PLACEMENTS, spec.placement.text)]
    named.append((TASKS, spec.task))
    foreign = [
        f"{name} is defined by {registry.origin(name)}"
        for registry, text in named
        for name in re.findall(r"\w+", text)
        if registry.origin(name)
    ]
    return f" ({', '.join(foreign)})" if foreign else ""


CALLBACKS = 2
"""Number of callbacks after which a rehearsed training function is stopped."""

PASSES = 8
"""Number of forward passes after which it is stopped in any case."""

STEPS = 12
"""Number of first losses that are compared between two seeds with equal initial weights."""


def rehearse(spec: RunSpec, task: CustomTask, device: torch.device) -> tuple[list[str], int]:
    """Call everything that a run needs from a custom task: model, batches, loss or training function, evaluation.

    Args:
        spec: Specification of the run.
        task: Task that :meth:`RunSpec.begin` returned, inside its context.
        device: Device of the run.

    Returns:
        A digest of the initial weights, and the number of batches per epoch.

    Raises:
        UserCodeError: If the user's code fails.
        TypeError: If the loss is not a floating-point scalar tensor, or the scores are not numbers.
        ValueError: If the model has uninitialized weights, the loss has no gradient, the batches of a step vary, the
            training function trains another model, the scores do not fit the metric, or a norm is never called.
    """
    model, data = _begin(spec, task, device)
    weights = digest(model)
    called: set[type] = set()
    compiled = unseen_calls(nn.Identity())
    with watch_calls(lambda module, output: called.add(type(module))):
        if task.trial.train is None:
            _first_step(spec, task, model, data)
        with torch.no_grad():
            _, scores = task.evaluate(model.eval(), data, "valid")
        # Before training, scores may be NaN.
        AGGREGATES[task.metric.aggregate].value(np.nan_to_num(scores))
        if task.trial.train is not None:
            _begin_training(spec, task, model.train())
    unused = [kind.__name__ for kind in task.norm.unused(called) if kind is not NORMS["none"]]
    if unused and unseen_calls(model) == compiled:
        raise ValueError(
            f"the {' and the '.join(unused)} that norm(...) returned is never called, neither in training nor in "
            "evaluate: the arm would have no effect"
        )
    return weights, data.train_examples


def first_values(spec: RunSpec, task: CustomTask, device: torch.device) -> list[Any]:
    """Return the losses of the first batches, or the outputs and callbacks of the first steps of a training function.

    Raises:
        UserCodeError: If the user's code fails.
        TypeError: If the loss is not a floating-point scalar tensor.
        ValueError: If the model has uninitialized weights, or the training function trains another model.
    """
    model, data = _begin(spec, task, device)
    if task.trial.train is not None:
        return _begin_training(spec, task, model.train())
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


def _first_step(spec: RunSpec, task: CustomTask, model: nn.Module, data: TrialData) -> None:
    order = data.order(spec.recipe.batch_size, partial(generator, spec.seed, "data"))

    def batch() -> Any:
        seed_dropout(spec.seed, 0, torch.device(spec.recipe.device))
        return data.batch(order.batch(0))

    first = batch()
    if callable(data.batches) and not _are_equal(first, batch()):
        raise ValueError(
            "batches must be a function of the step alone: two calls for step 0 returned different batches, so a "
            "resumed run would be trained on other batches"
        )
    loss = task.loss(model.train(), first)
    if not loss.requires_grad:
        raise ValueError("the loss has no gradient: it was detached, or all weights of the model are frozen")
    loss.backward()
    model.zero_grad(set_to_none=True)


def _begin_training(spec: RunSpec, task: CustomTask, model: nn.Module) -> list[Any]:
    """Run the first steps of a training function; return the sums of module outputs and the (step, loss) callbacks.

    Raises:
        UserCodeError: If the function fails.
        ValueError: If it trains another model than the given one, or changes no weight.
    """
    values: list[Any] = []
    calls: list[nn.Module] = []
    stopped = False

    def add(value: Any, *, is_last: Callable[[], bool]) -> None:
        nonlocal stopped
        if not stopped:
            values.append(value)
            stopped = is_last()
        if stopped:
            raise Stop

    def callback(*given: Any, **named: Any) -> None:
        add(read_callback(*given, **named), is_last=lambda: sum(isinstance(v, tuple) for v in values) >= CALLBACKS)

    def watch(module: nn.Module, output: Any) -> None:
        calls.append(module)
        value = float(output.detach().double().sum()) if isinstance(output, Tensor) else 0.0
        add(value, is_last=lambda: calls.count(calls[0]) >= PASSES)

    seed_dropout(spec.seed, 0, torch.device(spec.recipe.device))
    try:
        with watch_calls(watch):
            assert task.train is not None
            task.train(model, callback, spec.recipe)
    except Stop:
        pass
    except Exception:
        # The user's code may convert Stop to another exception.
        if not stopped:
            raise
    # A model compiled in the training function contains the modules of the given one.
    if calls and not {module for call in calls for module in call.modules()} & set(model.modules()):
        raise ValueError(
            f"train calls a {type(calls[0]).__name__}, but no module of the given model: it must train the given model "
            "in place, not a copy"
        )
    return values


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
