"""What a user's own task is tried with before the first run: a batch, a look, the first steps of their own loop."""

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


class ArmMisfit(ValueError):
    """An arm cannot be trained on the task."""


def preflight(card: StudySpec) -> None:
    """Compute every arm's loss on the first batch of the training set; the caller's random numbers are untouched.

    What a user wrote is tried further, see :mod:`normscope.studies.preflight`: not only when all training is done.

    Raises:
        EngineError: If the device has too little memory.
        DataNotFound: If a user's function asks for a data set that is not here.
        DataDamaged: If one of its files is not the published one.
        ArmMisfit: If an arm's network cannot be built or computed; the message has the arm, the task, the reason, and
            which package brought what is not ours. If arms of a user's task have other numbers of batches, or its seed
            changes nothing.
    """
    absent = [name for name in getattr(find_task(card.task), "packages", ()) if find_spec(name) is None]
    if absent:
        raise ArmMisfit(f"{card.task} needs {' and '.join(absent)}: `pip install normscope[text]` brings them")
    device = torch.device(card.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if find_task(card.task).location:
            _try_own(card, device)
            return
        for spec in plan(card, seeds=card.seeds[:1]):
            with torch.no_grad(), _misfits(spec):
                _try(spec, spec.begin(), device)


def _try(spec: RunSpec, task: Task, device: torch.device) -> None:
    model = spec.build(task).to(device)
    data = task.load(device, spec.split, spec.preset)
    order = data.order(spec.recipe.batch_size, lambda number: torch.Generator().manual_seed(number))
    task.loss(model, data.batch(order.batch(0)))


def _try_own(card: StudySpec, device: torch.device) -> None:
    """Try a run of every arm, one of another seed, and one where a user's function must make another for tuning.

    Raises:
        ArmMisfit: As :func:`preflight`.
    """
    specs = plan(card, seeds=card.seeds[:1])
    found = [_on_own(rehearse, spec, device) for spec in specs]
    first_weights, batches = found[0]
    for spec, (_, here) in zip(specs, found, strict=True):
        if here != batches:
            raise ArmMisfit(
                f"{spec.task} has {batches} batches for arm {specs[0].label} and {here} for arm {spec.label}: all arms "
                "of a seed are trained on the same"
            )
    if card.tune:
        _on_own(rehearse, plan(card, seeds=TUNING_SEEDS[:1], split="tune")[0], device)
    if len(card.seeds) > 1:
        other = plan(card, seeds=card.seeds[1:2])[0]
        try:
            weights, _ = _on_own(rehearse, other, device)
        except ArmMisfit:
            # An error of one seed costs the runs of that seed.
            return
        if weights == first_weights and _on_own(heard, specs[0], device) == _on_own(heard, other, device):
            raise ArmMisfit(
                f"the seed changes nothing in {other.task}: seeds {specs[0].seed} and {other.seed} have equal first "
                "weights and equal first losses, so their runs would be copies of one, and no verdict. The generators "
                "of torch, NumPy and Python are seeded with it already: leave out what seeds them again"
            )


def _on_own(trying: Callable[[RunSpec, CustomTask, torch.device], T], spec: RunSpec, device: torch.device) -> T:
    with _misfits(spec):
        # A task with a location is always one.
        task = cast(CustomTask, spec.begin())
        with task.context(), torch.enable_grad():
            return trying(spec, task, device)


@contextmanager
def _misfits(spec: RunSpec) -> Iterator[None]:
    """Say of which arm an error is; what the machine lacks is no misfit.

    Raises:
        EngineError: If the device has too little memory.
        DataNotFound: As it is.
        DataDamaged: As it is.
        MemoryError: As it is.
        OSError: As it is.
        ArmMisfit: If anything else is wrong.
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
    """Name the packages that brought the norms, the placements and the task of a run."""
    named: list[tuple[Registry[Any], str]] = [(NORMS, spec.norm.name), (PLACEMENTS, spec.placement.text)]
    named.append((TASKS, spec.task))
    foreign = [
        f"{name} is of {registry.origin(name)}"
        for registry, text in named
        for name in re.findall(r"\w+", text)
        if registry.origin(name)
    ]
    return f" ({', '.join(foreign)})" if foreign else ""


TOLD = 2
"""How often a user's own loop tells something before it is left."""

PASSES = 8
"""How often it may call its model until then."""

STEPS = 12
"""Losses that two seeds must share, beside their first weights, to be taken for one."""


def rehearse(spec: RunSpec, task: CustomTask, device: torch.device) -> tuple[list[str], int]:
    """Try everything that a run will ask of a user's code, as far as it goes before training.

    Args:
        spec: The run.
        task: As the run began it; what it set for the process holds.
        device: Where.

    Returns:
        What tells the first weights from others, and how many batches a pass has.

    Raises:
        UserCodeError: If the code fails.
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


def heard(spec: RunSpec, task: CustomTask, device: torch.device) -> list[Any]:
    """Give what the first steps of a run show: losses of its first batches, or what its own loop computes and tells.

    Raises:
        UserCodeError: As :func:`rehearse`.
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


def _begin(spec: RunSpec, task: CustomTask, device: torch.device) -> tuple[nn.Module, TrialData]:
    model = spec.build(task)
    lazy = [name for name, one in model.named_parameters() if isinstance(one, nn.UninitializedParameter)]
    if lazy:
        raise ValueError(
            f"the model has weights without a shape ({', '.join(lazy)}): call it once on a batch before it is returned"
        )
    return model.to(device), task.load(device, spec.split, spec.preset)


def _first_step(spec: RunSpec, task: CustomTask, model: nn.Module, data: TrialData) -> None:
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


def _first_words(spec: RunSpec, task: CustomTask, model: nn.Module) -> list[Any]:
    """Let a loop of theirs begin; give what its model computed and what it told.

    Raises:
        UserCodeError: As :func:`rehearse`.
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

    def callback(*given: Any, **named: Any) -> None:
        hear(read_callback(*given, **named), enough=lambda: sum(isinstance(one, tuple) for one in words) >= TOLD)

    def notice(module: nn.Module, made: Any) -> None:
        calls.append(module)
        value = float(made.detach().double().sum()) if isinstance(made, Tensor) else 0.0
        hear(value, enough=lambda: calls.count(calls[0]) >= PASSES)

    seed_dropout(spec.seed, 0, torch.device(spec.recipe.device))
    try:
        with watch_calls(notice):
            assert task.train is not None
            task.train(model, callback, spec.recipe)
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
