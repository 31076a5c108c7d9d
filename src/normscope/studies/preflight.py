"""Checks before the first run: every arm computes a loss; custom tasks are also evaluated and begin training."""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar, cast

import torch

from normscope.data import DataDamaged, DataNotFound
from normscope.errors import NormscopeError
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.registry import Registry
from normscope.results.seeding import describe_shared, shared
from normscope.specs import find_task
from normscope.studies.engines.engine import EngineError
from normscope.studies.plan import RunSpec, plan
from normscope.studies.rehearsal import Rehearsal, draws, first_values, rehearse
from normscope.studies.spec import TUNING_SEEDS, StudySpec
from normscope.tasks import TASKS, CustomTask, Task

__tracebackhide__ = True

T = TypeVar("T")


class ArmMisfit(NormscopeError, ValueError):
    """An arm cannot be trained on the task."""


def check_device(name: str) -> None:
    """Check that a device exists.

    Raises:
        EngineError: If it does not.
    """
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.type != "cpu" and (device.index or 0) >= count:
        raise EngineError(
            f"device {name!r} does not exist: torch {torch.__version__} finds {count or 'no'} CUDA devices here"
        )


def preflight(study_spec: StudySpec) -> list[str]:
    """Check that every arm can compute its loss on the first training batch; the random state is preserved.

    Custom tasks get the further checks of :func:`normscope.studies.rehearsal.rehearse`, so that their errors appear
    before training. Warnings name scores that are not finite, and what is the same in all seeds.

    Returns:
        What the seed does not decide in a custom task, though it should: keys of ``normscope.results.seeding.SHARED``.

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
            return _check_custom_task(study_spec, device)
        for spec in plan(study_spec, seeds=study_spec.seeds[:1]):
            with torch.no_grad(), _as_misfit(spec):
                _compute_first_loss(spec, spec.begin(), device)
    return []


def _compute_first_loss(spec: RunSpec, task: Task, device: torch.device) -> None:
    model = spec.build(task).to(device)
    spec.recipe.make_optimizer(model)
    data = task.load(device, spec.split, spec.preset)
    order = data.order(spec.recipe.batch_size, lambda number: torch.Generator().manual_seed(number))
    task.loss(model, data.batch(order.batch(0)))


def _check_custom_task(study_spec: StudySpec, device: torch.device) -> list[str]:
    """Rehearse one run per arm, one with another seed, and, if the study is tuned, one on the tuning split.

    Raises:
        ArmMisfit: As :func:`preflight`.
    """
    specs = plan(study_spec, seeds=study_spec.seeds[:1])
    results = [_call_in_run(rehearse, spec, device) for spec in specs]
    for spec, result in zip(specs, results, strict=True):
        if result.batches != results[0].batches:
            raise ArmMisfit(
                f"{spec.task} has {results[0].batches} batches for arm {specs[0].label} and {result.batches} for arm "
                f"{spec.label}: with one seed, all arms must be trained on the same batches"
            )
    for part, broken in results[0].broken.items():
        warnings.warn(
            f"{specs[0].task}: with the initial weights, the {part} score of {broken}; a run in which a score is not "
            "finite after training could not be scored",
            stacklevel=2,
        )
    if study_spec.tune:
        _call_in_run(rehearse, plan(study_spec, seeds=TUNING_SEEDS[:1], split="tune")[0], device)
    return _check_seeds(study_spec, specs[0], results[0], device) if len(study_spec.seeds) > 1 else []


def _check_seeds(study_spec: StudySpec, spec: RunSpec, result: Rehearsal, device: torch.device) -> list[str]:
    """Compare the first run with that of another seed; return what they share though the seed should decide it.

    Raises:
        ArmMisfit: If they share everything.
    """
    other = plan(study_spec, seeds=study_spec.seeds[1:2])[0]
    try:
        others = _call_in_run(rehearse, other, device)
    except ArmMisfit:
        # An error with one seed fails only the runs with that seed.
        return []
    if result.weights == others.weights:
        first, second = (_call_in_run(first_values, each, device) for each in (spec, other))
        if first == second:
            raise ArmMisfit(
                f"the seed changes nothing in {other.task}: seeds {spec.seed} and {other.seed} give equal initial "
                "weights and equal first losses, so all runs of an arm would be identical. The generators of torch, "
                "NumPy and Python are already seeded with the run's seed: remove the code that seeds them again"
            )
    found = shared([result.draws, others.draws])
    if found == ["batches"]:
        # A few batches may come in one order by chance: more of them, and with more seeds.
        more = [plan(study_spec, seeds=[seed])[0] for seed in (spec.seed, other.seed, *_other_seeds(study_spec))]
        found = shared([_call_in_run(draws, each, device) for each in more])
    if found:
        warnings.warn(f"{spec.task}: {describe_shared(found)}", stacklevel=2)
    return found


def _other_seeds(study_spec: StudySpec) -> Sequence[int]:
    return (*study_spec.seeds[2:4], max(study_spec.seeds) + 1)[:2]


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
