"""What the first update of an optimizer would do to a model, by trying it and taking it back."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normscope.probes.depth import StackDepth, watch_depth
from normscope.probes.norms_in import NormIn, find_norms
from normscope.probes.stacks import Stack, find_stacks
from normscope.probes.untouched import draw_seed, untouched

Update = Literal["adam", "sgd"]
"""``adam``: the first update of Adam and its kin, ``learning_rate * sign(gradient)``; ``sgd``: the gradient itself."""


def warmup_features(
    model: nn.Module,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    learning_rate: float,
    *,
    update: Update = "adam",
    generator: torch.Generator | None = None,
) -> dict[str, float]:
    """Measure what the first update does; the model stays as it is.

    Args:
        model: Any module.
        batch: What ``loss`` takes.
        loss: From (model, batch) to a scalar.
        learning_rate: Of the first update: with a linear warm-up of n steps, the n-th part of the largest.
        update: The rule.
        generator: Seeds dropout, which is the same before and after.

    Returns:
        Numbers by name. ``layers``; ``post`` and ``pre``, shares of layers so placed; ``gradient_ratio``, gradient by
        the output of the last layer over that of the first; ``gradient_slope``, its logarithm per layer;
        ``weight_gradient_ratio``, the same of the parameters' gradients; ``update_ratio``, median over matrices of
        the update's size over the weights'; ``loss_before``, ``loss_after``; ``predicted_decrease`` to first order;
        ``decrease_ratio``, the decrease over the predicted one; ``output_change``, relative change of the last
        layer's output; ``output_change_slope``, logarithm per layer of the change of every layer's output;
        ``common_before`` and ``common_after``, share of the energy of the last layer's output that all rows have in
        common. A number that cannot be told, of a model without a stack, is NaN.

    Raises:
        ValueError: If the learning rate is not positive.
    """
    if not learning_rate > 0:
        raise ValueError(f"the learning rate must be positive, got {learning_rate}")
    found, seed = find_norms(model)[0], draw_seed(generator)
    with untouched(model, seed=seed), watch_depth(model, found=found) as watch:
        wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss(model, batch), wanted, allow_unused=True)
        by_parameter = {id(p): gradient for p, gradient in zip(wanted, gradients, strict=True)}
        profile = watch.read(by_parameter)
    return first_update(
        model,
        batch,
        loss,
        learning_rate,
        update=update,
        seed=seed,
        found=found,
        profile=profile,
        gradients=by_parameter,
    )


def first_update(
    model: nn.Module,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    learning_rate: float,
    *,
    update: Update,
    seed: int | None,
    found: Sequence[NormIn],
    profile: Sequence[StackDepth],
    gradients: Mapping[int, Tensor | None],
) -> dict[str, float]:
    """As :func:`warmup_features`, where the gradients are known: two forward passes, one copy of the parameters."""
    stacks = find_stacks(model, found)
    with torch.no_grad():
        with untouched(model, seed=seed):
            before = _outputs(model, batch, loss, stacks)
        predicted, ratios = 0.0, []
        with untouched(model, seed=seed):
            for parameter in model.parameters():
                gradient = gradients.get(id(parameter))
                if gradient is None:
                    continue
                step = gradient.sign() if update == "adam" else gradient
                predicted += learning_rate * float((step * gradient).sum(dtype=torch.float64))
                if parameter.dim() > 1 and (size := float(parameter.norm())) > 0:
                    ratios.append(learning_rate * float(step.norm()) / size)
                # New storage: the old one is the state to come back to.
                parameter.data = parameter.data - learning_rate * step
            after = _outputs(model, batch, loss, stacks)
    changes = [_relative(z, new) for z, new in zip(before[1], after[1], strict=True)]
    last = profile[-1] if profile else None
    layers = [layer for stack in profile for layer in stack.layers]
    weights = [layer.weight_gradient for layer in last.layers if layer.weight_gradient] if last else []
    return {
        "learning_rate": learning_rate,
        "layers": float(len(layers)),
        "post": sum(layer.placement == "post" for layer in layers) / max(len(layers), 1),
        "pre": sum(layer.placement == "pre" for layer in layers) / max(len(layers), 1),
        "gradient_ratio": last.gradient_ratio if last and last.gradient_ratio is not None else math.nan,
        "gradient_slope": last.gradient_slope if last and last.gradient_slope is not None else math.nan,
        "weight_gradient_ratio": weights[-1] / weights[0] if len(weights) > 1 else math.nan,
        "update_ratio": sorted(ratios)[len(ratios) // 2] if ratios else math.nan,
        "loss_before": before[0],
        "loss_after": after[0],
        "predicted_decrease": predicted,
        "decrease_ratio": (before[0] - after[0]) / predicted if predicted > 0 else math.nan,
        "output_change": changes[-1] if changes else math.nan,
        "output_change_slope": _slope(changes),
        "common_before": last.common_share if last else math.nan,
        "common_after": _common(after[1][-1]) if after[1] else math.nan,
    }


def _outputs(
    model: nn.Module, batch: Any, loss: Callable[[nn.Module, Any], Tensor], stacks: Sequence[Stack]
) -> tuple[float, list[Tensor]]:
    """Give the loss and what the layers of the last stack put out, in their order."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        z = output if isinstance(output, Tensor) else next((e for e in output if isinstance(e, Tensor)), None)
        if z is not None:
            outputs.append(z.detach().clone())

    handles = [layer.register_forward_hook(keep) for _, layer in (stacks[-1].layers if stacks else ())]
    try:
        value = float(loss(model, batch))
    finally:
        for handle in handles:
            handle.remove()
    return value, outputs


def _relative(old: Tensor, new: Tensor) -> float:
    length = float(old.float().norm())
    return float((new.float() - old.float()).norm()) / length if length > 0 else math.nan


def _common(tensor: Tensor) -> float:
    rows = tensor.float().reshape(-1, tensor.shape[-1])
    whole = float(rows.square().sum(-1).mean())
    return float(rows.mean(0).square().sum()) / whole if whole > 0 else 0.0


def _slope(changes: Sequence[float]) -> float:
    logs = [math.log(change) for change in changes if change > 0 and math.isfinite(change)]
    if len(logs) < 2:
        return math.nan
    middle = (len(logs) - 1) / 2
    spread = sum((place - middle) ** 2 for place in range(len(logs)))
    return sum((place - middle) * value for place, value in enumerate(logs)) / spread
