"""One forward pass of every arm before the first run: a norm that does not fit is an error, not a study of failures."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TypeVar

import torch

from normscope.catalogue import ORIGINS, find_task
from normscope.data import DataDamaged, DataNotFound
from normscope.study.card import TUNING_SEEDS, Card
from normscope.study.engine import EngineError
from normscope.study.plan import RunSpec, plan
from normscope.study.rehearsal import heard, rehearse
from normscope.tasks import OwnTask, Task

T = TypeVar("T")


class ArmMisfit(ValueError):
    """An arm cannot be trained on the task."""


def preflight(card: Card) -> None:
    """Compute every arm's loss on the first batch of the training set; the caller's random numbers are untouched.

    What a user wrote is tried further, see :mod:`normscope.study.rehearsal`: not only when all training is done.

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
        if isinstance(find_task(card.task), OwnTask):
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


def _try_own(card: Card, device: torch.device) -> None:
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


def _on_own(trying: Callable[[RunSpec, OwnTask, torch.device], T], spec: RunSpec, device: torch.device) -> T:
    with _misfits(spec):
        task = spec.begin()
        assert isinstance(task, OwnTask)
        with task.at_home(), torch.enable_grad():
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
    """Say which packages brought what is not ours."""
    named = {"norms": spec.norm, "placements": spec.placement, "tasks": spec.task}
    foreign = [
        f"{name} is of {package}"
        for (group, name), package in ORIGINS.items()
        if name in re.findall(r"\w+", named.get(group, ""))
    ]
    return f" ({', '.join(foreign)})" if foreign else ""
