"""What the output of a module does not depend on: Table 1 of Ba et al. (2016), measured, and what eps takes from it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normscope.analysis.eps_law import Seen, eps_law, watched

Change = Callable[[Tensor], Tensor]

TRANSFORMATIONS: dict[str, str] = {
    "weight_matrix_rescaling": "all weights times one factor",
    "weight_matrix_recentering": "the same shift of the weights of every unit",
    "weight_vector_rescaling": "the weights of one unit times a factor",
    "data_rescaling": "all data times one factor",
    "data_recentering": "a shift of every feature of the data",
    "case_rescaling": "one case times a factor",
    "feature_rescaling": "one feature times a factor",
    "uniform_recentering": "one number added to all data",
    "case_recentering": "one number added to all features of one case",
}
"""The six of Table 1 in its order, then three that tell norms apart without weights before them."""


def data_changes(x: Tensor, factor: float, generator: torch.Generator) -> dict[str, Change]:
    """List what is done to data like ``x``; shifts are of its size, and have a mean.

    Args:
        x: ``[cases, ..., features]``.
        factor: What is multiplied by.
        generator: Draws the shift of every feature, on the CPU.

    Returns:
        From the names of :data:`TRANSFORMATIONS` that concern data to functions of float64 data.
    """
    size = x.detach().double().square().mean().sqrt()
    shift = size * (1 + torch.randn(x.shape[-1], dtype=torch.float64, generator=generator)).to(x.device)
    first_case = torch.zeros(x.shape[0], *[1] * (x.dim() - 1), dtype=torch.float64, device=x.device)
    first_case[0] = 1
    one_feature = torch.zeros(x.shape[-1], dtype=torch.float64, device=x.device)
    one_feature[x.shape[-1] // 2] = 1
    return {
        "data_rescaling": lambda data: factor * data,
        "data_recentering": lambda data: data + shift,
        "case_rescaling": lambda data: data * (1 + (factor - 1) * first_case),
        "feature_rescaling": lambda data: data * (1 + (factor - 1) * one_feature),
        "uniform_recentering": lambda data: data + factor * size,
        "case_recentering": lambda data: data + factor * size * first_case,
    }


def weight_changes(weight: Tensor, factor: float, generator: torch.Generator) -> dict[str, Change]:
    """List what is done to weights like ``weight``; the shift is of its size.

    Args:
        weight: ``[units, ...]``, float64.
        factor: What is multiplied by.
        generator: Draws the shift that every unit gets, on the CPU.

    Returns:
        From the names of :data:`TRANSFORMATIONS` that concern weights to functions of the weights.
    """
    shift = torch.randn(1, *weight.shape[1:], dtype=torch.float64, generator=generator).to(weight.device)
    shift = shift * weight.square().mean().sqrt()
    one_unit = torch.ones(weight.shape[0], *[1] * (weight.dim() - 1), dtype=torch.float64, device=weight.device)
    one_unit[weight.shape[0] // 2] = factor
    return {
        "weight_matrix_rescaling": lambda weight: factor * weight,
        "weight_matrix_recentering": lambda weight: weight + shift,
        "weight_vector_rescaling": lambda weight: weight * one_unit,
    }


Holds = Literal["exactly", "but for eps", "nearly", "no"]

SCALES = tuple(10 ** (tenth / 2) for tenth in range(-8, 5))
"""What the input is multiplied by for a curve: from 1e-4 to 1e2, two a decade."""

EXACT = 1e-9
"""Largest relative deviation that float64 rounding of a badly conditioned row explains."""

NEAR = 1e-3
"""Largest relative deviation, at the input's own scale, that is still called an invariance."""

LAW = 0.05
"""How far, relatively, the measured curve may be from the law of eps."""


@dataclass(frozen=True, kw_only=True)
class Invariance:
    """What one transformation of the weights or the data does to the output."""

    transformation: str
    """A key of :data:`TRANSFORMATIONS`."""
    what: str
    """The transformation in words."""
    holds: Holds
    """``exactly`` at every scale, ``but for eps`` where the law of eps tells the whole curve, ``nearly`` where the
    deviation at the input's own scale is below :data:`NEAR`, else ``no``."""
    deviation: float
    """Largest over the rows of length of difference by length of output, at the input's own scale, in float64."""
    scales: tuple[float, ...]
    """What the input was multiplied by."""
    deviations: tuple[float, ...]
    """The deviation at each of the scales."""
    law: tuple[float, ...] | None
    """The deviation that the law of eps predicts at each of the scales; None where it does not apply."""

    @property
    def invariant(self) -> bool:
        """Whether the output stays, at least nearly."""
        return self.holds != "no"


