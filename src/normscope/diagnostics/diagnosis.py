"""All instruments in one pass over a model, the causes they name, and what it cost."""

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
from torch.nn.parameter import UninitializedParameter

from normscope.diagnostics.depth.profile import StackDepth, read_depth
from normscope.diagnostics.depth.watch import watch_depth
from normscope.diagnostics.gradients.at_norms import LostGradient, NormGradients, watch_gradients
from normscope.diagnostics.numeric_range import NormRange, Precision, watch_range
from normscope.diagnostics.readings import read
from normscope.diagnostics.rules import Finding, Measured, name_causes
from normscope.diagnostics.warmup import Before, Update
from normscope.diagnostics.warmup import first_update as try_first_update
from normscope.inspection.functional_calls import listen_for_functional_norms
from normscope.inspection.norms_in import Unreached, find_norms
from normscope.inspection.preserve_state import draw_seed, gradients_of, untouched

SCHEMA = 1
"""The version of :meth:`Diagnosis.to_json`."""


@dataclass(frozen=True, kw_only=True)
class DiagnosisCost:
    """What a diagnosis took."""

    seconds: float
    forward_passes: int
    backward_passes: int
    peak_bytes: int | None
    """Memory at the highest point beyond that at the start; on a CPU beyond the highest point before. None where the
    system does not tell."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found in one batch of one model."""

    model: str
    """Its class."""
    parameters: int
    loss: float
    training: bool
    """Whether the model was in training mode."""
    findings: tuple[Finding, ...]
    gradients: tuple[NormGradients, ...]
    stacks: tuple[StackDepth, ...]
    ranges: tuple[NormRange, ...]
    first_update: Mapping[str, float] | None
    unreached: tuple[Unreached, ...]
    learning_rate: float | None
    warmup: int | None
    readings: Mapping[str, str]
    """What each instrument means, in words."""
    cost: DiagnosisCost

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; a number that is not finite becomes None."""
        fields = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"schema": SCHEMA, "torch": str(torch.__version__), **fields}

    def words(self) -> str:
        """Say the causes, or that there are none, and the readings."""
        lines = [
            f"{finding.cause} at {finding.where or 'the model'}: {finding.evidence} {finding.advice}"
            for finding in self.findings
        ] or ["No known cause was found."]
        return "\n".join([*lines, *self.readings.values()])


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
    """Run one step of a model, look at every norm and layer, and name what is known to be wrong.

    One forward and one backward pass; one forward pass more where a learning rate is known. The model is given back
    as it was, to the bit: parameters, buffers, gradients, modes, random states and hooks. The caller's own hooks run.

    Args:
        model: Any module, in the mode it is to be looked at.
        batch: What ``loss`` takes.
        loss: From (model, batch) to a scalar. It must call the model it is given. Autocast belongs inside.
        optimizer: Tells weight decay, and rate and rule of the first update. One that has made updates has no first
            one any more, and none is tried.
        learning_rate: The largest of the schedule; else the optimizer's first.
        warmup: Steps of a linear warm-up, 0 for none. None says nothing, and then nothing is said about it.
        first_update: False leaves the first update out, of a model whose training has begun.
        precision: What the model is going to be trained in; None for the dtype its norms see now.
        generator: Seeds dropout; None goes on from torch's own state, which is restored.

    Returns:
        Findings, measurements, readings in words, and the cost.

    Raises:
        TypeError: If the loss is not a tensor.
        RuntimeError: If the model recomputes activations with ``use_reentrant=True``, which torch cannot do here.
        ValueError: If it is no scalar, or has no gradient by the model's parameters; if nothing in the model is trained
            or parameters are lazy; if the learning rate is not positive and finite, the warm-up not a whole number or
            negative, or the precision unknown.
    """
    rate = learning_rate if learning_rate is not None else _rate(optimizer)
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"the learning rate must be positive and finite, got {rate}")
    if warmup is not None and (warmup < 0 or warmup != int(warmup)):
        raise ValueError(f"the warm-up must be a whole number, 0 steps or more, got {warmup}")
    if precision is not None and precision not in get_args(Precision):
        raise ValueError(f"the precision must be one of {', '.join(get_args(Precision))}, got {precision}")
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not wanted:
        raise ValueError(f"{type(model).__name__} has no parameter that is trained")
    if any(isinstance(parameter, UninitializedParameter) for parameter in wanted):
        raise ValueError(f"{type(model).__name__} has lazy parameters: run a batch through it first")
    started, memory = time.perf_counter(), _Memory(wanted[0].device)
    tries = first_update and rate is not None and not (optimizer is not None and optimizer.state)
    found, unreached = find_norms(model)
    seed = draw_seed(generator)
    lost: list[LostGradient] = []
    with untouched(model, seed=seed), ExitStack() as watches:
        gradients = watches.enter_context(watch_gradients(model, found=found, lost=lost))
        depth = watches.enter_context(watch_depth(model, found=found, keep=tries))
        ranges = watches.enter_context(watch_range(model, found=found, precision=precision, optimizer=optimizer))
        with listen_for_functional_norms(model, found) as unheard:
            value = _checked(loss(model, batch))
        by_parameter = gradients_of(value, model)
        if all(gradient is None for gradient in by_parameter.values()):
            raise ValueError(
                f"the loss depends on no parameter of {type(model).__name__}: it must call the model it is given, and "
                "a model that recomputes activations must do so with use_reentrant=False"
            )
        stacks = read_depth(depth, by_parameter)
    update = _update_of(optimizer)
    features = None
    if tries and rate is not None and update is not None and math.isfinite(float(value.detach())):
        before = Before(loss=float(value.detach()), watch=depth, profile=stacks)
        first = rate / max(warmup or 0, 1)
        features = try_first_update(model, batch, loss, first, before, by_parameter, update=update, seed=seed)
    measured = Measured(
        gradients=gradients,
        stacks=stacks,
        doubles=depth.doubles,
        ranges=ranges,
        first_update=features,
        warmup=warmup,
        loss=float(value.detach()),
        lost=lost,
        unmeasured=(*unreached, *unheard),
        not_tried=_why_not(first_update, rate, optimizer, update, float(value.detach())) if features is None else None,
    )
    findings = name_causes(measured)
    return Diagnosis(
        model=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        loss=float(value.detach()),
        training=model.training,
        findings=tuple(findings),
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
    )


def _checked(value: Any) -> Tensor:
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
"""By the optimizer's class: whose first update is the gradient's sign, or the gradient. Of RAdam, NAdam and others the
rule is not known here."""


def _update_of(optimizer: torch.optim.Optimizer | None) -> Update | None:
    """Return the rule of an optimizer's first update; Adam's without one, None for a rule that is not known."""
    if optimizer is None:
        return "adam"
    return FIRST_UPDATES.get(type(optimizer).__name__)


def _why_not(
    wanted: bool, rate: float | None, optimizer: torch.optim.Optimizer | None, update: Update | None, loss: float
) -> str:
    """Say why no first update was tried."""
    if not wanted:
        return "it was left out, as for a model whose training has begun"
    if rate is None:
        return "that needs a learning rate, or an optimizer"
    if optimizer is not None and optimizer.state:
        return f"{type(optimizer).__name__} has made updates already, so there is no first one any more"
    if update is None:
        return f"what {type(optimizer).__name__} does first is not known here"
    return f"the loss is {loss}"


class _Memory:
    """The highest point of memory beyond the start."""

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
