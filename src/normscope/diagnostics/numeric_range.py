"""Inputs of each norm against the range of a precision, and the state of its weight, bias and weight decay."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normscope.arguments import check_arguments
from normscope.inspection.derivative import as_rows, fixed_moments, has_known_derivative
from normscope.inspection.find import find_norms
from normscope.inspection.norm_in_model import NormInModel
from normscope.inspection.preserve_state import draw_seed, untouched

Precision = Literal["float16", "bfloat16", "float32", "float64"]
"""dtype in which the input of a norm is stored."""

SMALL_WEIGHT = 0.01
"""Absolute value below which a weight counts as small; weights are initialized to one."""


@dataclass(frozen=True, kw_only=True)
class NormRange:
    """All calls of one norm in one forward pass."""

    name: str
    kind: str
    dtype: str
    """dtype of its input."""
    precision: str
    """Precision that it is assessed for: the requested one, or else the dtype of its input."""
    largest: float
    """Largest absolute entry of its input; infinite if an entry is not finite."""
    overflow: float
    """``largest`` divided by the largest number of the precision: above 1, it cannot be represented."""
    smallest_variance: float | None
    """Smallest variance of a row (mean square if the norm does not center); None if the norm does not scale."""
    median_variance: float | None
    eps: float | None
    """None if the norm has no eps; the machine epsilon for an RMS norm with ``eps=None``."""
    eps_vanishes: bool
    """Whether eps rounds to zero in the precision."""
    rows_below_eps: float | None
    """Share of rows with a variance below eps: their output is smaller than one."""
    mean_over_deviation: float | None
    """Median over rows of |mean| / standard deviation: above 1 / (machine epsilon), rounding hides the deviation."""
    small_weights: float | None
    """Share of weights below :data:`SMALL_WEIGHT` in absolute value; None without a weight."""
    zero_weights: float | None
    """Share of weights that are exactly zero, usually by initialization."""
    weight_size: float | None
    """Root mean square of the weights."""
    bias_share: float | None
    """``mean(b^2) / (mean(w^2) + mean(b^2))``: share of the output's energy that does not depend on the input."""
    decay: float | None
    """Largest weight decay that the optimizer applies to its parameters; None without an optimizer or parameters."""
    running: bool
    """Whether it is a batch norm that normalizes by its running moments."""
    running_offset: float | None
    """Median over features of |batch mean - running mean| / sqrt(running variance); None unless ``running``."""
    running_ratio: float | None
    """Median over features of batch variance / running variance; None unless ``running``."""
    squares_overflow: float = 0.0
    """Share of rows with finite entries whose sum of squares leaves the range of the statistics, float32 for float32
    and narrower inputs; 0 if the norm does not scale."""


@contextmanager
def watch_range(
    model: nn.Module,
    *,
    found: Sequence[NormInModel] | None = None,
    precision: Precision | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Iterator[list[NormRange]]:
    """Measure the inputs of every norm in the forward passes inside the block.

    Args:
        model: Any module.
        found: Its norms, if they are already known.
        precision: dtype in which inputs will be stored; None for their dtype now.
        optimizer: Supplies the weight decay of the norms' parameters.

    Yields:
        A list that is filled when the block ends, in the order of the model, without norms that were not called.
    """
    seen: dict[str, list[tuple[str, list[float]]]] = {}
    listed = find_norms(model)[0] if found is None else found
    ranges: list[NormRange] = []
    with ExitStack() as hooks:
        for norm in listed:

            def record(
                module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any, norm: NormInModel = norm
            ) -> None:
                x = inputs[0] if inputs else next(iter(named.values()), None)
                if isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], Tensor):
                    x = output[1]
                if isinstance(x, Tensor) and x.is_floating_point() and x.numel():
                    dtype = str(x.dtype).removeprefix("torch.")
                    seen.setdefault(norm.name, []).append((dtype, _statistics(norm, x.detach())))

            hooks.callback(norm.module.register_forward_hook(record, with_kwargs=True).remove)
        yield ranges
    decays = _decays(optimizer) if optimizer is not None else None
    ranges += [_read(norm, seen[norm.name], precision, decays) for norm in listed if norm.name in seen]