@dataclass(frozen=True, kw_only=True)
class Invariances:
    """The row of a module in Table 1 of Ba et al., and more columns."""

    module: str
    """The class of the module, or of its one norm."""
    rows: tuple[Invariance, ...]

    def __getitem__(self, transformation: str) -> Invariance:
        """Find a row by its transformation.

        Raises:
            KeyError: If it was not measured.
        """
        for row in self.rows:
            if row.transformation == transformation:
                return row
        raise KeyError(f"{transformation!r} was not measured, only {[row.transformation for row in self.rows]}")

    @property
    def reading(self) -> str:
        """What was found, what it usually comes from and what to try, in sentences."""
        named = {
            holds: [row.what for row in self.rows if row.holds == holds]
            for holds in ("exactly", "but for eps", "nearly", "no")
        }
        words = [
            f"The output of {self.module} {start}: {'; '.join(whats)}."
            for start, whats in (
                ("stays exactly under", named["exactly"]),
                ("stays but for eps under", named["but for eps"]),
                (f"changes by less than {NEAR:.1%} under", named["nearly"]),
                ("changes under", named["no"]),
            )
            if whats
        ]
        bent = [row for row in self.rows if row.holds == "but for eps"]
        if bent:
            worst = max(bent, key=lambda row: row.deviation)
            hidden = [
                scale for scale, deviation in zip(worst.scales, worst.deviations, strict=True) if deviation > 0.01
            ]
            limit = (
                f"more than 1 % once the input is {max(hidden):.2g} of its size" if hidden else "below 1 % throughout"
            )
            words.append(
                f"What eps takes: {worst.deviation:.1e} at the input's own size, {limit}. A norm that is fed numbers "
                "this small is no longer one: look for a small initialization, a low-precision cast or a gain that "
                "decayed, and lower eps or place it where the inputs are of order one."
            )
        if any(row.transformation.startswith("weight") and row.invariant for row in self.rows):
            words.append(
                "Where the weights may be re-scaled freely, their length is no part of the function: weight decay acts "
                "on the step size only, and steps shrink as the weights grow."
            )
        return " ".join(words)

    def to_json(self) -> dict[str, Any]:
        """Return rows and reading as plain dictionaries, lists, strings and numbers."""
        return {**asdict(self), "reading": self.reading}


