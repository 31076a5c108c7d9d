"""Gradients before and after every norm in one backward pass, the parts that it removes, and the exact law."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normscope.arguments import check_arguments
from normscope.diagnostics.gradients.shares import energy, let_through, parts_of
from normscope.inspection.derivative import (
    as_rows,
    derivative_of,
    factor_of,
    fixed_moments,
    has_known_derivative,
    is_over_features,
    through_weight,
)
from normscope.inspection.find import find_norms, within_recurrent
from normscope.inspection.norm_in_model import NormInModel
from normscope.inspection.preserve_state import draw_seed, gradients_of, untouched
from normscope.torch_internals import version_of

WhyLost = Literal["not finite", "input not finite", "zero", "overwritten", "missing"]


@dataclass(frozen=True, kw_only=True)
class NormGradients:
    """Gradients at one call of one norm; inside a recurrent layer or cell, at the calls of all steps together.

    Means are over its rows; shares are of the upstream energy.
    """

    name: str
    kind: str
    rows: int
    """R: number of groups that are normalized separately."""
    width: int
    """H: number of entries per group."""
    upstream_mean: float
    """Root mean square over rows of the mean of g, the gradient at the normalized input (weight included)."""
    upstream_variance: float
    """Mean over rows of D_g, the variance of g within a row."""
    size: float
    """Median over rows of the divisor; if the norm does not divide, of the standard deviation of the row."""
    recentering: float
    """Share of g along the constant vector, ``sum H mean(g)^2 / sum |g|^2``: removed by the mean's derivative."""
    rescaling: float
    """Share of g along the centered input: removed by the derivative of the standard deviation."""
    rho_squared: float
    """Squared correlation of g and y, weighted by the energy of the rows."""
    removes: tuple[str, ...]
    """Which of the two parts this norm removes; RMSNorm removes the part along its uncentered input instead."""
    arriving_mean: float | None
    """``upstream_mean`` of the gradient with respect to the input; None if the input needs no gradient."""
    arriving_variance: float | None
    """``upstream_variance`` of the gradient with respect to the input."""
    law_variance: float | None
    """``arriving_variance`` according to the law: ``(D_g / sigma^2)(1 - rho^2)`` for a layer norm without eps."""
    law_error: float | None
    """``|arriving_variance / law_variance - 1|``; None if no law is known, or if the gradient is missing or too small
    for the precision of its dtype."""
    beside: dict[str, float]
    """Share of the energy of g that each of :data:`~normscope.diagnostics.gradients.shares.BESIDE` would let through
    here, over the features of one position, whichever group this norm normalizes."""
    upstream_energy: float
    """Squared length of the whole gradient with respect to the output."""
    arriving_energy: float | None
    """Squared length of the whole gradient with respect to the input."""


@dataclass(frozen=True, kw_only=True)
class LostGradient:
    """A call of a norm without a usable gradient."""

    name: str
    why: WhyLost
    """``missing``: it received no gradient; ``overwritten``: its input was later modified in place."""


@dataclass(kw_only=True)
class NormCall:
    """One call of a norm, with sums over its gradients that are still on the device."""

    norm: NormInModel
    x: Tensor
    version: int
    upstream: Tensor | None = None
    size: Tensor | None = None
    arriving: Tensor | None = None
    shape: tuple[int, int] = (0, 0)
    overwritten: bool = False
    tiny: float = 0.0
    """Smallest normal number of the gradient's dtype."""


@contextmanager
def watch_gradients(
    model: nn.Module, *, found: Sequence[NormInModel] | None = None, lost: list[LostGradient] | None = None
) -> Iterator[list[NormGradients]]:
    r"""Measure the gradients before and after every norm in the backward passes inside the block.

    With :math:`y = (x - \mu) / \sigma` a row of H normalized entries and :math:`g = \partial L / \partial y`, a layer
    norm without eps returns :math:`b = (g - \bar g - y\,\overline{g y}) / \sigma`, so that exactly

    .. math:: \bar b = 0, \qquad D_b = \frac{D_g}{\sigma^2} (1 - \rho^2), \quad \rho = \mathrm{corr}(g, y)

    This law, extended to eps and to norms that detach or omit a statistic, is checked against the actual gradient
    (``law_error``). Only the path through the norm is measured, without the gradient of the residual connection. No
    value in the graph changes.

    Args:
        model: Any module.
        found: Its norms, if they are already known; defaults to those that
            :func:`~normscope.inspection.find.find_norms` lists.
        lost: A list to which calls without a usable gradient are added, in the order of the forward calls.

    Yields:
        A list that is filled when the block ends, in the order of the forward calls, without calls whose gradient is
        missing, zero or not finite, or whose input was later overwritten.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, Theorem 1.
        Departs from it in: the paper bounds the variance; the exact law and the shares are additions.
    """
    calls: list[NormCall] = []
    listed = find_norms(model)[0] if found is None else found
    result: list[NormGradients] = []
    with ExitStack() as stack:
        for norm in listed:
            attach(norm, calls, stack)
        yield result
    for call in join_steps(calls, within_recurrent(model)):
        if (gradients := read_call(call)) is not None:
            result.append(gradients)
        elif lost is not None:
            lost.append(LostGradient(name=call.norm.name, why=_why_lost(call)))


