"""A diagnosis of a task's model, or of one in a user's file, at initialization or after training."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import nn

from normscope.diagnostics.diagnosis import Diagnosis, diagnose
from normscope.diagnostics.gradients.history import GradientStep, gradients_through_training
from normscope.results.store import RunFolder, read_json
from normscope.specs import find_task
from normscope.studies.plan import RunSpec, plan
from normscope.studies.spec import make_study
from normscope.tasks import Task
from normscope.tasks.recipe import PRECISIONS
from normscope.training.loop import train
from normscope.training.randomness import generator

__tracebackhide__ = True

MEASURED = 50
"""Steps of a training that are measured at most."""

CADENCE = 20
"""Least distance of two measured steps; below the probe's default, for short trainings are to have a curve, too."""

KEPT = ("name", "kind", "size", "recentering", "rescaling", "rho_squared", "upstream_variance", "arriving_variance")
"""What of every norm is written down at a measured step."""


@dataclass(frozen=True, kw_only=True)
class DiagnosisRequest:
    """What is to be looked at."""

    task: str
    """Key of ``TASKS``, or ``my_file.py:make``."""
    norm: str = "layer_norm"
    """As the command line writes it."""
    placement: str = ""
    """As the command line writes it; the task's default where empty."""
    preset: str = "small"
    """Key of the task's presets."""
    seed: int = 0
    """Of first weights, order of data and dropout."""
    steps: int = 0
    """Updates to train before the look; with 0 it is a look at initialization."""
    warmup: int | None = None
    """Warm-up updates; the preset's where None."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the model is meant to be trained in: the numbers that reach the norms are judged by it."""
    device: str = "cpu"
    """As torch names it."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was found, and in what."""

    spec: RunSpec
    diagnosis: Diagnosis
    history: list[dict[str, Any]]
    """Steps that were measured on the way, as plain values; none at initialization."""
    setting: dict[str, Any]
    """What was looked at, by what the page calls it."""


def examine(request: DiagnosisRequest, callback: Callable[[int, int], None] = lambda step, of: None) -> Examination:
    """Build a model as a study would, train it if that is wanted, and diagnose it on the first training batch.

    A model that was trained is the one that a study would test. Nothing is kept of
    its training but what the probe measured; an interrupted one begins again.

    Args:
        request: What is to be looked at.
        callback: Takes the number of updates made, and of all, a few times a second.

    Raises:
        LookupError: If a name is not in the catalogue, or a user's file not there.
        UserCodeError: If a user's file or function fails.
        ValueError: If the model cannot be built, if a user's file trains by itself, so that there is no loss to look
            at, or if the model is to be trained in float16.
    """
    spec = spec_of(request)
    task = spec.begin()
    device = torch.device(request.device)
    with task.context():
        trained = _trained(spec, task, callback) if request.steps else _Trained(spec.build(task).to(device), [], {})
        model = trained.model.train()
        data = task.load(device, spec.split, spec.preset)
        batch = data.batch(data.order(spec.recipe.batch_size, partial(generator, spec.seed, "data")).batch(0))
        diagnosis = diagnose(
            model,
            batch,
            task.loss,
            optimizer=spec.recipe.make_optimizer(model),
            learning_rate=spec.recipe.learning_rate,
            warmup=spec.recipe.warmup,
            # The first update is a matter of initialization.
            first_update=not request.steps,
            precision=None if request.precision == "float32" else request.precision,
            generator=torch.Generator().manual_seed(spec.seed),
        )
    setting = {
        "Task": spec.task,
        "Norm": spec.label,
        "Placement": spec.placement.text,
        "Preset": spec.preset,
        "Seed": spec.seed,
        "Precision": request.precision,
        "Looked at": "initialization",
        **trained.told,
    }
    return Examination(spec=spec, diagnosis=diagnosis, history=trained.history, setting=setting)


@dataclass(frozen=True)
class _Trained:
    model: nn.Module
    history: list[dict[str, Any]]
    told: dict[str, Any]


