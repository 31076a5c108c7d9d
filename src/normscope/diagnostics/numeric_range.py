"""What reaches each norm in the numbers that a precision has, and what its gain, bias and optimizer do to it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normscope.inspection.derivative import CENTERING, SCALING, as_rows, fixed_moments
from normscope.inspection.norms_in import NormIn, find_norms
from normscope.inspection.preserve_state import draw_seed, untouched

Precision = Literal["float16", "bfloat16", "float32", "float64"]
"""What a norm's input is stored in."""

DEAD_GAIN = 0.01
"""A gain below this passes a hundredth of what it was made for: it starts at one."""


@dataclass(frozen=True, kw_only=True)
class NormRange:
    """All calls of one norm in one forward pass."""

    name: str
    kind: str
    dtype: str
    """Of its input."""
    precision: str
    """What it is judged for: the one asked for, else the dtype of its input."""
    largest: float
    """The largest absolute entry of its input; infinite where one is not finite."""
    overflow: float
    """``largest`` over the largest number of the precision: above 1 it cannot be stored."""
    smallest_variance: float | None
    """Of a row (mean square for norms that do not center); None for norms that do not divide by a size."""
    median_variance: float | None
    eps: float | None
    """None for norms that have none; the machine epsilon for an RMS norm that was told none."""
    eps_vanishes: bool
    """Whether eps is zero when it is rounded to the precision."""
    rows_below_eps: float | None
    """Share of rows with a variance below eps: they leave the norm smaller than one."""
    mean_over_deviation: float | None
    """Median over rows of |mean| / deviation: above 1 / (machine epsilon) the deviation is not in the digits."""
    dead_gains: float | None
    """Share of gains below :data:`DEAD_GAIN` in size; None without a gain."""
    zero_gains: float | None
    """Share of gains that are exactly zero: more often a start that was meant than an end."""
    gain_size: float | None
    """Root mean square of the gains."""
    bias_share: float | None
    """``mean(b^2) / (mean(g^2) + mean(b^2))``: share of the output's energy that does not depend on the input."""
    decay: float | None
    """The largest weight decay that the optimizer applies to its parameters; None without an optimizer or parameter."""
    running: bool
    """Whether it is a batch norm that normalizes by its running moments."""
    running_offset: float | None
    """Median over features of |batch mean - running mean| / sqrt(running variance); None if not ``running``."""
    running_ratio: float | None
    """Median over features of batch variance / running variance; None if not ``running``."""


@contextmanager
def watch_range(
    model: nn.Module,
    *,
    found: Sequence[NormIn] | None = None,
    precision: Precision | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Iterator[list[NormRange]]:
    """Measure, in the forward passes inside, what reaches every norm.

    Args:
        model: Any module.
        found: Its norms, where they are known.
        precision: What the inputs are going to be stored in; None for what they are stored in now.
        optimizer: Tells which parameters of norms decay.

    Yields:
        A list that is filled when the block ends, in the order of the model; a norm that was not called is not in it.
    """
    seen: dict[str, list[tuple[str, list[float]]]] = {}
    listed = find_norms(model)[0] if found is None else found
    told: list[NormRange] = []
    with ExitStack() as hooks:
        for norm in listed:

            def look(
                module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any, norm: NormIn = norm
            ) -> None:
                x = inputs[0] if inputs else next(iter(named.values()), None)
                if isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], Tensor):
                    x = output[1]
                if isinstance(x, Tensor) and x.is_floating_point() and x.numel():
                    dtype = str(x.dtype).removeprefix("torch.")
                    seen.setdefault(norm.name, []).append((dtype, _look(norm, x.detach())))

            hooks.callback(norm.module.register_forward_hook(look, with_kwargs=True).remove)
        yield told
    decays = _decays(optimizer) if optimizer is not None else None
    told += [_read(norm, seen[norm.name], precision, decays) for norm in listed if norm.name in seen]


def numeric_range(
    model: nn.Module,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    precision: Precision | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    generator: torch.Generator | None = None,
) -> list[NormRange]:
    """Measure what reaches every norm in one forward pass; the model stays as it is.

    Args:
        model: Any module.
        batch: What ``loss`` takes.
        loss: From (model, batch) to a scalar.
        precision: What the inputs are going to be stored in; None for what they are stored in now.
        optimizer: Tells which parameters of norms decay.
        generator: Seeds dropout; None goes on from torch's own state, which is restored.
    """
    watch = watch_range(model, precision=precision, optimizer=optimizer)
    with untouched(model, seed=draw_seed(generator)), watch as told:
        loss(model, batch)
    return told


def _look(norm: NormIn, x: Tensor) -> list[float]:
    """Give largest, smallest and median variance, share below eps, |mean| / deviation, running offset and ratio."""
    rows = as_rows(norm, x)
    largest = rows.abs().amax()
    mean = rows.mean(-1)
    centered = rows - mean[:, None]
    own = (centered if norm.kind in CENTERING else rows).square().mean(-1)
    deviation = centered.square().mean(-1).sqrt()
    eps = norm.eps_at(x.dtype) or 0.0
    bound = eps if norm.eps_place == "variance" else eps**2
    numbers = [
        torch.where(torch.isfinite(rows).all(), largest, torch.inf),
        own.amin(),
        own.median(),
        (own < bound).double().mean(),
        (mean.abs() / deviation.clamp(min=torch.finfo(rows.dtype).tiny)).median(),
    ]
    if (running := fixed_moments(norm)) is not None and norm.kind == "batch_norm":
        spread = running.reshape(-1).to(rows.dtype) + eps
        there: Tensor = norm.module.running_mean.detach().reshape(-1).to(rows.dtype)  # pyright: ignore
        numbers += [((mean - there).abs() / spread.sqrt()).median(), (own / spread).median()]
    return torch.stack([number.double() for number in numbers]).tolist()


def _read(
    norm: NormIn, calls: Sequence[tuple[str, list[float]]], precision: Precision | None, decays: dict[int, float] | None
) -> NormRange:
    dtype = calls[0][0]
    judged = precision or dtype
    limits = torch.finfo(getattr(torch, judged))
    numbers = [call for _, call in calls]
    worst = max(call[0] if not math.isnan(call[0]) else math.inf for call in numbers)
    divides = norm.kind in SCALING
    middle = numbers[len(numbers) // 2]
    gain, bias = norm.effective_gain(), norm.effective_bias()
    gain_energy = 1.0 if gain is None else float(gain.square().mean())
    running = fixed_moments(norm) is not None
    with_running = next((call for call in numbers if len(call) > 5), None)
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
        dead_gains=None if gain is None else float((gain.abs() < DEAD_GAIN).double().mean()),
        zero_gains=None if gain is None else float((gain == 0).double().mean()),
        gain_size=None if gain is None else gain_energy**0.5,
        bias_share=None if bias is None else float(bias.square().mean() / (gain_energy + bias.square().mean())),
        decay=max((decays.get(p, 0.0) for p in parameters), default=None) if decays is not None else None,
        running=running,
        running_offset=with_running[5] if with_running else None,
        running_ratio=with_running[6] if with_running else None,
    )


def _decays(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    """Map the identity of every parameter of an optimizer to its weight decay."""
    return {id(p): float(group.get("weight_decay", 0.0)) for group in optimizer.param_groups for p in group["params"]}
