"""Effect of an optimizer's first update on a model, measured by trying it and undoing it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normscope.arguments import check_arguments
from normscope.diagnostics.depth.profile import StackDepth, read_depth
from normscope.diagnostics.depth.watch import DepthWatch, common_share, watch_depth
from normscope.fits import log_slope
from normscope.inspection.find import find_norms
from normscope.inspection.preserve_state import draw_seed, gradients_of, untouched

Update = Literal["adam", "sgd"]
"""``adam``: the first update of Adam and its variants, ``learning_rate * sign(gradient)``; ``sgd``: the gradient."""


@check_arguments
def warmup_features(
    model: nn.Module,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    learning_rate: float,
    *,
    update: Update = "adam",
    generator: torch.Generator | None = None,
) -> dict[str, float]:
    """Measure the effect of the first update; the model is left unchanged.

    Args:
        model: Any module.
        batch: Second argument of ``loss``.
        loss: Maps (model, batch) to a scalar.
        learning_rate: Learning rate of the first update; with a linear warm-up of n steps, the largest divided by n.
        update: Rule of the first update.
        generator: Seeds dropout, which is identical before and after.

    Returns:
        Numbers by name:

        * ``learning_rate``, ``layers`` (their number), ``post`` and ``pre`` (shares of layers with that placement);
        * ``gradient_ratio``: gradient with respect to the output of the last layer divided by that of the first;
        * ``gradient_slope``: growth of the logarithm of that gradient per layer;
        * ``weight_gradient_ratio``: like ``gradient_ratio``, for the gradients of the parameters;
        * ``update_ratio``: median over weight matrices of the length of the update divided by that of the weights;
        * ``loss_before``, ``loss_after``, ``predicted_decrease`` (to first order), ``decrease_ratio`` (actual decrease
          divided by the predicted decrease);
        * ``output_change``: relative change of the last layer's output;
        * ``output_change_slope``: growth of the logarithm of the change of a layer's output, per layer;
        * ``common_before``, ``common_after``: share of the energy of the last layer's output common to all rows.

        A number that cannot be computed, for example without a stack of layers, is NaN. So are changes of outputs if
        the update changes which layers are called or the number of rows they process, as in a mixture of experts.

    Raises:
        ValueError: If the learning rate is not positive and finite.

    Example:
        >>> import torch
        >>> from normscope.diagnostics import warmup_features
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, 3)
        >>> loss = lambda model, x: model(x)[..., 0].square().mean()
        >>> features = warmup_features(model, torch.randn(2, 5, 8), loss, learning_rate=1e-3)
        >>> features["layers"], features["post"], features["pre"]
        (3.0, 1.0, 0.0)
    """
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ValueError(f"the learning rate must be positive and finite, got {learning_rate}")
    found, seed = find_norms(model)[0], draw_seed(generator)
    with untouched(model, seed=seed), watch_depth(model, found=found, keep=True) as watch:
        value = loss(model, batch)
        by_parameter = gradients_of(value, model)
    before = make_before(value, watch, by_parameter)
    return first_update(model, batch, loss, learning_rate, before, by_parameter, update=update, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Before:
    """Measurements of a model before its first update."""

    loss: float
    watch: DepthWatch
    """Finished measurement of the pass, with the outputs of the last stack's layers."""
    profile: Sequence[StackDepth]


def make_before(loss: Tensor, watch: DepthWatch, gradients: Mapping[int, Tensor | None]) -> Before:
    """Collect the measurements of the first pass."""
    profile = read_depth(watch, gradients)
    return Before(loss=float(loss.detach()), watch=watch, profile=profile)


def first_update(
    model: nn.Module,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    learning_rate: float,
    before: Before,
    gradients: Mapping[int, Tensor | None],
    *,
    update: Update,
    seed: int | None,
) -> dict[str, float]:
    """Compute :func:`warmup_features` after a finished first pass: one forward pass and one copy of the parameters."""
    predicted, ratios = 0.0, []
    watched = watch_depth(model, keep=True, stacks=before.watch.stacks)
    with torch.no_grad(), untouched(model, seed=seed), watched as watch:
        for parameter in model.parameters():
            gradient = gradients.get(id(parameter))
            if gradient is None:
                continue
            step = gradient.sgn() if update == "adam" else gradient
            predicted += learning_rate * _inner(step, gradient)
            if parameter.dim() > 1 and (size := float(parameter.norm())) > 0:
                ratios.append(learning_rate * float(step.norm()) / size)
            # New storage: the old one is the state to be restored.
            parameter.data = parameter.data.add(step, alpha=-learning_rate)
        loss_after = float(loss(model, batch))
    profile = before.profile
    after = watch.outputs
    changes = _changes(before.watch, watch)
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
        "loss_before": before.loss,
        "loss_after": loss_after,
        "predicted_decrease": predicted,
        "decrease_ratio": (before.loss - loss_after) / predicted if predicted > 0 else math.nan,
        "output_change": changes[-1] if changes else math.nan,
        "output_change_slope": _logs(changes),
        "common_before": last.common_share if last else math.nan,
        "common_after": common_share(after[-1]) if after else math.nan,
    }


def _changes(before: DepthWatch, after: DepthWatch) -> list[float]:
    """Return the relative change of every call's output; all NaN if the update changes which layers are called."""
    called = [
        [(call.name, None if call.output is None else call.output.shape) for call in watch.last_calls()]
        for watch in (before, after)
    ]
    if called[0] != called[1]:
        return [math.nan] * len(called[0])
    return [_relative(z, new) for z, new in zip(before.outputs, after.outputs, strict=True)]


def _inner(step: Tensor, gradient: Tensor) -> float:
    wide = torch.complex128 if gradient.is_complex() else torch.float64
    return float((step.conj() * gradient).sum(dtype=wide).real)


def _relative(old: Tensor, new: Tensor) -> float:
    length = float(old.float().norm())
    return float((new.float() - old.float()).norm()) / length if length > 0 else math.nan


def _logs(changes: Sequence[float]) -> float:
    positive = [change for change in changes if change > 0 and math.isfinite(change)]
    return log_slope(positive) if len(positive) >= 2 else math.nan
