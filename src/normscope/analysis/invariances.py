"""Invariances of the output of a module: Table 1 of Ba et al. (2016), measured, and the deviation due to eps."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normscope.analysis.eps_law import ObservedCall, eps_law, observe_norm
from normscope.arguments import check_arguments
from normscope.inspection.preserve_state import untouched

Change = Callable[[Tensor], Tensor]
Holds = Literal["exactly", "but for eps", "nearly", "no"]

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
"""The six transformations of Table 1 in order, then three that distinguish norms without weights before them."""

SCALES = tuple(10 ** (tenth / 2) for tenth in range(-8, 5))
"""Default factors on the input: from 1e-4 to 1e2, two per decade."""

EXACT = 1e-9
"""Largest relative deviation that is attributed to float64 rounding, for an ill-conditioned row."""

NEAR = 1e-3
"""Largest relative deviation, at the original scale of the input, that counts as an invariance."""

LAW = 0.05
"""Largest relative difference between the measured curve and the law of eps."""


@dataclass(frozen=True, kw_only=True)
class Invariance:
    """Effect of one transformation of the weights or the data on the output."""

    transformation: str
    """Key of :data:`TRANSFORMATIONS`."""
    what: str
    """Description of the transformation."""
    holds: Holds
    """``exactly`` at every scale, ``but for eps`` if the law of eps explains the whole curve, ``nearly`` if the
    deviation at the original scale is below :data:`NEAR`, else ``no``."""
    deviation: float
    """Largest |difference| / |output| over the rows, at the original scale, in float64."""
    scales: tuple[float, ...]
    """Factors on the input."""
    deviations: tuple[float, ...]
    """Deviation at each of the scales."""
    law: tuple[float, ...] | None
    """Deviation according to the law of eps at each of the scales; None if the law does not apply."""

    @property
    def invariant(self) -> bool:
        """Whether the output is invariant, at least nearly."""
        return self.holds != "no"


@dataclass(frozen=True, kw_only=True)
class Invariances:
    """Row of a module in Table 1 of Ba et al., with further columns."""

    module: str
    """Class of the module, or of its only norm."""
    rows: tuple[Invariance, ...]

    def __getitem__(self, transformation: str) -> Invariance:
        """Return a row by its transformation.

        Raises:
            KeyError: If the transformation was not measured.
        """
        for row in self.rows:
            if row.transformation == transformation:
                return row
        raise KeyError(f"{transformation!r} was not measured; there are {[row.transformation for row in self.rows]}")

    @property
    def reading(self) -> str:
        """Results, their usual causes and what to try, as plain text."""
        by_result = {
            holds: [row.what for row in self.rows if row.holds == holds]
            for holds in ("exactly", "but for eps", "nearly", "no")
        }
        sentences = [
            f"The output of {self.module} {start}: {'; '.join(transformations)}."
            for start, transformations in (
                ("is exactly invariant under", by_result["exactly"]),
                ("is invariant, except for the effect of eps, under", by_result["but for eps"]),
                (f"changes by less than {NEAR:.1%} under", by_result["nearly"]),
                ("changes under", by_result["no"]),
            )
            if transformations
        ]
        deviating = [row for row in self.rows if row.holds == "but for eps"]
        if deviating:
            worst = max(deviating, key=lambda row: row.deviation)
            affected = [
                scale for scale, deviation in zip(worst.scales, worst.deviations, strict=True) if deviation > 0.01
            ]
            limit = f"above 1 % for inputs of {max(affected):.2g} times that" if affected else "below 1 % at all sizes"
            sentences.append(
                f"The effect of eps is {worst.deviation:.1e} at the original size of the input, and {limit}. Inputs "
                "that small are no longer normalized: look for a small initialization, a low-precision cast or a "
                "decayed weight, and lower eps or place the norm where its inputs are of order one."
            )
        if any(row.transformation.startswith("weight") and row.invariant for row in self.rows):
            sentences.append(
                "Weights that can be re-scaled without changing the output have an irrelevant length: weight decay "
                "only affects the effective step size, and steps shrink as the weights grow."
            )
        return " ".join(sentences)

    def to_json(self) -> dict[str, Any]:
        """Return rows and reading as plain dictionaries, lists, strings and numbers."""
        return {**asdict(self), "reading": self.reading}


@check_arguments
def invariances(
    module: nn.Module,
    x: Tensor,
    *,
    generator: torch.Generator,
    weight: str | None = None,
    factor: float = 3.0,
    scales: Sequence[float] = SCALES,
) -> Invariances:
    r"""Transform weights and data, and measure the change of the output of ``module`` in float64.

    The deviation is :math:`\max_r \lVert h'_r - h_r \rVert / \lVert h_r \rVert` over the rows r of the output, of h
    before and h' after the transformation. With eps inside the root, a normalized row has
    :math:`1 / \sqrt{1 + \epsilon / \sigma^2}` times its size without eps, so that re-scaling has an effect when
    :math:`\sigma^2` is near eps. The curve over input scales is compared with this law (see ``eps_law``). Shifts are
    proportional to the scale of the input. The module is called in its present mode, on copies of its parameters and
    buffers.

    Args:
        module: Any module from one tensor to one tensor: a norm, ``nn.Sequential(nn.Linear(...), norm)``, a block.
            Its parameters are converted to float64; if it computes in float32 internally, the deviations show that.
        x: ``[cases, ..., features]``, floating point, at least two cases; its size is the scale 1.
        generator: Draws the shifts.
        weight: Name of a parameter ``[units, ...]`` before the norm, such as ``"0.weight"``; if None, the three
            transformations of weights are skipped.
        factor: Factor of the re-scalings; positive, because a negative factor flips the sign of a normalized input.
        scales: Factors on the input for the curves.

    Returns:
        One row per transformation.

    Raises:
        TypeError: If ``x`` is not floating point, or the module does not return one tensor.
        ValueError: If ``x`` has fewer than two cases or two axes, ``weight`` does not name a parameter with two or more
            axes, ``factor`` or a scale is not positive and finite, ``factor`` is 1, two calls on the same input differ
            (dropout), or the output is zero or not finite.

    References:
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, section 5.1, Table 1, eqs. (6)-(7).
        Departs from it in: eps, which the paper omits; the last three rows of :data:`TRANSFORMATIONS`.

    Example:
        >>> import torch
        >>> from normscope.analysis import invariances
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(16, 8, generator=generator)
        >>> found = invariances(torch.nn.RMSNorm(8), x, generator=generator)
        >>> [row.transformation for row in found.rows if row.invariant]
        ['data_rescaling', 'case_rescaling']
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

    def call(data: Tensor, change: Change | None) -> ObservedCall:
        with torch.no_grad(), observe_norm(module) as seen:
            # A fresh copy for each call, because batch norm updates its buffers.
            given = {name: tensor.clone() for name, tensor in state.items()}
            if change is not None and weight is not None:
                given[weight] = change(given[weight])
            seen.result = functional_call(module, given, (data,))
        return seen

    data = x.detach().double()
    with untouched(module):
        original = call(data, None)
        _check_output(original, call(data, None), module)
        curves: dict[str, tuple[list[float], list[float | None]]] = {name: ([], []) for name in changes}
        for scale in (1.0, *scales):
            before = call(scale * data, None)
            for name, change in changes.items():
                to_weight = name.startswith("weight")
                after = call(scale * data if to_weight else scale * change(data), change if to_weight else None)
                if not after.result.isfinite().all() or not before.result.isfinite().all():
                    raise ValueError(f"{name} at {scale:g} times the input returns numbers that are not finite")
                measured, predicted = curves[name]
                measured.append(_deviation(after.result - before.result, before.result))
                change_of_eps = eps_law(before, after)
                predicted.append(None if change_of_eps is None else _deviation(change_of_eps, before.result))
    rows = tuple(_row(name, tuple(scales), *curves[name]) for name in TRANSFORMATIONS if name in changes)
    return Invariances(module=type(original.norm if original.norm is not None else module).__name__, rows=rows)


