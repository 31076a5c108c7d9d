"""Implicit learning rate: the rotation of weights by a gradient step as they grow, with and without normalization."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from normscope.analysis.fisher import METHODS, Family, Method, check_model, expected, metric, normalized_outputs
from normscope.arguments import check_arguments
from normscope.fits import log_slope

FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Default factors on the weights."""


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """Effect of one gradient step on the direction of the weights as they grow, with one normalization method."""

    method: Method
    factors: tuple[float, ...]
    """Factors on all weights."""
    angles: tuple[float, ...]
    """Angle between the weights, as one vector, before and after a step, in radians."""
    curvatures: tuple[float, ...]
    """Largest eigenvalue of the Fisher block of the weights."""
    angle_slope: float
    """Exponent of the factor in the angle: -2 if only the direction of the weights matters."""
    curvature_slope: float
    """Exponent of the factor in the curvature: also -2 then."""


@dataclass(frozen=True, kw_only=True)
class ImplicitLearningRate:
    """Comparison of the normalization methods."""

    family: Family
    learning_rate: float
    rows: tuple[StepSizes, ...]

    @property
    def reading(self) -> str:
        """Results, their meaning and what to try, as plain text."""
        sentences = [
            f"{row.method}: if the weights grow by a factor of {row.factors[-1] / row.factors[0]:g}, a step at the "
            f"learning rate {self.learning_rate:g} rotates them {row.angles[0] / row.angles[-1]:.4g} times less: the "
            f"angle scales with the length to the power {row.angle_slope:+.2f}, and their block of the Fisher matrix "
            f"with the length to the power {row.curvature_slope:+.2f}."
            for row in self.rows
        ]
        sentences.append(
            "Where the exponent is -2, the length of the weights does not affect the function, and acts as a learning "
            "rate that decreases as they grow: doubled weights need four times the learning rate for the same "
            "rotation. Training without weight decay then slows down. To keep the rotation, use weight decay, or "
            "reduce the learning rate more slowly."
        )
        return " ".join(sentences)

    def to_json(self) -> dict[str, Any]:
        """Return rows and reading as plain dictionaries, lists, strings and numbers."""
        return {**asdict(self), "reading": self.reading}


@check_arguments
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
) -> ImplicitLearningRate:
    r"""Measure the rotation of the weights by one gradient step, as a function of their length.

    With a normalization, scaling W to c W leaves the output unchanged, and scales the gradient by 1 / c and the angle

    .. math:: \angle(W, W - \eta \nabla_W L), \quad L = -E_x \log P(y | x)

    by 1 / c^2, as it does the Fisher block of the weights. The factor of 1/2 in the curvature for doubled weights that
    the paper states holds for the block between the weights and the other parameters.

    Args:
        x: ``[N, D]``.
        y: Targets ``[N, H]``: values, probabilities, or one-hot rows.
        weight: W, ``[H, D]``, for the factor 1.
        bias: b, ``[H]``.
        gain: g, ``[H]``; not used without normalization.
        family: As in `standard_fisher`.
        learning_rate: eta.
        dispersion: As in `standard_fisher`.
        factors: Factors on W, two or more, increasing.

    Returns:
        Angles, largest eigenvalues, and their exponents in a log-log fit, for every method.

    Raises:
        ValueError: If shapes do not match, the factors are not positive and increasing, the learning rate is not
            positive, or ``dispersion`` is invalid for the family.

    References:
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, section 5.2.2.
        Departs from it in: the measurement of the step and its angle, which the paper only discusses.

    Example:
        >>> import torch
        >>> from normscope.analysis import implicit_learning_rate
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(6, 3, generator=generator), torch.randn(6, 2, generator=generator)
        >>> weight = torch.randn(2, 3, generator=generator)
        >>> result = implicit_learning_rate(x, y, weight, torch.zeros(2), torch.ones(2), family="gaussian")
        >>> [row.method for row in result.rows]
        ['none', 'layer', 'batch', 'weight']
    """
    check_model(x, weight, bias, gain, family, dispersion)
    if y.shape != (len(x), len(weight)):
        raise ValueError(f"y must be [{len(x)}, {len(weight)}], got {list(y.shape)}")
    if len(factors) < 2 or list(factors) != sorted(set(factors)) or factors[0] <= 0 or not learning_rate > 0:
        raise ValueError(
            "factors must be positive and increasing, at least two, and the learning rate positive, got "
            f"{list(factors)} and {learning_rate}"
        )

    def step(method: Method, factor: float) -> tuple[float, float]:
        """Return the angle of one gradient step, and the largest eigenvalue of the Fisher block of the weights."""
        gains = torch.ones_like(gain) if method == "none" else gain
        outputs, jacobian = normalized_outputs(x, factor * weight, bias, gains, method, printed=False)
        to_weights = jacobian[..., : weight.shape[1]]
        error = (expected(outputs, family) - y) / dispersion
        gradient = torch.einsum("nk,nkia->ia", error, to_weights) / len(x)
        covariance = metric(outputs, family, dispersion)
        block = torch.einsum("nkl,nkia,nljb->iajb", covariance, to_weights, to_weights) / len(x)
        curvature = float(torch.linalg.eigvalsh(block.reshape(weight.numel(), -1))[-1])
        return _angle(factor * weight, factor * weight - learning_rate * gradient), curvature

    rows = []
    for method in METHODS:
        angles, curvatures = zip(*(step(method, factor) for factor in factors), strict=True)
        rows.append(
            StepSizes(
                method=method,
                factors=tuple(factors),
                angles=angles,
                curvatures=curvatures,
                angle_slope=_slope(factors, angles),
                curvature_slope=_slope(factors, curvatures),
            )
        )
    return ImplicitLearningRate(family=family, learning_rate=learning_rate, rows=tuple(rows))


def _angle(one: Tensor, other: Tensor) -> float:
    """Return the angle between two tensors as vectors, by the half-angle formula, which is precise for small angles."""
    u, v = one / torch.linalg.vector_norm(one), other / torch.linalg.vector_norm(other)
    return 2 * math.atan2(float(torch.linalg.vector_norm(u - v)), float(torch.linalg.vector_norm(u + v)))


def _slope(factors: Sequence[float], values: Sequence[float]) -> float:
    """Return the exponent of a power law; 0 if a value is zero, so that it is never NaN."""
    return 0.0 if min(values) <= 0 else log_slope(values, [math.log(factor) for factor in factors])