def spec_of(request: DiagnosisRequest) -> RunSpec:
    """Give the run that a study would make of it.

    Raises:
        LookupError: As `examine`.
        UserCodeError: As `examine`.
        RuntimeError: If there is no such device.
        ValueError: As `examine`.
    """
    if request.steps < 0:
        raise ValueError(f"steps must be 0, for a look at initialization, or more, got {request.steps}")
    if not 0 <= request.seed < 2**63:
        raise ValueError(f"the seed must be from 0 to 2^63 - 1, got {request.seed}")
    device = torch.device(request.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RuntimeError(f"there is no device {request.device}: torch sees {torch.cuda.device_count()} of them here")
    if request.steps and request.precision not in PRECISIONS:
        raise ValueError(
            f"training is in {' or '.join(PRECISIONS)} here, got {request.precision}; at initialization, without "
            "steps, numbers can be judged by it"
        )
    _check_warmup(request)
    card = make_study(
        request.task,
        norms=[request.norm],
        placements=[request.placement] if request.placement else (),
        seeds=[request.seed],
        warmups=() if request.warmup is None else [request.warmup],
        steps=request.steps or None,
        preset=request.preset,
        precision="bfloat16" if request.precision == "bfloat16" else "float32",
        device=request.device,
    )
    task = find_task(request.task)
    if task.train is not None:
        raise ValueError(
            f"{task.name} trains by itself, so there is no loss to look at: give its Trial loss and batches, or call "
            "normscope.diagnose(model, batch, loss) where you train"
        )
    return plan(card)[0]


def _check_warmup(request: DiagnosisRequest) -> None:
    """Refuse a training that is shorter than a warm-up which nobody asked for.

    Raises:
        ValueError: In words that say whose it is.
    """
    preset = find_task(request.task, anew=True).presets.get(request.preset)
    if preset and request.warmup is None and 0 < request.steps < preset.warmup:
        raise ValueError(
            f"the preset {request.preset} of {request.task} warms up over {preset.warmup} updates, more than the "
            f"{request.steps} of --steps: give a warm-up, such as --warmup 0"
        )


def _trained(spec: RunSpec, task: Task, callback: Callable[[int, int], None]) -> _Trained:
    """Train as a study does, with the probe around it."""
    every = max(CADENCE, spec.recipe.steps // MEASURED)
    models: list[nn.Module] = []

    def watch(step: int, loss: float) -> bool:
        callback(step, spec.recipe.steps)
        return False

    with TemporaryDirectory() as directory, ExitStack() as probe:
        history: list[Any] = []

        def build() -> nn.Module:
            nonlocal history
            models.append(spec.build(task))
            history = probe.enter_context(gradients_through_training(models[-1], every=every))
            return models[-1]

        folder = RunFolder(Path(directory))
        train(
            task,
            build,
            seed=spec.seed,
            recipe=spec.recipe,
            split=spec.split,
            preset=spec.preset,
            folder=folder,
            identity=spec.identity(),
            watch=watch,
        )
        result = read_json(folder.result)
        probe.close()
    wanted = task.valid_metric
    told = {"Updates": result["steps"]}
    if result["state"] == "done":
        told["Looked at"] = (
            f"the weights after update {result['selected_step']}, the best on the validation set"
            if spec.recipe.average == 1
            else f"the mean of the weights at the last {spec.recipe.average} looks at the validation set"
        )
        unit = f" {wanted.unit}" if wanted.unit else ""
        told[f"Validation {wanted.name.removeprefix('test ')}"] = f"{result['valid_value']:.4g}{unit}"
    else:
        told["Looked at"] = "where it ended"
        told["Ended"] = f"diverged: {result['reason']}"
    return _Trained(models[-1], [_plain(step) for step in history], told)


def _plain(step: GradientStep) -> dict[str, Any]:
    """Give a measured step as plain values, without norms whose shares are not finite; else such a number is None."""
    norms = [{name: _finite(getattr(norm, name)) for name in KEPT} for norm in step.norms]
    return {
        "step": step.step,
        "norms": [norm for norm in norms if None not in (norm["recentering"], norm["rescaling"])],
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