def invariances(
    module: nn.Module,
    x: Tensor,
    *,
    generator: torch.Generator,
    weight: str | None = None,
    factor: float = 3.0,
    scales: Sequence[float] = SCALES,
) -> Invariances:
    r"""Transform weights and data and measure, in float64, how far the output of ``module`` moves.

    The deviation is :math:`\max_r \lVert h'_r - h_r \rVert / \lVert h_r \rVert` over the rows r of the output, of h
    before and h' after the transformation. With eps under the root a normalized row is
    :math:`1 / \sqrt{1 + \epsilon / \sigma^2}` of its size without, so that re-scaling shows once :math:`\sigma^2` is
    near eps: this is the law that the curve over input scales is held against (see ``eps_law``). Shifts grow with
    the input's scale. The module is called in the mode it is in, on copies of its parameters and buffers.

    Args:
        module: Any module from one tensor to one tensor: a norm, ``nn.Sequential(nn.Linear(...), norm)``, a block.
            Parameters are taken in float64; arithmetic that the module itself does in float32 stays so, and shows.
        x: ``[cases, ..., features]``, at least two cases, floating; its size is the scale 1.
        generator: Draws the shifts.
        weight: Name of a parameter ``[units, ...]`` that comes before the norm, such as ``"0.weight"``; None leaves
            the three rows of the weights out.
        factor: What is multiplied by; positive, for a negative one turns the sign of a normalized input.
        scales: What the input is multiplied by for the curves.

    Returns:
        One row a transformation.

    Raises:
        TypeError: If ``x`` is not floating, or the module gives anything but one tensor.
        ValueError: If ``x`` has less than two cases or two axes, there is no parameter of the name ``weight`` with two
            axes, ``factor`` or a scale is not positive and finite, ``factor`` is 1, two calls on the same input differ
            (dropout), or the output is zero or not finite.

    References:
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, section 5.1, Table 1, eqs. (6)-(7).
        Departs from it in: eps, of which the paper has none; the last three rows of :data:`TRANSFORMATIONS`.
    """
    _check(x, factor, scales)
    state = {name: tensor.detach().clone() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    state = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    changes = data_changes(x, factor, generator)
    if weight is not None:
        if weight not in dict(module.named_parameters()) or state[weight].dim() < 2:
            wanted = [name for name, parameter in module.named_parameters() if parameter.dim() > 1]
            raise ValueError(f"weight must name a parameter of two axes or more, got {weight!r}; there are {wanted}")
        changes = {**weight_changes(state[weight], factor, generator), **changes}

    def call(data: Tensor, change: Change | None) -> Seen:
        with torch.no_grad(), watched(module) as seen:
            # A fresh copy each time: batch norm moves its buffers.
            given = {name: tensor.clone() for name, tensor in state.items()}
            if change is not None and weight is not None:
                given[weight] = change(given[weight])
            seen.result = functional_call(module, given, (data,))
        return seen

    data = x.detach().double()
    own = call(data, None)
    _check_output(own, call(data, None), module)
    curves: dict[str, tuple[list[float], list[float | None]]] = {name: ([], []) for name in changes}
    for scale in (1.0, *scales):
        before = call(scale * data, None)
        for name, change in changes.items():
            to_weight = name.startswith("weight")
            after = call(scale * data if to_weight else scale * change(data), change if to_weight else None)
            if not after.result.isfinite().all() or not before.result.isfinite().all():
                raise ValueError(f"{name} at {scale:g} times the input gives numbers that are not finite")
            measured, predicted = curves[name]
            measured.append(_deviation(after.result - before.result, before.result))
            change_of_eps = eps_law(before, after)
            predicted.append(None if change_of_eps is None else _deviation(change_of_eps, before.result))
    rows = tuple(_row(name, tuple(scales), *curves[name]) for name in TRANSFORMATIONS if name in changes)
    return Invariances(module=type(own.norm if own.norm is not None else module).__name__, rows=rows)


def _row(name: str, scales: tuple[float, ...], measured: list[float], predicted: list[float | None]) -> Invariance:
    """Grade one transformation; the first entry of a curve is the input's own scale."""
    law = None if None in predicted else [value for value in predicted if value is not None]
    holds: Holds = "no"
    if max(measured) <= EXACT:
        holds = "exactly"
    elif law is not None and all(abs(m - p) <= LAW * p + EXACT for m, p in zip(measured, law, strict=True)):
        holds = "but for eps"
    elif measured[0] <= NEAR:
        holds = "nearly"
    return Invariance(
        transformation=name,
        what=TRANSFORMATIONS[name],
        holds=holds,
        deviation=measured[0],
        scales=scales,
        deviations=tuple(measured[1:]),
        law=tuple(law[1:]) if law is not None and holds in ("exactly", "but for eps") else None,
    )


def _deviation(difference: Tensor, output: Tensor) -> float:
    """Give the largest length of a row's difference by that of its output; a row of zeros counts as an average one."""
    lengths = torch.linalg.vector_norm(output, dim=-1)
    lengths = torch.where(lengths > 0, lengths, lengths.square().mean().sqrt())
    return float((torch.linalg.vector_norm(difference, dim=-1) / lengths).max())


def _check(x: Tensor, factor: float, scales: Sequence[float]) -> None:
    """Refuse what cannot be measured with.

    Raises:
        TypeError: If ``x`` is not floating.
        ValueError: If ``x`` is too small, or ``factor`` or a scale out of bounds.
    """
    if not x.is_floating_point():
        raise TypeError(f"x must be of a floating dtype, got {x.dtype}")
    if x.dim() < 2 or x.shape[0] < 2:
        raise ValueError(f"x must be [cases, ..., features] with at least two cases, got {list(x.shape)}")
    if not all(math.isfinite(value) and value > 0 for value in (factor, *scales)) or factor == 1:
        raise ValueError(
            f"factor and scales must be positive and finite, factor not 1, got {factor} and {list(scales)}"
        )


def _check_output(own: Seen, again: Seen, module: nn.Module) -> None:
    """Refuse a module whose output cannot be compared with itself.

    Raises:
        TypeError: If the output is not one tensor.
        ValueError: If it is zero, not finite, or another one each time.
    """
    if not isinstance(own.result, Tensor):
        raise TypeError(f"{type(module).__name__} must give one tensor, got {type(own.result).__name__}")
    if not own.result.isfinite().all() or not own.result.any():
        raise ValueError(f"the output of {type(module).__name__} must be finite and not all zero")
    if not torch.equal(own.result, again.result):
        raise ValueError(f"two calls of {type(module).__name__} on one input differ: switch its dropout off")