@check_arguments
def numeric_range(
    model: nn.Module,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    precision: Precision | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    generator: torch.Generator | None = None,
) -> list[NormRange]:
    """Measure the inputs of every norm in one forward pass; the model is left unchanged.

    Args:
        model: Any module.
        batch: Second argument of ``loss``.
        loss: Maps (model, batch) to a scalar.
        precision: dtype in which inputs will be stored; None for their dtype now.
        optimizer: Supplies the weight decay of the norms' parameters.
        generator: Seeds dropout; if None, torch's global random state is used and restored.

    Returns:
        One entry per norm that was called, in the order of the model.

    Example:
        >>> import torch
        >>> from normscope.diagnostics import numeric_range
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))
        >>> batch = torch.randn(32, 4), torch.randn(32, 1)
        >>> loss = lambda model, batch: torch.nn.functional.mse_loss(model(batch[0]), batch[1])
        >>> (norm,) = numeric_range(model, batch, loss, precision="float16")
        >>> norm.name, norm.precision, norm.eps, norm.eps_vanishes
        ('1', 'float16', 1e-05, False)
    """
    watch = watch_range(model, precision=precision, optimizer=optimizer)
    with untouched(model, seed=draw_seed(generator)), watch as ranges:
        loss(model, batch)
    return ranges


def _statistics(norm: NormInModel, x: Tensor) -> list[float]:
    """Compute the statistics of one input.

    Returns:
        Largest entry, smallest and median variance, share of rows below eps, median of |mean| / deviation, share of
        rows whose squares overflow, and for a batch norm with running moments their offset and ratio.
    """
    rows = as_rows(norm, x)
    largest = rows.abs().amax()
    mean = rows.mean(-1)
    centered = rows - mean[:, None]
    variance = (centered if norm.traits.centers else rows).square().mean(-1)
    deviation = centered.square().mean(-1).sqrt()
    eps = norm.eps_at(x.dtype) or 0.0
    bound = eps if norm.traits.eps_place == "variance" else eps**2
    numbers = [
        torch.where(torch.isfinite(rows).all(), largest, torch.inf),
        variance.amin(),
        variance.median(),
        (variance < bound).double().mean(),
        (mean.abs() / deviation.clamp(min=torch.finfo(rows.dtype).tiny)).median(),
        (rows.isfinite().all(-1) & ~(variance * rows.shape[-1] <= torch.finfo(rows.dtype).max)).double().mean(),
    ]
    if (running := fixed_moments(norm)) is not None and norm.kind == "batch_norm":
        spread = running.reshape(-1).to(rows.dtype) + eps
        running_mean: Tensor = norm.holder.running_mean.detach().reshape(-1).to(rows.dtype)  # pyright: ignore
        numbers += [((mean - running_mean).abs() / spread.sqrt()).median(), (variance / spread).median()]
    return torch.stack([number.double() for number in numbers]).tolist()


def _read(
    norm: NormInModel,
    calls: Sequence[tuple[str, list[float]]],
    precision: Precision | None,
    decays: dict[int, float] | None,
) -> NormRange:
    dtype = calls[0][0]
    judged = precision or dtype
    limits = torch.finfo(getattr(torch, judged))
    numbers = [call for _, call in calls]
    worst = max(call[0] if not math.isnan(call[0]) else math.inf for call in numbers)
    divides = has_known_derivative(norm)
    middle = numbers[len(numbers) // 2]
    weight, bias = norm.effective_weight(), norm.effective_bias()
    energy = 1.0 if weight is None else float(weight.square().mean())
    running = fixed_moments(norm) is not None
    with_running = next((call for call in numbers if len(call) > 6), None)
    parameters = [id(p) for p in norm.module.parameters()]
    eps = norm.eps_at(getattr(torch, dtype))
    return NormRange(
        name=norm.name,
        kind=norm.kind,
        dtype=dtype,
        precision=judged,
        largest=worst,
        overflow=worst / limits.max,
        smallest_variance=min(call[1] for call in numbers) if divides else None,
        median_variance=middle[2] if divides else None,
        eps=eps,
        eps_vanishes=bool(eps) and float(torch.tensor(eps, dtype=getattr(torch, judged))) == 0.0,
        rows_below_eps=max(call[3] for call in numbers) if divides and eps is not None else None,
        mean_over_deviation=middle[4] if divides else None,
        small_weights=None if weight is None else float((weight.abs() < SMALL_WEIGHT).double().mean()),
        zero_weights=None if weight is None else float((weight == 0).double().mean()),
        weight_size=None if weight is None else energy**0.5,
        bias_share=None if bias is None else float(bias.square().mean() / (energy + bias.square().mean())),
        decay=max((decays.get(p, 0.0) for p in parameters), default=None) if decays is not None else None,
        running=running,
        running_offset=with_running[6] if with_running else None,
        running_ratio=with_running[7] if with_running else None,
        squares_overflow=max(call[5] for call in numbers) if divides else 0.0,
    )


def _decays(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    """Return the weight decay of every parameter of an optimizer, by its ``id``."""
    return {id(p): float(group.get("weight_decay", 0.0)) for group in optimizer.param_groups for p in group["params"]}