def data_changes(x: Tensor, factor: float, generator: torch.Generator) -> dict[str, Change]:
    """Return the transformations of data like ``x``; shifts are of its size, with a nonzero mean.

    Args:
        x: ``[cases, ..., features]``.
        factor: Factor of the re-scalings.
        generator: Draws the shift of every feature, on the CPU.

    Returns:
        Functions of float64 data, by the names of :data:`TRANSFORMATIONS` that concern data.
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
    """Return the transformations of weights like ``weight``; the shift is of its size.

    Args:
        weight: ``[units, ...]``, float64.
        factor: Factor of the re-scalings.
        generator: Draws the shift, which is the same for all units, on the CPU.

    Returns:
        Functions of the weights, by the names of :data:`TRANSFORMATIONS` that concern weights.
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


def _check(x: Tensor, factor: float, scales: Sequence[float]) -> None:
    """Check the arguments of :func:`invariances`.

    Raises:
        TypeError: If ``x`` is not floating point.
        ValueError: If ``x`` is too small, or ``factor`` or a scale is out of range.
    """
    if not x.is_floating_point():
        raise TypeError(f"x must be of a floating-point dtype, got {x.dtype}")
    if x.dim() < 2 or x.shape[0] < 2:
        raise ValueError(f"x must be [cases, ..., features] with at least two cases, got {list(x.shape)}")
    if not all(math.isfinite(value) and value > 0 for value in (factor, *scales)) or factor == 1:
        raise ValueError(
            f"factor and scales must be positive and finite, factor not 1, got {factor} and {list(scales)}"
        )


def _check_output(first: ObservedCall, second: ObservedCall, module: nn.Module) -> None:
    """Check that two calls on the same input return the same tensor.

    Raises:
        TypeError: If the output is not one tensor.
        ValueError: If the output is zero or not finite, or differs between the calls.
    """
    if not isinstance(first.result, Tensor):
        raise TypeError(f"{type(module).__name__} must return one tensor, got {type(first.result).__name__}")
    if not first.result.isfinite().all() or not first.result.any():
        raise ValueError(f"the output of {type(module).__name__} must be finite and not all zero")
    if not torch.equal(first.result, second.result):
        raise ValueError(f"two calls of {type(module).__name__} on one input differ: turn off dropout")


def _row(name: str, scales: tuple[float, ...], measured: list[float], predicted: list[float | None]) -> Invariance:
    """Build the row of one transformation; the first entry of a curve is for the original scale."""
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
    """Return the largest |difference| / |output| over the rows; a row of zeros is given the average length."""
    lengths = torch.linalg.vector_norm(output, dim=-1)
    lengths = torch.where(lengths > 0, lengths, lengths.square().mean().sqrt())
    return float((torch.linalg.vector_norm(difference, dim=-1) / lengths).max())