@check_arguments
def gradients_at_norms(
    model: nn.Module,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator | None = None,
) -> list[NormGradients]:
    """Measure the gradients at every norm in one training step; the model is left unchanged.

    Args:
        model: Any module.
        batch: Second argument of ``loss``.
        loss: Maps (model, batch) to a scalar.
        generator: Seeds dropout; if None, torch's global random state is used and restored.

    Returns:
        One entry per call of a norm, as in :func:`watch_gradients`.

    Example:
        >>> import torch
        >>> from normscope.diagnostics import gradients_at_norms
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))
        >>> batch = torch.randn(32, 4), torch.randn(32, 1)
        >>> loss = lambda model, batch: torch.nn.functional.mse_loss(model(batch[0]), batch[1])
        >>> (norm,) = gradients_at_norms(model, batch, loss)
        >>> norm.name, norm.kind, norm.rows, norm.removes
        ('1', 'layer_norm', 32, ('recentering', 'rescaling'))
    """
    with untouched(model, seed=draw_seed(generator)), watch_gradients(model) as result:
        gradients_of(loss(model, batch), model)
    return result


def attach(norm: NormInModel, calls: list[NormCall], stack: ExitStack) -> None:
    """Register hooks on one norm that record the gradients at its output and at an alias of its input."""
    inputs_seen: list[Any] = []

    def before(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        x = inputs[0] if inputs else next(iter(named.values()), None)
        if not (isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled()):
            inputs_seen.append(x)
            return None
        # The gradient of an alias excludes all other paths from the input.
        inputs_seen.append(alias := x.view_as(x))
        if inputs:
            return (alias, *inputs[1:]), named
        return inputs, {**named, next(iter(named)): alias}

    def after(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        x = inputs_seen.pop()
        joined = isinstance(output, tuple) and len(output) == 2 and all(isinstance(each, Tensor) for each in output)
        if joined:
            # A norm of this package with a residual: it normalizes the sum, which is its second output.
            output, x = output
        if not (isinstance(output, Tensor) and isinstance(x, Tensor) and output.requires_grad):
            return
        call = NormCall(norm=norm, x=x.detach(), version=version_of(x))
        calls.append(call)
        output.register_hook(lambda gradient: _record_upstream(call, gradient))
        if x.requires_grad and not joined:
            x.register_hook(lambda gradient: _record_arriving(call, gradient))

    handles = [
        norm.module.register_forward_pre_hook(before, with_kwargs=True),
        norm.module.register_forward_hook(after, with_kwargs=True),
    ]
    for handle in handles:
        stack.callback(handle.remove)


def join_steps(calls: Sequence[NormCall], within: Collection[int]) -> list[NormCall]:
    """Join the calls of every norm inside a recurrent layer or cell to one.

    Args:
        calls: Calls of norms.
        within: What :func:`~normscope.inspection.find.within_recurrent` returned.
    """
    joined: dict[object, list[NormCall]] = {}
    for place, call in enumerate(calls):
        module = id(call.norm.module)
        joined.setdefault(("steps", module) if module in within else place, []).append(call)
    return [_joined(each) for each in joined.values()]


def _joined(calls: Sequence[NormCall]) -> NormCall:
    usable = [call for call in calls if call.upstream is not None and call.size is not None]
    if len(calls) == 1 or not usable:
        return calls[0]
    rows = sum(call.shape[0] for call in usable)

    def total(sums: Sequence[Tensor], mean: int) -> Tensor:
        """Add sums over rows, of which one is a mean over rows."""
        whole = torch.stack([*sums]).sum(0)
        whole[mean] = sum(one[mean] * call.shape[0] for one, call in zip(sums, usable, strict=True)) / rows
        return whole

    arriving = [call.arriving for call in usable if call.arriving is not None]
    return replace(
        usable[0],
        upstream=total([call.upstream for call in usable if call.upstream is not None], 5),
        size=torch.stack([call.size for call in usable if call.size is not None]).median(),
        arriving=total(arriving, 2) if len(arriving) == len(usable) else None,
        shape=(rows, usable[0].shape[1]),
        overwritten=any(call.overwritten for call in calls),
    )


def _record_upstream(call: NormCall, gradient: Tensor) -> None:
    """Record sums over the gradient at the output in one float64 tensor, without a synchronization."""
    norm = call.norm
    call.overwritten = version_of(call.x) != call.version
    if call.overwritten or not gradient.numel():
        return
    with torch.no_grad():
        x = as_rows(norm, call.x)
        whole, scale = _scaled(gradient)
        inner = through_weight(norm, whole)
        g = as_rows(norm, inner)
        rows, width = x.shape
        derivative = derivative_of(norm, x) if has_known_derivative(norm) else None
        if derivative is not None:
            g = g * factor_of(norm, derivative.y)
        mean = g.mean(-1, keepdim=True)
        centered = g - mean
        parts = parts_of(x, g)
        # Batch, group and instance norms, and FRN, normalize other groups than the norms they are compared with.
        by_feature = is_over_features(norm)
        beside = parts if by_feature else parts_of(_by_feature(norm, call.x), _by_feature(norm, inner))
        numbers = [energy(whole)[None], parts[:3], energy(centered)[None], energy(mean)[None] / rows, beside]
        if derivative is not None:
            pull, y_mean = (g * derivative.y).mean(-1, keepdim=True), derivative.y.mean(-1, keepdim=True)
            along = derivative.along(g)
            spread = centered.square().mean(-1, keepdim=True)
            y_spread = (derivative.y - y_mean).square().mean(-1, keepdim=True)
            # This is (D_g / sigma^2)(1 - rho^2) if y is centered and eps is zero: then pull^2 = rho^2 D_g.
            left = spread - 2 * along * (pull - mean * y_mean) + along.square() * y_spread
            numbers.append((left / derivative.size.square()).sum(dtype=torch.float64)[None] * width)
        call.upstream = torch.cat(numbers) * scale.double().square()
        size = derivative.size if derivative is not None else x.std(-1, correction=0)
        call.size = size.median().double()
        call.shape, call.tiny = (rows, width), torch.finfo(gradient.dtype).tiny


def _by_feature(norm: NormInModel, tensor: Tensor) -> Tensor:
    """View as ``[..., features]`` for a norm that normalizes other groups."""
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    return wide.flatten(2).movedim(1, -1) if norm.channels_first and wide.dim() > 2 else wide


def _record_arriving(call: NormCall, gradient: Tensor) -> None:
    """Record sums over the gradient at the input."""
    if not gradient.numel():
        return
    with torch.no_grad():
        whole, scale = _scaled(gradient)
        rows = as_rows(call.norm, whole)
        mean = rows.mean(-1, keepdim=True)
        numbers = [energy(rows), energy(rows - mean), energy(mean) / len(rows)]
        call.arriving = torch.stack(numbers) * scale.double().square()


def _scaled(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient divided by its largest entry, and that entry: the square of 1e-23 is zero in float32."""
    wide = gradient if gradient.dtype == torch.float64 else gradient.float()
    largest = wide.abs().amax()
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    return wide / scale, scale


def read_call(call: NormCall) -> NormGradients | None:
    """Compute the measurements of one call from its sums; None if there is no usable gradient."""
    if call.upstream is None or call.size is None:
        return None
    raw, whole, constant, along, centered, mean, *rest = call.upstream.tolist()
    beside, law = rest[:6], rest[6:]
    if not (whole > 0 and math.isfinite(whole + constant + along + beside[3])):
        return None
    rows, width = call.shape
    arriving = call.arriving.tolist() if call.arriving is not None else None
    predicted = law[0] / (rows * width) if law else None
    measured = arriving[1] / (rows * width) if arriving else None
    checked = predicted is not None and measured is not None and predicted > 0
    # Subnormal numbers have fewer digits.
    checked = checked and min(raw, arriving[0]) / (rows * width) >= call.tiny**2  # pyright: ignore
    return NormGradients(
        name=call.norm.name,
        kind=call.norm.kind,
        rows=rows,
        width=width,
        upstream_mean=mean**0.5,
        upstream_variance=centered / (rows * width),
        size=float(call.size),
        recentering=constant / whole,
        rescaling=along / whole,
        rho_squared=along / centered if centered > 0 else 0.0,
        removes=_removes(call.norm),
        arriving_mean=arriving[2] ** 0.5 if arriving else None,
        arriving_variance=measured,
        law_variance=predicted,
        law_error=abs(measured / predicted - 1) if checked else None,  # pyright: ignore
        beside=let_through(*beside),
        upstream_energy=raw,
        arriving_energy=arriving[0] if arriving else None,
    )


def _why_lost(call: NormCall) -> WhyLost:
    if call.overwritten:
        return "overwritten"
    if call.upstream is None:
        return "missing"
    raw = float(call.upstream[0])
    if not math.isfinite(raw):
        return "not finite"
    return "zero" if raw == 0 or float(call.upstream[1]) == 0 else "input not finite"


def _removes(norm: NormInModel) -> tuple[str, ...]:
    """Return the names of the parts that the derivative of this norm removes."""
    traits = norm.traits
    if not has_known_derivative(norm) or fixed_moments(norm) is not None:
        return ()
    if not traits.centers:
        return () if traits.detaches_size else ("along_x",)
    moving = {"recentering": not traits.detaches_mean, "rescaling": not traits.detaches_size}
    return tuple(part for part, moves in moving.items() if moves)
