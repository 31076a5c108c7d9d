"""Diagnosis of the model of a task, built in or custom, at initialization or after training."""

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

MAX_STEPS = 50
"""Approximate maximum number of training steps that are measured."""

CADENCE = 20
"""Minimum distance between measured steps; below the probe's default, to get a curve from short trainings."""

FIELDS = ("name", "kind", "size", "recentering", "rescaling", "rho_squared", "upstream_variance", "arriving_variance")
"""Fields per norm and measured step in the history."""


@dataclass(frozen=True, kw_only=True)
class DiagnosisRequest:
    """The model to diagnose, and how it is trained before."""

    task: str
    """Key of ``TASKS``, or ``my_file.py:make``."""
    norm: str = "layer_norm"
    """Norm in the syntax of the command line."""
    placement: str = ""
    """Placement in the syntax of the command line; the task's default if empty."""
    preset: str = "small"
    """Key of the task's presets."""
    seed: int = 0
    """Seed of the initial weights, the data order and dropout."""
    steps: int = 0
    """Number of training updates before the diagnosis; 0 diagnoses the model at initialization."""
    warmup: int | None = None
    """Number of warm-up updates; the preset's if None."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Intended training precision; the diagnosis checks for overflow and underflow in it."""
    device: str = "cpu"
    """Device in torch's syntax."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """A diagnosis with the run, its history and its setting."""

    spec: RunSpec
    diagnosis: Diagnosis
    history: list[dict[str, Any]]
    """Measured training steps, as plain values; empty at initialization."""
    setting: dict[str, Any]
    """Setting of the diagnosis: the labels of the page with their values."""


def examine(request: DiagnosisRequest, callback: Callable[[int, int], None] = lambda step, of: None) -> Examination:
    """Build a model as a study does, train it if requested, and diagnose it on the first training batch.

    After training, the diagnosed model is the one that a study of published splits would test. Only the measurements of
    the probe are stored; an interrupted training starts from the beginning.

    Args:
        request: The model to diagnose.
        callback: Called a few times per second with the number of finished updates and the total number.

    Raises:
        UnknownName: If a name is not registered.
        LookupError: If a user's file or its function does not exist.
        UserCodeError: If a user's file or function fails.
        RuntimeError: If the device does not exist.
        ValueError: If the model cannot be built, a value is out of range, training in float16 is requested, or a custom
            task has a training function instead of a loss.
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
        **trained.setting,
    }
    return Examination(spec=spec, diagnosis=diagnosis, history=trained.history, setting=setting)


@dataclass(frozen=True)
class _Trained:
    model: nn.Module
    history: list[dict[str, Any]]
    setting: dict[str, Any]


def spec_of(request: DiagnosisRequest) -> RunSpec:
    """Return the run that a study would make of the request, with published splits if the task has them.

    Raises:
        UnknownName: If a name is not registered.
        LookupError: If a user's file or its function does not exist.
        UserCodeError: If a user's file or function fails.
        RuntimeError: If the device does not exist.
        ValueError: If a value is out of range, training in float16 is requested, or a custom task has a training
            function instead of a loss.
    """
    if request.steps < 0:
        raise ValueError(f"steps must be at least 0 (0 diagnoses the model at initialization), got {request.steps}")
    if not 0 <= request.seed < 2**63:
        raise ValueError(f"the seed must be from 0 to 2^63 - 1, got {request.seed}")
    device = torch.device(request.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RuntimeError(f"there is no device {request.device}: torch finds {torch.cuda.device_count()} CUDA devices")
    if request.steps and request.precision not in PRECISIONS:
        raise ValueError(
            f"training supports {' and '.join(PRECISIONS)}, got {request.precision}; without --steps, a model can be "
            f"diagnosed for {request.precision} at initialization"
        )
    _check_warmup(request)
    study_spec = make_study(
        request.task,
        norms=[request.norm],
        placements=[request.placement] if request.placement else (),
        seeds=[request.seed],
        warmups=() if request.warmup is None else [request.warmup],
        steps=request.steps or None,
        preset=request.preset,
        precision="bfloat16" if request.precision == "bfloat16" else "float32",
        device=request.device,
        # Nothing is tested here, so the seed's own split would only make diagnoses harder to compare.
        splits="published" if "published" in find_task(request.task).splits else None,
    )
    task = find_task(request.task)
    if task.train is not None:
        raise ValueError(
            f"{task.name} has a training function, so its loss is unknown: return a Trial with loss and batches, or "
            "call normscope.diagnose(model, batch, loss) in your training code"
        )
    return plan(study_spec)[0]


def _check_warmup(request: DiagnosisRequest) -> None:
    """Check that the training is not shorter than the warm-up of the preset.

    Raises:
        ValueError: If it is shorter; the message names the preset.
    """
    preset = find_task(request.task, anew=True).presets.get(request.preset)
    if preset and request.warmup is None and 0 < request.steps < preset.warmup:
        raise ValueError(
            f"the preset {request.preset} of {request.task} warms up over {preset.warmup} updates, more than the "
            f"{request.steps} of --steps: set the warm-up, such as --warmup 0"
        )


def _trained(spec: RunSpec, task: Task, callback: Callable[[int, int], None]) -> _Trained:
    """Train as a study does, and measure the gradients at the norms."""
    every = max(CADENCE, spec.recipe.steps // MAX_STEPS)
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
    metric = task.valid_metric
    setting = {"Updates": result["steps"]}
    if result["state"] == "done":
        setting["Looked at"] = (
            f"the weights after update {result['selected_step']}, the best on the validation set"
            if spec.recipe.average == 1
            else f"the mean of the weights at the last {spec.recipe.average} evaluations"
        )
        unit = f" {metric.unit}" if metric.unit else ""
        setting[f"Validation {metric.name.removeprefix('test ')}"] = f"{result['valid_value']:.4g}{unit}"
    else:
        setting["Looked at"] = "the weights at the end"
        setting["Ended"] = f"{result['state']}: {result['reason']}"
    return _Trained(models[-1], [_plain(step) for step in history], setting)


def _plain(step: GradientStep) -> dict[str, Any]:
    """Convert a measured step to plain values: drop norms with non-finite shares, replace other such values by None."""
    norms = [{name: _finite(getattr(norm, name)) for name in FIELDS} for norm in step.norms]
    return {
        "step": step.step,
        "norms": [norm for norm in norms if None not in (norm["recentering"], norm["rescaling"])],
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
