"""A coordinate check: do activations and gradients keep their size when a model gets deeper, or wider?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.diagnostics.depth.profile import read_depth
from normscope.diagnostics.depth.watch import watch_depth
from normscope.inspection.norms_in import find_norms

STEEPEST = 0.5
"""Largest exponent of growth or decay, in the size of the model, that passes.

Sizes that do not depend on the model's have 0; a sum of independent branches grows with the depth by 1/2, which is what
a residual stream without a norm on it does by design. Anything steeper gets out of hand at the next size.
"""

_SLACK = 0.25
"""Over :data:`STEEPEST`, for the noise of a few seeds: healthy Pre-LN models were seen at 0.67 after three updates."""


@dataclass(frozen=True, kw_only=True)
class SizeAt:
    """One model of the check after some steps."""

    size: int
    """Depth or width."""
    seed: int
    step: int
    activation: float
    """Root mean square of the last layer's output, last stack."""
    gradient: float | None
    """The same of the gradient there, times the square root of the number of its entries."""
    loss: float


@dataclass(frozen=True, kw_only=True)
class CoordinateCheck:
    """Sizes over models, and how they grow."""

    points: tuple[SizeAt, ...]
    slopes: tuple[dict[str, float], ...]
    """For every step: exponents of ``activation`` and ``gradient`` in the size, fitted in logarithms over all seeds."""
    passes: dict[str, bool]
    """Whether no exponent of any step is steeper than :data:`STEEPEST`."""


def coordinate_check(
    make: Callable[[int], nn.Module],
    sizes: Sequence[int],
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    steps: int = 3,
    seeds: Sequence[int] = (0, 1, 2),
) -> CoordinateCheck:
    """Train models of several sizes for a few steps on one batch, and fit how their insides grow with the size.

    Torch's random state is restored at the end.

    Args:
        make: From a depth, or a width, to a model; called after seeding.
        sizes: Two or more, at least a factor 2 apart from end to end.
        batch: What ``loss`` takes, for every model.
        loss: From (model, batch) to a scalar.
        optimizer: From a model to its optimizer.
        steps: Updates; sizes are measured before each and after the last.
        seeds: Of the models.

    Raises:
        ValueError: If there are fewer than two sizes, or a model has no stack of layers.
    """
    if len(set(sizes)) < 2 or max(sizes) < 2 * min(sizes):
        raise ValueError(f"expected sizes that are a factor 2 or more apart, got {list(sizes)}")
    points: list[SizeAt] = []
    with torch.random.fork_rng():
        for size in sizes:
            for seed in seeds:
                torch.manual_seed(seed)
                model = make(size)
                points += _train(model, size, seed, batch, loss, optimizer(model), steps)
    slopes = tuple(
        {what: _exponent([p for p in points if p.step == step], what) for what in ("activation", "gradient")}
        for step in range(steps + 1)
    )
    passes = {
        what: all(abs(slope[what]) <= STEEPEST + _SLACK for slope in slopes) for what in ("activation", "gradient")
    }
    return CoordinateCheck(points=tuple(points), slopes=slopes, passes=passes)


def _train(
    model: nn.Module,
    size: int,
    seed: int,
    batch: Any,
    loss: Callable[[nn.Module, Any], Tensor],
    optimizer: torch.optim.Optimizer,
    steps: int,
) -> list[SizeAt]:
    found = find_norms(model)[0]
    points = []
    for step in range(steps + 1):
        optimizer.zero_grad()
        with watch_depth(model, found=found, keep=True) as watch:
            value = loss(model, batch)
            value.backward()
        stacks = read_depth(watch, {id(p): p.grad for p in model.parameters()})
        if not stacks:
            raise ValueError(f"{type(model).__name__} has no stack of layers to be checked")
        last = stacks[-1].layers[-1]
        entries = watch.outputs[-1].numel()
        points.append(
            SizeAt(
                size=size,
                seed=seed,
                step=step,
                activation=last.activation,
                gradient=None if last.gradient is None else last.gradient * entries**0.5,
                loss=float(value.detach()),
            )
        )
        if step < steps:
            optimizer.step()
    return points


def _exponent(points: Sequence[SizeAt], what: str) -> float:
    """Fit ``log size`` of activations or gradients over the logarithm of the model's; infinite where one is none."""
    values = [getattr(point, what) for point in points]
    if any(value is None or not 0 < value < math.inf for value in values):
        return math.inf
    x = torch.tensor([math.log(point.size) for point in points], dtype=torch.float64)
    y = torch.tensor([math.log(value) for value in values], dtype=torch.float64)
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())
