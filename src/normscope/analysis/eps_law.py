"""What eps takes from a normalized row: the law that deviations from an invariance are held against."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normscope import norms

BY_ROW = (nn.LayerNorm, norms.LayerNormSimple, norms.DetachNorm, norms.AdaNorm)
BY_BATCH = (norms.BatchNorm, nn.BatchNorm1d)
KNOWN = (*BY_ROW, *BY_BATCH, nn.RMSNorm, norms.ScaleNorm, norms.FRN)
"""Norms whose statistics and eps are known here."""


@dataclass(kw_only=True)
class Seen:
    """One call of a module, and of the one known norm in it."""

    norm: nn.Module | None = None
    """The norm; None if there is none of :data:`KNOWN`, or more than one."""
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    result: Any = None
    """What the module gave."""


@contextmanager
def watched(module: nn.Module) -> Iterator[Seen]:
    """Note what goes into and out of the one known norm of ``module`` inside the block; the hook goes with it.

    Args:
        module: A norm or anything that holds one.

    Yields:
        What was seen; the caller fills in ``result``.
    """
    found = [part for part in module.modules() if isinstance(part, KNOWN)]
    seen = Seen(norm=found[0] if len(found) == 1 else None)

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.inputs.append(inputs[0])
        seen.outputs.append(output)

    handle = None if seen.norm is None else seen.norm.register_forward_hook(note)
    try:
        yield seen
    finally:
        if handle is not None:
            handle.remove()


def eps_law(before: Seen, after: Seen) -> Tensor | None:
    r"""Predict the change of the output if the norm's input moved only in ways that its statistics take out.

    With r the share of its size that eps leaves a normalized row,

    .. math:: r = \frac{1}{\sqrt{1 + \epsilon / \sigma^2}}, \quad h' - h = \left(\frac{r'}{r} - 1\right) (h - b)

    where :math:`\sigma^2` is the mean square for RMSNorm and FRN and the variance over the cases for batch norm; for
    AdaNorm :math:`h = C (1 - k r y) r y`, and its ``released`` arithmetic has :math:`r = 1 / (1 + \epsilon / s)`; for
    ScaleNorm :math:`r = \min(1, \lVert x \rVert / \epsilon)`.

    Args:
        before: A call as it was.
        after: The call after a transformation.

    Returns:
        The shape of the output; None if the law does not apply: there is no known norm, or more than one, it was called
        more or less than once, it is not what makes the output, or it is a batch norm that uses running moments.
    """
    norm = before.norm
    if norm is None or len(before.inputs) != 1 or before.outputs[0] is not before.result:
        return None
    old, new = _share(norm, before.inputs[0]), _share(norm, after.inputs[0])
    if old is None or new is None:
        return None
    if isinstance(norm, norms.AdaNorm):
        x = before.inputs[0]
        axes = _axes(norm)
        centered = x - x.mean(axes, keepdim=True)
        y = centered * _inverse(centered.square().mean(axes, keepdim=True).sqrt())
        if norm.convention == "released":
            entries = torch.Size(norm.normalized_shape).numel()
            y = y * ((entries - 1) / entries) ** 0.5
        return norm.scale * ((1 - norm.k * new * y) * new * y - (1 - norm.k * old * y) * old * y)
    bias = getattr(norm, "bias", None)
    plain = before.result if not isinstance(bias, Tensor) else before.result - bias.detach().to(before.result)
    return (new * _inverse(old) - 1) * plain


def _share(norm: nn.Module, x: Tensor) -> Tensor | None:
    """Give r, broadcastable to the output."""
    if isinstance(norm, BY_BATCH):
        if (not norm.training and norm.running_mean is not None) or (isinstance(norm, nn.BatchNorm1d) and x.dim() > 2):
            return None
        axes = tuple(range(x.dim() - (len(norm.normalized_shape) if isinstance(norm, norms.BatchNorm) else 1)))
        correction = 1 if isinstance(norm, norms.BatchNorm) and norm.unbiased else 0
        return _root(x.var(axes, correction=correction, keepdim=True), norm.eps)
    if isinstance(norm, norms.FRN):
        axes = tuple(range(1, x.dim() - len(norm.normalized_shape)))
        eps = norm.eps.detach().abs() if isinstance(norm.eps, Tensor) else norm.eps
        return _root(x.square().mean(axes, keepdim=True), eps)
    axes = _axes(norm)
    if isinstance(norm, norms.ScaleNorm):
        length = torch.linalg.vector_norm(x, dim=axes, keepdim=True)
        return (length / norm.eps).clamp(max=1) if norm.eps else torch.ones_like(length)
    if isinstance(norm, nn.RMSNorm):
        eps = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
        return _root(x.square().mean(axes, keepdim=True), eps)
    assert isinstance(norm, BY_ROW)
    if isinstance(norm, norms.AdaNorm) and norm.convention == "released":
        deviation = x.std(axes, correction=1, keepdim=True)
        return deviation / (deviation + norm.eps)
    return _root(x.var(axes, correction=0, keepdim=True), norm.eps)


def _axes(norm: nn.Module) -> tuple[int, ...]:
    """Give the trailing axes of a norm by row."""
    shape: Any = norm.normalized_shape
    return tuple(range(-len(shape), 0))


def _root(square: Tensor, eps: float | Tensor) -> Tensor:
    """Give 1 / sqrt(1 + eps / square) without dividing by a zero."""
    return (square / (square + eps)).nan_to_num().sqrt()


def _inverse(value: Tensor) -> Tensor:
    """Give 1 / value, and zero for a zero."""
    return torch.where(value == 0, value, 1 / value)
