"""All measurements of a model in one training step, the causes they point to, and the cost."""

import dataclasses
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from normscope.arguments import check_arguments
from normscope.diagnostics.depth.profile import StackDepth, read_depth
from normscope.diagnostics.depth.watch import watch_depth
from normscope.diagnostics.gradients.at_norms import LostGradient, NormGradients, watch_gradients
from normscope.diagnostics.measured import Finding, Measured
from normscope.diagnostics.numeric_range import NormRange, Precision, watch_range
from normscope.diagnostics.readings import read
from normscope.diagnostics.recurrent.profile import LayerSteps
from normscope.diagnostics.recurrent.watch import watch_steps
from normscope.diagnostics.rules import name_causes
from normscope.diagnostics.warmup import Before, Update
from normscope.diagnostics.warmup import first_update as try_first_update
from normscope.inspection.find import find_norms
from normscope.inspection.functional_calls import observed_functional_norms
from normscope.inspection.norm_in_model import Unreachable
from normscope.inspection.preserve_state import draw_seed, gradients_of, untouched

SCHEMA = 2
"""Version of :meth:`Diagnosis.to_json`."""


@dataclass(frozen=True, kw_only=True)
class DiagnosisCost:
    """Cost of a diagnosis."""

    seconds: float
    forward_passes: int
    backward_passes: int
    peak_bytes: int | None
    """Peak memory minus memory at the start (on a CPU, minus the previous peak); None if the system does not report
    it."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Measurements and findings for one batch of one model.

    Example:
        >>> import torch
        >>> import normscope
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8))
        >>> diagnosis = normscope.diagnose(model, torch.randn(32, 4), lambda model, x: model(x).square().mean())
        >>> sorted(diagnosis.readings)
        ['depth', 'first_update', 'gradients', 'range']
        >>> len(diagnosis.to_json()["gradients"])
        1
    """

    model: str
    """Name of its class."""
    parameters: int
    loss: float
    training: bool
    """Whether the model was in training mode."""
    findings: tuple[Finding, ...]
    gradients: tuple[NormGradients, ...]
    stacks: tuple[StackDepth, ...]
    ranges: tuple[NormRange, ...]
    first_update: Mapping[str, float] | None
    unreached: tuple[Unreachable, ...]
    learning_rate: float | None
    warmup: int | None
    readings: Mapping[str, str]
    """Plain-text interpretation of each group of measurements."""
    cost: DiagnosisCost
    recurrent: tuple[LayerSteps, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all fields as plain values for JSON; a number that is not finite becomes None."""
        fields = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"schema": SCHEMA, "torch": str(torch.__version__), **fields}

    def summary(self) -> str:
        """Return the findings and the readings as plain text."""
        lines = [
            f"{finding.title} ({finding.name}), at {finding.where or 'the model'}: {finding.evidence} {finding.remedy}"
            for finding in self.findings
        ] or ["No known cause of trouble was found."]
        return "\n".join([*lines, *self.readings.values()])


@check_arguments
def diagnose(
    model: nn.Module,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    learning_rate: float | None = None,
    warmup: int | None = None,
    first_update: bool = True,
    precision: Precision | None = None,
    generator: torch.Generator | None = None,
) -> Diagnosis:
    """Run one training step of a model, measure every norm and layer, and name known causes of trouble.

    Costs one forward and one backward pass, and a second forward pass if the learning rate is known. Afterwards the
    model is bit-identical to what it was: parameters, buffers, gradients, modes, attributes, random states and all
    hooks, also those that its own forward registers. Hooks of the caller run. Recurrent layers run step by step in the
    place of their kernels, with the same numbers up to rounding.

    Args:
        model: Any module, in the mode in which it is to be diagnosed.
        batch: Second argument of ``loss``.
        loss: Maps (model, batch) to a scalar. It must call the model that it is given. Use autocast inside it.
        optimizer: Supplies the weight decay, and the learning rate and rule of the first update. If it has already made
            updates, no first update is tried.
        learning_rate: The largest of the schedule; defaults to that of the optimizer's first parameter group.
        warmup: Number of linear warm-up steps; 0 means no warm-up. If None, warm-up is not assessed.
        first_update: Whether to try the first update; False for a model that is already partly trained.
        precision: dtype in which the model will be trained; None for the dtype of the inputs of its norms.
        generator: Seeds dropout; if None, torch's global random state is used and restored.

    Returns:
        Findings, measurements, their interpretation, and the cost.

    Raises:
        TypeError: If an argument has another type, or the loss is not a tensor.
        RuntimeError: If the model recomputes activations with ``use_reentrant=True``, which torch cannot do here.
        ValueError: If the loss is not a scalar or does not depend on the model's parameters; if the model has no
            trainable parameter, or a lazy parameter or buffer; if ``learning_rate`` is not positive and finite,
            ``warmup`` is not a non-negative whole number, or ``precision`` is unknown.

    Example:
        >>> import torch
        >>> import normscope
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))
        >>> batch = torch.randn(32, 4), torch.randn(32, 1)
        >>> loss = lambda model, batch: torch.nn.functional.mse_loss(model(batch[0]), batch[1])
        >>> diagnosis = normscope.diagnose(model, batch, loss)
        >>> [norm.name for norm in diagnosis.gradients], diagnosis.parameters
        (['1'], 65)
    """
    rate = learning_rate if learning_rate is not None else _rate(optimizer)
    device = _check_settings(model, rate, warmup, precision)
    started, memory = time.perf_counter(), _Memory(device)
    not_tried = _why_not_tried(first_update, rate, optimizer)
    found, unreached = find_norms(model)
    seed = draw_seed(generator)
    lost: list[LostGradient] = []
    with untouched(model, seed=seed), ExitStack() as watches:
        gradients = watches.enter_context(watch_gradients(model, found=found, lost=lost))
        depth = watches.enter_context(watch_depth(model, found=found, keep=not_tried is None))
        ranges = watches.enter_context(watch_range(model, found=found, precision=precision, optimizer=optimizer))
        steps = watches.enter_context(watch_steps(model, found=found))
        with observed_functional_norms(model, found) as unheard:
            value = _check_loss(loss(model, batch))
        by_parameter = gradients_of(value, model)
        if all(gradient is None for gradient in by_parameter.values()):
            raise ValueError(
                f"the loss depends on no parameter of {type(model).__name__}: it must call the model it is given, and "
                "a model that recomputes activations must do so with use_reentrant=False"
            )
        stacks, recurrent = read_depth(depth, by_parameter), steps.read()
    loss_value, features, update = float(value.detach()), None, _update_of(optimizer)
    if not_tried is None and not math.isfinite(loss_value):
        not_tried = f"the loss is {loss_value}"
    if not_tried is None and rate is not None and update is not None:
        before = Before(loss=loss_value, watch=depth, profile=stacks)
        first = rate / max(warmup or 0, 1)
        features = try_first_update(model, batch, loss, first, before, by_parameter, update=update, seed=seed)
    measured = Measured(
        gradients=gradients,
        stacks=stacks,
        doubles=depth.doubles,
        ranges=ranges,
        first_update=features,
        warmup=warmup,
        loss=loss_value,
        lost=lost,
        unmeasured=(*unreached, *unheard),
        not_tried=not_tried,
        recurrent=recurrent,
        unseen=steps.unseen,
    )
    return Diagnosis(
        model=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        loss=loss_value,
        training=model.training,
        findings=tuple(name_causes(measured)),
        gradients=tuple(gradients),
        stacks=tuple(stacks),
        ranges=tuple(ranges),
        first_update=features,
        unreached=(*unreached, *unheard),
        learning_rate=rate,
        warmup=warmup,
        readings=read(measured),
        cost=DiagnosisCost(
            seconds=time.perf_counter() - started,
            forward_passes=1 if features is None else 2,
            backward_passes=1,
            peak_bytes=memory.peak(),
        ),
        recurrent=tuple(recurrent),
    )


def _check_settings(
    model: nn.Module, rate: float | None, warmup: int | None, precision: Precision | None
) -> torch.device:
    """Check the settings of a diagnosis, and return the device of the model.

    Raises:
        ValueError: As in :func:`diagnose`.
    """
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"the learning rate must be positive and finite, got {rate}")
    if warmup is not None and (warmup < 0 or warmup != int(warmup)):
        raise ValueError(f"the warm-up must be a whole number, 0 steps or more, got {warmup}")
    if precision is not None and precision not in get_args(Precision):
        raise ValueError(f"the precision must be one of {', '.join(get_args(Precision))}, got {precision}")
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError(f"{type(model).__name__} has no trainable parameter")
    return trainable[0].device


def _check_loss(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"the loss must be a tensor, got {type(value).__name__}")
    if value.numel() != 1 or not value.requires_grad:
        kind = "without a gradient" if value.numel() == 1 else f"of shape {list(value.shape)}"
        raise ValueError(f"the loss must be a scalar with a gradient, got one {kind}")
    return value.reshape(())


def _rate(optimizer: torch.optim.Optimizer | None) -> float | None:
    return None if optimizer is None else float(optimizer.param_groups[0]["lr"])


FIRST_UPDATES: dict[str, Update] = {
    **dict.fromkeys(("Adam", "AdamW", "Adamax", "Lion", "Adam8bit", "AdamW8bit"), "adam"),
    "SGD": "sgd",
}
"""Rule of the first update by the name of the optimizer's class: the sign of the gradient, or the gradient itself.

RAdam, NAdam and others are not listed: their first update follows another rule.
"""


def _update_of(optimizer: torch.optim.Optimizer | None) -> Update | None:
    """Return the rule of an optimizer's first update: Adam's if there is no optimizer, None if the rule is unknown."""
    if optimizer is None:
        return "adam"
    return FIRST_UPDATES.get(type(optimizer).__name__)


def _why_not_tried(wanted: bool, rate: float | None, optimizer: torch.optim.Optimizer | None) -> str | None:
    """Return why the first update cannot be tried, or None if it can."""
    if not wanted:
        return "it is skipped for a model whose training has begun"
    if rate is None:
        return "it needs a learning rate or an optimizer"
    if optimizer is not None and optimizer.state:
        return f"{type(optimizer).__name__} has already made updates"
    if _update_of(optimizer) is None:
        return f"the first update of {type(optimizer).__name__} follows a rule that normscope does not know"
    return None


class _Memory:
    """Peak memory beyond that at the start."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = self._now()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def peak(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.start
        return self._now() - self.start if self.device.type == "cpu" else None

    def _now(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        # Kilobytes on Linux, bytes on macOS.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
