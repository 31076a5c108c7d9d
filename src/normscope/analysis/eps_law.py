"""Effect of eps on the size of a normalized row: the law that deviations from an invariance are compared with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normscope.inspection.norm_in_model import TORCH_NORMS, torch_base, traits_of


def is_known(module: nn.Module) -> bool:
    """Return whether the law covers a module: it declares its traits and divides by a size.

    Of torch's norms these are ``LayerNorm``, ``RMSNorm`` and ``BatchNorm1d``.
    """
    traits, base = traits_of(module), torch_base(module)
    covered = base is None or not TORCH_NORMS[base].channels_first or base is nn.BatchNorm1d
    return traits is not None and traits.scales and covered


@dataclass(kw_only=True)
class ObservedCall:
    """One call of a module, and of the only known norm in it."""

    norm: nn.Module | None = None
    """The norm; None unless exactly one module satisfies :func:`is_known`."""
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    result: Any = None
    """Output of the module."""


@contextmanager
def observe_norm(module: nn.Module) -> Iterator[ObservedCall]:
    """Record inputs and outputs of the only known norm of ``module`` inside the block.

    Args:
        module: A norm, or a module that contains one.

    Yields:
        A record of the calls; the caller sets ``result``.
    """
    found = [part for part in module.modules() if is_known(part)]
    seen = ObservedCall(norm=found[0] if len(found) == 1 else None)

    def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.inputs.append(inputs[0])
        seen.outputs.append(output)

    handle = None if seen.norm is None else seen.norm.register_forward_hook(record)
    try:
        yield seen
    finally:
        if handle is not None:
            handle.remove()


def eps_law(before: ObservedCall, after: ObservedCall) -> Tensor | None:
    r"""Predict the change of the output if the input of the norm changed only in ways that its statistics remove.

    With r the ratio of a normalized row's size to its size without eps,

    .. math:: r = \frac{1}{\sqrt{1 + \epsilon / \sigma^2}}, \quad h' - h = \left(\frac{r'}{r} - 1\right) (h - b)

    where :math:`\sigma^2` is the mean square for RMSNorm and FRN and the variance over the cases for batch norm; for
    AdaNorm :math:`h = C (1 - k r y) r y`, and its ``released`` arithmetic has :math:`r = 1 / (1 + \epsilon / s)`; for
    ScaleNorm :math:`r = \min(1, \lVert x \rVert / \epsilon)`.

    Args:
        before: Call before the transformation.
        after: Call after the transformation.

    Returns:
        The change, in the shape of the output. None if the law does not apply: the module does not have exactly one
        known norm, the norm was not called exactly once or does not compute the output, or it uses running
        moments.
    """
    norm: Any = before.norm
    if norm is None or len(before.inputs) != 1 or before.outputs[0] is not before.result:
        return None
    old, new = _share(norm, before.inputs[0]), _share(norm, after.inputs[0])
    if old is None or new is None:
        return None
    traits = traits_of(norm)
    if traits is not None and traits.has_factor:
        x = before.inputs[0]
        axes = _axes(norm)
        centered = x - x.mean(axes, keepdim=True)
        y = centered * _inverse(centered.square().mean(axes, keepdim=True).sqrt())
        if traits.unbiased:
            entries = torch.Size(norm.normalized_shape).numel()
            y = y * ((entries - 1) / entries) ** 0.5
        return norm.scale * ((1 - norm.k * new * y) * new * y - (1 - norm.k * old * y) * old * y)
    bias = getattr(norm, "bias", None)
    plain = before.result if not isinstance(bias, Tensor) else before.result - bias.detach().to(before.result)
    return (new * _inverse(old) - 1) * plain


def _share(norm: nn.Module, x: Tensor) -> Tensor | None:
    """Return r, broadcastable to the output."""
    traits: Any = traits_of(norm)
    shape: Any = getattr(norm, "normalized_shape", (1,))
    learned: Any = norm.eps
    eps = learned.detach().abs() if isinstance(learned, Tensor) else learned
    axes = _axes(norm)
    if traits.statistics == "batch":
        running: Any = norm.running_mean
        if (not norm.training and running is not None) or (isinstance(norm, nn.BatchNorm1d) and x.dim() > 2):
            return None
        axes = tuple(range(x.dim() - len(shape)))
    elif traits.statistics == "channels":
        if not norm.training and getattr(norm, "running_mean", None) is not None:
            return None
        if (groups := getattr(norm, "num_groups", None)) is not None:
            rows = x.reshape(len(x), -1, groups, torch.Size(shape).numel() // groups)
            return _root(rows.var((1, 3), correction=0, keepdim=True), eps).expand(rows.shape).reshape(x.shape)
        axes = tuple(range(1, x.dim() - len(shape)))
    if traits.eps_place == "length":
        length = torch.linalg.vector_norm(x, dim=axes, keepdim=True)
        return (length / eps).clamp(max=1) if eps else torch.ones_like(length)
    if traits.eps_place == "deviation":
        deviation = x.std(axes, correction=int(traits.unbiased), keepdim=True)
        return deviation / (deviation + eps)
    if not traits.centers:
        return _root(x.square().mean(axes, keepdim=True), torch.finfo(x.dtype).eps if eps is None else eps)
    return _root(x.var(axes, correction=int(traits.unbiased), keepdim=True), eps)


def _axes(norm: nn.Module) -> tuple[int, ...]:
    """Return the trailing axes that a norm normalizes over."""
    shape: Any = getattr(norm, "normalized_shape", (1,))
    return tuple(range(-len(shape), 0))


def _root(square: Tensor, eps: float | Tensor) -> Tensor:
    """Return 1 / sqrt(1 + eps / square) without a division by zero."""
    return (square / (square + eps)).nan_to_num().sqrt()


def _inverse(value: Tensor) -> Tensor:
    """Return 1 / value, and zero for zero."""
    return torch.where(value == 0, value, 1 / value)
