"""How the turn that a gradient step gives to weights shrinks as they grow, with a normalization and without."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from normscope.analysis.fisher import METHODS, Family, Method, check_model, expected, metric, normalized_outputs

FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """What one gradient step does to the direction of the weights as they grow, under one method."""

    method: Method
    factors: tuple[float, ...]
    """What all weights were multiplied by."""
    angles: tuple[float, ...]
    """Between the weights, as one vector, before and after a step, in radians."""
    curvatures: tuple[float, ...]
    """Largest eigenvalue of the Fisher block of the weights."""
    angle_slope: float
    """Exponent of the factor in the angle: -2 where only the direction of the weights counts."""
    curvature_slope: float
    """Exponent of the factor in the curvature: -2 likewise."""


@dataclass(frozen=True, kw_only=True)
class ImplicitLearningRate:
    """The methods side by side."""

    family: Family
    learning_rate: float
    rows: tuple[StepSizes, ...]

    @property
    def reading(self) -> str:
        """What was found, what it means and what to try, in sentences."""
        words = [
            f"{row.method}: when the weights grow {row.factors[-1] / row.factors[0]:g}-fold, a step of "
            f"{self.learning_rate:g} turns them {row.angles[0] / row.angles[-1]:.4g} times less (the angle goes as "
            f"their length to the {row.angle_slope:+.2f}), and the Fisher matrix along them goes as the length to the "
            f"{row.curvature_slope:+.2f}."
            for row in self.rows
        ]
        words.append(
            "Where the exponent is -2 the length of the weights is no part of the function and acts as a learning rate "
            "that falls as they grow: doubled weights need four times the rate for the same turn. This usually shows "
            "as training that slows without weight decay. To keep the turn, decay the weights, or lower the rate less."
        )
        return " ".join(words)

    def to_json(self) -> dict[str, Any]:
        """Return rows and reading as plain dictionaries, lists, strings and numbers."""
        return {**asdict(self), "reading": self.reading}


def implicit_learning_rate(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    gain: Tensor,
    *,
    family: Family,
    learning_rate: float = 1e-3,
    dispersion: float = 1.0,
    factors: Sequence[float] = FACTORS,
    methods: Sequence[Method] = METHODS,
) -> ImplicitLearningRate:
    r"""Measure how far one gradient step turns the weights, as they are made longer.

    Under a normalization the output stays as W becomes c W, the gradient falls as 1 / c, and the angle of a step

    .. math:: \angle(W, W - \eta \nabla_W L), \quad L = -E_x \log P(y | x)

    as 1 / c^2; so does the Fisher block of the weights. The paper speaks of a factor 1/2 in the curvature for doubled
    weights: that is the block between the weights and the other parameters.

    Args:
        x: ``[N, D]``.
        y: Targets ``[N, H]``: values, probabilities, or one-hot rows.
        weight: W, ``[H, D]``, at the factor 1.
        bias: b, ``[H]``.
        gain: g, ``[H]``; unused by the method ``none``.
        family: As in `standard_fisher`.
        learning_rate: eta.
        dispersion: As in `standard_fisher`.
        factors: What W is multiplied by, two or more, rising.
        methods: Which to compare.

    Returns:
        Angles, largest eigenvalues, and their exponents by least squares in logarithms.

    Raises:
        ValueError: If shapes do not fit, the factors are not positive and rising, the learning rate is not positive, or
            ``dispersion`` does not fit the family.

    References:
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, section 5.2.2.
        Departs from it in: the step and its angle, which the paper argues about and does not measure.
    """
    check_model(x, weight, bias, gain, family, dispersion)
    if y.shape != (len(x), len(weight)):
        raise ValueError(f"y must be [{len(x)}, {len(weight)}], got {list(y.shape)}")
    if len(factors) < 2 or list(factors) != sorted(set(factors)) or factors[0] <= 0 or not learning_rate > 0:
        raise ValueError(
            f"factors must be positive and rising, at least two, and the learning rate positive, got {list(factors)} "
            f"and {learning_rate}"
        )
    rows = []
    for method in methods:
        angles, curvatures = [], []
        for factor in factors:
            scaled = factor * weight
            outputs, jacobian = normalized_outputs(
                x, scaled, bias, torch.ones_like(gain) if method == "none" else gain, method, printed=False
            )
            to_weights = jacobian[..., : weight.shape[1]]
            error = (expected(outputs, family) - y) / dispersion
            gradient = torch.einsum("nk,nkia->ia", error, to_weights) / len(x)
            angles.append(_angle(scaled, scaled - learning_rate * gradient))
            covariance = metric(outputs, family, dispersion)
            block = torch.einsum("nkl,nkia,nljb->iajb", covariance, to_weights, to_weights) / len(x)
            curvatures.append(float(torch.linalg.eigvalsh(block.reshape(weight.numel(), -1))[-1]))
        rows.append(
            StepSizes(
                method=method,
                factors=tuple(factors),
                angles=tuple(angles),
                curvatures=tuple(curvatures),
                angle_slope=_slope(factors, angles),
                curvature_slope=_slope(factors, curvatures),
            )
        )
    return ImplicitLearningRate(family=family, learning_rate=learning_rate, rows=tuple(rows))


def _angle(one: Tensor, other: Tensor) -> float:
    """Give the angle between two tensors as vectors; the half-angle form keeps the digits of a small one."""
    u, v = one / torch.linalg.vector_norm(one), other / torch.linalg.vector_norm(other)
    return 2 * math.atan2(float(torch.linalg.vector_norm(u - v)), float(torch.linalg.vector_norm(u + v)))


def _slope(factors: Sequence[float], values: Sequence[float]) -> float:
    """Give the exponent of a power law by least squares; NaN cannot be: a value of zero has the exponent zero."""
    if min(values) <= 0:
        return 0.0
    x, y = (torch.tensor([math.log(value) for value in column], dtype=torch.float64) for column in (factors, values))
    return float(((x - x.mean()) * y).sum() / (x - x.mean()).square().sum())
