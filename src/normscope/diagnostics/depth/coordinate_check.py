"""Coordinate check: whether activations and gradients keep their size as a model gets deeper or wider."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.arguments import check_arguments
from normscope.diagnostics.depth.profile import read_depth
from normscope.diagnostics.depth.watch import watch_depth
from normscope.fits import log_slope
from normscope.inspection.find import find_norms
from normscope.inspection.preserve_state import random_states_kept

STEEPEST = 0.5
"""Largest exponent of growth or decay, as a power of the model's size, that passes.

The exponent is 0 if activations do not depend on the size of the model. It is 1/2 for a sum of independent branches,
such as a residual stream without a norm on it. Anything steeper fails at the next size.
"""

_SLACK = 0.25
"""Tolerance on :data:`STEEPEST` for the noise of few seeds: healthy Pre-LN models reach 0.67 after three updates."""


@dataclass(frozen=True, kw_only=True)
class SizeAt:
    """Measurements of one model after some steps."""

    size: int
    """Depth or width."""
    seed: int
    step: int
    activation: float
    """Root mean square of the output of the last layer of the last stack."""
    gradient: float | None
    """Root mean square of the gradient there times the square root of its number of entries."""
    loss: float


@dataclass(frozen=True, kw_only=True)
class CoordinateCheck:
    """Measurements of models of several sizes, and the exponents of their growth."""

    points: tuple[SizeAt, ...]
    slopes: tuple[dict[str, float], ...]
    """For every step, exponents of ``activation`` and ``gradient`` in a log-log fit over all sizes and seeds."""
    passes: dict[str, bool]
    """Whether the exponents of all steps are within :data:`STEEPEST` and its tolerance."""


@check_arguments
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
    """Train models of several sizes for a few steps on one batch, and fit the growth of activations and gradients.

    The random states of Python, NumPy and torch are restored at the end.

    Args:
        make: Builds a model from its depth or width; called after seeding.
        sizes: Two or more sizes; the largest is at least twice the smallest.
        batch: Second argument of ``loss``, for every model.
        loss: Maps (model, batch) to a scalar.
        optimizer: Builds the optimizer of a model.
        steps: Number of updates; measurements are taken before each and after the last.
        seeds: Seeds of the models, for every size.

    Returns:
        All measurements, and the fitted exponents with pass or fail.

    Raises:
        ValueError: If there are fewer than two sizes, they are less than a factor of 2 apart, or a model has no stack
            of layers.

    Example:
        >>> import torch
        >>> from normscope.diagnostics import coordinate_check
        >>> def make(depth):
        ...     layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        ...     return torch.nn.TransformerEncoder(layer, depth)
        >>> x, loss = torch.randn(2, 5, 8), lambda model, x: model(x)[..., 0].square().mean()
        >>> sgd = lambda model: torch.optim.SGD(model.parameters(), lr=0.1)
        >>> check = coordinate_check(make, (2, 4), x, loss, optimizer=sgd, steps=1, seeds=(0,))
        >>> sorted(check.passes)
        ['activation', 'gradient']
    """
    if len(set(sizes)) < 2 or max(sizes) < 2 * min(sizes):
        raise ValueError(f"expected sizes that are a factor of 2 or more apart, got {list(sizes)}")
    points: list[SizeAt] = []
    with random_states_kept():
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
            raise ValueError(f"{type(model).__name__} has no stack of layers to check")
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
    """Fit the logarithm of activations or gradients against log size; ``inf`` if a value is zero or not finite."""
    values = [getattr(point, what) for point in points]
    if any(value is None for value in values):
        return math.inf
    return log_slope(values, [math.log(point.size) for point in points])
