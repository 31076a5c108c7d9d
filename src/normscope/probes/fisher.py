"""Fisher matrices of generalized linear models, plain and normalized, in closed form: Ba et al. (2016), section 5.2."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Family = Literal["gaussian", "bernoulli", "categorical"]
Method = Literal["none", "layer", "batch", "weight"]

METHODS: tuple[Method, ...] = ("none", "layer", "batch", "weight")
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


def standard_fisher(x: Tensor, weight: Tensor, bias: Tensor, *, family: Family, dispersion: float = 1.0) -> Tensor:
    r"""Return the Fisher matrix of the plain model, whose natural parameters are :math:`s_i = w_i^\top x + b_i`.

    .. math:: F = E_x \left[ \frac{\mathrm{Cov}[y|x]}{\phi^2} \otimes
        \begin{pmatrix} x x^\top & x \\ x^\top & 1 \end{pmatrix} \right]

    Args:
        x: ``[N, D]``; the expectation is the mean over its rows.
        weight: W, ``[H, D]``.
        bias: b, ``[H]``.
        family: ``gaussian`` of variance phi, ``bernoulli`` for each output, or ``categorical`` over the outputs.
        dispersion: phi, 1 for all but the Gaussian.

    Returns:
        ``[H (D + 1), H (D + 1)]``, for one output after another its weights and its bias.

    Raises:
        ValueError: If shapes do not fit, or ``dispersion`` does not fit the family.

    References:
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, eqs. (10)-(12).
        Departs from it in: nothing.
    """
    _check(x, weight, bias, None, family, dispersion)
    metric = _metric(x @ weight.T + bias, family, dispersion)
    extended = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    size = weight.shape[0] * (weight.shape[1] + 1)
    return torch.einsum("nij,na,nb->iajb", metric, extended, extended).reshape(size, size) / len(x)


def normalized_fisher(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    gain: Tensor,
    *,
    method: Method,
    family: Family,
    dispersion: float = 1.0,
    printed: bool = False,
) -> Tensor:
    r"""Return the Fisher matrix of the normalized model, :math:`s_i = g_i (a_i - \mu_i) / \sigma_i + b_i`, a = W x.

    Its block of the outputs i and j is, as the paper prints it,

    .. math::
        \bar F_{ij} = E_x \left[ \frac{\mathrm{Cov}[y_i, y_j | x]}{\phi^2} \, u_i u_j^\top \right], \quad
        u_i = \left( \frac{g_i}{\sigma_i} \chi_i, \; 1, \; \frac{a_i - \mu_i}{\sigma_i} \right), \quad
        \chi_i = x - \frac{\partial \mu_i}{\partial w_i} - \frac{a_i - \mu_i}{\sigma_i}
        \frac{\partial \sigma_i}{\partial w_i}

    That is exact where the moments of an output depend on its own weights, as in batch and weight normalization. In
    layer normalization they depend on all weights, so that an output k has a derivative by the weights of i, too:
    :math:`\chi_{ki} = \delta_{ki} x - (1 + y_k y_i) x / H` with y the normalized summed inputs, and the block is
    :math:`\sum_{kl} \mathrm{Cov}_{kl} u_{ki} u_{lj}^\top / \phi^2`. This is what is computed, unless ``printed``.

    Args:
        x: ``[N, D]``; expectations, and batch normalization's moments, are means over its rows.
        weight: W, ``[H, D]``.
        bias: b, ``[H]``.
        gain: g, ``[H]``.
        method: Whose moments: ``layer`` (over outputs), ``batch`` (over rows), ``weight`` (0 and the length of w_i), or
            ``none`` (0 and 1).
        family: As in `standard_fisher`.
        dispersion: As in `standard_fisher`.
        printed: Leave out what the printed equation leaves out for layer normalization.

    Returns:
        ``[H (D + 2), H (D + 2)]``, for one output after another its weights, its bias and its gain.

    Raises:
        ValueError: If shapes do not fit, ``dispersion`` does not fit the family, or a deviation is zero.

    References:
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, eqs. (13)-(14).
        Departs from it in: the derivatives across outputs in layer normalization; ``printed=True`` is as printed.
    """
    _check(x, weight, bias, gain, family, dispersion)
    outputs, jacobian = _normalized(x, weight, bias, gain, method, printed)
    metric = _metric(outputs, family, dispersion)
    size = weight.shape[0] * (weight.shape[1] + 2)
    return torch.einsum("nkl,nkia,nljb->iajb", metric, jacobian, jacobian).reshape(size, size) / len(x)


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
    _check(x, weight, bias, gain, family, dispersion)
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
            outputs, jacobian = _normalized(
                x, scaled, bias, torch.ones_like(gain) if method == "none" else gain, method, printed=False
            )
            to_weights = jacobian[..., : weight.shape[1]]
            error = (_mean(outputs, family) - y) / dispersion
            gradient = torch.einsum("nk,nkia->ia", error, to_weights) / len(x)
            angles.append(_angle(scaled, scaled - learning_rate * gradient))
            metric = _metric(outputs, family, dispersion)
            block = torch.einsum("nkl,nkia,nljb->iajb", metric, to_weights, to_weights) / len(x)
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


def _normalized(
    x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, method: Method, printed: bool
) -> tuple[Tensor, Tensor]:
    """Give the natural parameters ``[N, H]`` and their derivatives ``[N, k, i, (w_i, b_i, g_i)]``.

    Raises:
        ValueError: If a deviation is zero, or the method is unknown.
    """
    a, outputs = x @ weight.T, len(weight)
    if method == "layer":
        mean, deviation = a.mean(1, keepdim=True), a.std(1, correction=0, keepdim=True)
    elif method == "batch":
        mean, deviation = a.mean(0), a.std(0, correction=0)
    elif method == "weight":
        mean, deviation = torch.zeros_like(a), torch.linalg.vector_norm(weight, dim=1)
    elif method == "none":
        mean, deviation = torch.zeros_like(a), torch.ones_like(a)
    else:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if not deviation.all():
        raise ValueError(f"the deviations of the method {method!r} must not be zero")
    y = (a - mean) / deviation
    itself = torch.eye(outputs, dtype=x.dtype, device=x.device)
    chi = torch.einsum("ki,na->nkia", itself, x)
    if method == "layer":
        shared = (1 + y[:, :, None] * y[:, None, :]) / outputs
        chi = chi - torch.einsum("nki,na->nkia", itself * shared if printed else shared, x)
    elif method == "batch":
        moved = x.mean(0) + y[:, :, None] * (y.T @ x / len(x))
        chi = chi - torch.einsum("ki,nka->nkia", itself, moved)
    elif method == "weight":
        unit = weight / deviation[:, None]
        chi = chi - torch.einsum("ki,nk,ka->nkia", itself, y, unit)
    by_weight = (gain / deviation).expand_as(a)[:, :, None, None] * chi
    own = itself.expand(len(x), -1, -1)
    return gain * y + bias, torch.cat([by_weight, own[..., None], (own * y[:, :, None])[..., None]], dim=-1)


def _mean(outputs: Tensor, family: Family) -> Tensor:
    """Give E[y | x] from natural parameters."""
    return {"gaussian": lambda s: s, "bernoulli": torch.sigmoid, "categorical": lambda s: s.softmax(-1)}[family](
        outputs
    )


def _metric(outputs: Tensor, family: Family, dispersion: float) -> Tensor:
    """Give Cov[y | x] / phi^2, ``[N, H, H]``."""
    mean = _mean(outputs, family)
    if family == "gaussian":
        return torch.diag_embed(torch.ones_like(mean)) / dispersion
    if family == "bernoulli":
        return torch.diag_embed(mean * (1 - mean))
    return torch.diag_embed(mean) - mean[:, :, None] * mean[:, None, :]


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


def _check(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor | None, family: Family, dispersion: float) -> None:
    """Refuse what is no model.

    Raises:
        ValueError: If shapes do not fit, the family is unknown, or the dispersion does not fit it.
    """
    shapes = [list(tensor.shape) for tensor in (x, weight, bias, *([] if gain is None else [gain]))]
    outputs = len(weight)
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1] or any(s != [outputs] for s in shapes[2:]):
        raise ValueError(f"x, weight and bias (and gain) must be [N, D], [H, D] and [H], got {shapes}")
    if family not in ("gaussian", "bernoulli", "categorical"):
        raise ValueError(f"family must be 'gaussian', 'bernoulli' or 'categorical', got {family!r}")
    if not dispersion > 0 or (family != "gaussian" and dispersion != 1):
        raise ValueError(f"dispersion must be positive, and 1 for a family {family!r} that has none, got {dispersion}")
