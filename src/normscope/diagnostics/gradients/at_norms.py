"""The gradient before and behind every norm: what goes in, what the norm takes out, what arrives, and the exact law."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normscope.diagnostics.gradients.shares import energy, let_through, parts_of
from normscope.inspection.derivative import (
    OVER_FEATURES,
    SCALING,
    as_rows,
    derivative_of,
    factor_of,
    fixed_moments,
    through_gain,
)
from normscope.inspection.norms_in import NormIn, find_norms
from normscope.inspection.preserve_state import draw_seed, gradients_of, untouched


@dataclass(frozen=True, kw_only=True)
class NormGradients:
    """One call of one norm in one backward pass. Means are over its rows; shares are of the upstream energy."""

    name: str
    kind: str
    rows: int
    """R: groups that are standardized by themselves."""
    width: int
    """H: numbers in a group."""
    upstream_mean: float
    """Root mean square over rows of the mean of g, the gradient at the normalized output (the gain belongs to it)."""
    upstream_variance: float
    """Mean over rows of D_g, the variance of g within a row."""
    size: float
    """Median over rows of what the input was divided by; of a norm that divides by nothing, of the rows' deviation."""
    recentering: float
    """Share of g along the constant vector, ``sum H mean(g)^2 / sum |g|^2``: what the mean's derivative removes."""
    rescaling: float
    """Share of g along the centered input: what the deviation's derivative removes of the rest."""
    rho_squared: float
    """Squared correlation of g and y, weighted by the rows' energy."""
    removes: tuple[str, ...]
    """Which of the two this norm does remove; RMSNorm removes the part along its uncentered input instead."""
    arriving_mean: float | None
    """As ``upstream_mean``, of the gradient that comes out of the norm; None where its input needs no gradient."""
    arriving_variance: float | None
    """As ``upstream_variance``, of the gradient that comes out of the norm."""
    law_variance: float | None
    """What the law says ``arriving_variance`` is; ``(D_g / sigma^2)(1 - rho^2)`` for a layer norm without eps."""
    law_error: float | None
    """``|arriving_variance / law_variance - 1|``. None where no law is known, where nothing arrives, or where what
    arrives is too small for its dtype to have its digits."""
    beside: dict[str, float]
    """For each of :data:`~normscope.diagnostics.gradients.shares.BESIDE`: the share of the energy of g that it would
    let through here, over the features of one position, whatever this norm standardizes together."""
    upstream_energy: float
    """Squared length of the gradient at the output, all of it."""
    arriving_energy: float | None
    """Squared length of the gradient that comes out of the norm, all of it."""


@dataclass(frozen=True, kw_only=True)
class LostGradient:
    """One call of one norm that nothing is told of."""

    name: str
    why: Literal["not finite", "input not finite", "zero", "overwritten", "none"]
    """``none``: no gradient came back to it; ``overwritten``: its input was changed in place since."""


@dataclass(kw_only=True)
class NormCall:
    """One call of a norm, and what its gradients told, unread."""

    norm: NormIn
    x: Tensor
    version: int
    upstream: Tensor | None = None
    size: Tensor | None = None
    arriving: Tensor | None = None
    shape: tuple[int, int] = (0, 0)
    overwritten: bool = False
    tiny: float = 0.0
    """The smallest number of the gradient's dtype that has all its digits."""


@contextmanager
def watch_gradients(
    model: nn.Module, *, found: Sequence[NormIn] | None = None, lost: list[LostGradient] | None = None
) -> Iterator[list[NormGradients]]:
    r"""Measure, in the backward passes inside, the gradient before and behind every norm.

    With :math:`y = (x - \mu) / \sigma` a row of H normalized entries and :math:`g = \partial L / \partial y`, a layer
    norm without eps passes on :math:`b = (g - \bar g - y\,\overline{g y}) / \sigma`, so that exactly

    .. math:: \bar b = 0, \qquad D_b = \frac{D_g}{\sigma^2} (1 - \rho^2), \quad \rho = \mathrm{corr}(g, y)

    The same with eps, and with what each kind detaches or leaves out, is checked on the gradient that arrives
    (``law_error``). Only the norm's own path is measured: what the residual adds is not in it. Nothing in the graph
    changes a value.

    Args:
        model: Any module.
        found: Its norms, where they are known; else :func:`~normscope.inspection.norms_in.find_norms` lists them.
        lost: A list to which the calls are added that nothing can be told of, in the order of the forward calls.

    Yields:
        A list that is filled when the block ends, in the order of the forward calls. A call without a gradient, or with
        one that is zero or not finite, or whose input was overwritten since, is not in it.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, Theorem 1.
        Departs from it in: the paper bounds the variance; the exact law and the shares are ours.
    """
    calls: list[NormCall] = []
    listed = find_norms(model)[0] if found is None else found
    result: list[NormGradients] = []
    with ExitStack() as stack:
        for norm in listed:
            attach(norm, calls, stack)
        yield result
    for call in calls:
        if (told := read_call(call)) is not None:
            result.append(told)
        elif lost is not None:
            lost.append(LostGradient(name=call.norm.name, why=_why_lost(call)))


def gradients_at_norms(
    model: nn.Module,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator | None = None,
) -> list[NormGradients]:
    """Measure the gradients at every norm in one step; the model stays as it is.

    Args:
        model: Any module.
        batch: What ``loss`` takes.
        loss: From (model, batch) to a scalar.
        generator: Seeds dropout; None goes on from torch's own state, which is restored.

    Returns:
        As :func:`watch_gradients`.
    """
    with untouched(model, seed=draw_seed(generator)), watch_gradients(model) as told:
        gradients_of(loss(model, batch), model)
    return told


def attach(norm: NormIn, calls: list[NormCall], stack: ExitStack) -> None:
    """Hook one norm: its output, and an alias of its input, each tell their gradient."""
    inputs_seen: list[Any] = []

    def before(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        x = inputs[0] if inputs else next(iter(named.values()), None)
        if not (isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled()):
            inputs_seen.append(x)
            return None
        # The gradient of an alias is that of this path alone.
        inputs_seen.append(alias := x.view_as(x))
        if inputs:
            return (alias, *inputs[1:]), named
        return inputs, {**named, next(iter(named)): alias}

    def after(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        x = inputs_seen.pop()
        joined = isinstance(output, tuple) and len(output) == 2 and all(isinstance(each, Tensor) for each in output)
        if joined:
            # A norm of ours with a residual: it normalized the sum, which is the second output.
            output, x = output
        if not (isinstance(output, Tensor) and isinstance(x, Tensor) and output.requires_grad):
            return
        call = NormCall(norm=norm, x=x.detach(), version=x._version)
        calls.append(call)
        output.register_hook(lambda gradient: _take(call, gradient))
        if x.requires_grad and not joined:
            x.register_hook(lambda gradient: _arrive(call, gradient))

    handles = [
        norm.module.register_forward_pre_hook(before, with_kwargs=True),
        norm.module.register_forward_hook(after, with_kwargs=True),
    ]
    for handle in handles:
        stack.callback(handle.remove)


def _take(call: NormCall, gradient: Tensor) -> None:
    """Sum up what goes into the norm: one tensor of float64 numbers, read when all is done."""
    norm = call.norm
    call.overwritten = call.x._version != call.version
    if call.overwritten or not gradient.numel():
        return
    with torch.no_grad():
        x = as_rows(norm, call.x)
        whole, scale = _scaled(gradient)
        inner = through_gain(norm, whole)
        g = as_rows(norm, inner)
        rows, width = x.shape
        own = derivative_of(norm, x) if norm.kind in SCALING else None
        if own is not None:
            g = g * factor_of(norm, own.y)
        mean = g.mean(-1, keepdim=True)
        centered = g - mean
        parts = parts_of(x, g)
        # Batch, group and instance norms, and FRN, have other rows than the norms they are set beside.
        by_feature = norm.kind in OVER_FEATURES
        beside = parts if by_feature else parts_of(_by_feature(norm, call.x), _by_feature(norm, inner))
        numbers = [energy(whole)[None], parts[:3], energy(centered)[None], energy(mean)[None] / rows, beside]
        if own is not None:
            pull, y_mean = (g * own.y).mean(-1, keepdim=True), own.y.mean(-1, keepdim=True)
            spread = centered.square().mean(-1, keepdim=True)
            y_spread = (own.y - y_mean).square().mean(-1, keepdim=True)
            # (D_g / sigma^2)(1 - rho^2) where y is centered and eps is nothing: then pull^2 = rho^2 D_g.
            left = spread - 2 * own.pull * pull * (pull - mean * y_mean) + (own.pull * pull).square() * y_spread
            numbers.append((left / own.size.square()).sum(dtype=torch.float64)[None] * width)
        call.upstream = torch.cat(numbers) * scale.double().square()
        size = own.size if own is not None else x.std(-1, correction=0)
        call.size = size.median().double()
        call.shape, call.tiny = (rows, width), torch.finfo(gradient.dtype).tiny


def _by_feature(norm: NormIn, tensor: Tensor) -> Tensor:
    """View as ``[..., features]``, where a norm itself has other rows."""
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    return wide.flatten(2).movedim(1, -1) if norm.channels_first and wide.dim() > 2 else wide


def _arrive(call: NormCall, gradient: Tensor) -> None:
    """Sum up what comes out of the norm."""
    if not gradient.numel():
        return
    with torch.no_grad():
        whole, scale = _scaled(gradient)
        rows = as_rows(call.norm, whole)
        mean = rows.mean(-1, keepdim=True)
        numbers = [energy(rows), energy(rows - mean), energy(mean) / len(rows)]
        call.arriving = torch.stack(numbers) * scale.double().square()


def _scaled(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Divide by the largest entry, and give both: the square of a gradient of 1e-21 is zero in float32."""
    wide = gradient if gradient.dtype == torch.float64 else gradient.float()
    largest = wide.abs().amax()
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    return wide / scale, scale


def read_call(call: NormCall) -> NormGradients | None:
    """Turn the sums of one call into what is told; None without a direction to tell of."""
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
    # Below it a dtype has fewer digits the smaller a number is.
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


def _why_lost(call: NormCall) -> Literal["not finite", "input not finite", "zero", "overwritten", "none"]:
    if call.overwritten:
        return "overwritten"
    if call.upstream is None:
        return "none"
    raw = float(call.upstream[0])
    if not math.isfinite(raw):
        return "not finite"
    return "zero" if raw == 0 or float(call.upstream[1]) == 0 else "input not finite"


def _removes(norm: NormIn) -> tuple[str, ...]:
    """Name the parts that the derivative of this norm takes out."""
    if norm.kind not in SCALING or fixed_moments(norm) is not None:
        return ()
    if norm.kind == "detach_norm":
        live = {
            "recentering": not getattr(norm.module, "mean", True),
            "rescaling": not getattr(norm.module, "std", True),
        }
        return tuple(part for part, there in live.items() if there)
    return ("along_x",) if norm.kind in ("rms_norm", "scale_norm") else ("recentering", "rescaling")
