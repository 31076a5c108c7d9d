"""Closed-form Fisher matrices of generalized linear models, plain and normalized: Ba et al. (2016), section 5.2."""

from typing import Literal, get_args

import torch
from torch import Tensor

from normscope.arguments import check_arguments

Family = Literal["gaussian", "bernoulli", "categorical"]
Method = Literal["none", "layer", "batch", "weight"]

METHODS: tuple[Method, ...] = get_args(Method)
"""Normalization methods; ``none`` is the plain model."""


@check_arguments
def standard_fisher(x: Tensor, weight: Tensor, bias: Tensor, *, family: Family, dispersion: float = 1.0) -> Tensor:
    r"""Return the Fisher matrix of the plain model, whose natural parameters are :math:`s_i = w_i^\top x + b_i`.

    .. math:: F = E_x \left[ \frac{\mathrm{Cov}[y|x]}{\phi^2} \otimes
        \begin{pmatrix} x x^\top & x \\ x^\top & 1 \end{pmatrix} \right]

    Args:
        x: ``[N, D]``; the expectation is the mean over its rows.
        weight: W, ``[H, D]``.
        bias: b, ``[H]``.
        family: ``gaussian`` of variance phi, ``bernoulli`` for each output, or ``categorical`` over the outputs.
        dispersion: phi; must be 1 except for ``gaussian``.

    Returns:
        ``[H (D + 1), H (D + 1)]``, ordered by output; each has its weights, then its bias.

    Raises:
        ValueError: If shapes do not match, the family is unknown, or ``dispersion`` is invalid for it.

    References:
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, eqs. (10)-(12).
        Departs from it in: nothing.

    Example:
        >>> import torch
        >>> from normscope.analysis import standard_fisher
        >>> x, weight = torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> standard_fisher(x, weight[:1], torch.zeros(1), family="gaussian")
        tensor([[ 5.0000, -0.5000,  2.0000],
                [-0.5000,  2.5000,  0.5000],
                [ 2.0000,  0.5000,  1.0000]])
    """
    check_model(x, weight, bias, None, family, dispersion)
    covariance = metric(x @ weight.T + bias, family, dispersion)
    extended = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    size = weight.shape[0] * (weight.shape[1] + 1)
    return torch.einsum("nij,na,nb->iajb", covariance, extended, extended).reshape(size, size) / len(x)


@check_arguments
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

    In the paper, the block of outputs i and j is

    .. math::
        \bar F_{ij} = E_x \left[ \frac{\mathrm{Cov}[y_i, y_j | x]}{\phi^2} \, u_i u_j^\top \right], \quad
        u_i = \left( \frac{g_i}{\sigma_i} \chi_i, \; 1, \; \frac{a_i - \mu_i}{\sigma_i} \right), \quad
        \chi_i = x - \frac{\partial \mu_i}{\partial w_i} - \frac{a_i - \mu_i}{\sigma_i}
        \frac{\partial \sigma_i}{\partial w_i}

    This is exact if the moments of an output depend only on the weights of that output, as in batch and weight
    normalization. In layer normalization they depend on all weights, and output k has a derivative with respect to the
    weights of output i: :math:`\chi_{ki} = \delta_{ki} x - (1 + y_k y_i) x / H`, with y the normalized summed inputs,
    and the block is :math:`\sum_{kl} \mathrm{Cov}_{kl} u_{ki} u_{lj}^\top / \phi^2`. This is computed by default.

    Args:
        x: ``[N, D]``; expectations, and the moments of batch normalization, are means over its rows.
        weight: W, ``[H, D]``.
        bias: b, ``[H]``.
        gain: g, ``[H]``.
        method: Moments: ``layer`` (over outputs), ``batch`` (over rows), ``weight`` (0 and the length of w_i), or
            ``none`` (0 and 1).
        family: As in `standard_fisher`.
        dispersion: As in `standard_fisher`.
        printed: Whether to use the printed equation for layer normalization, without the derivatives across outputs.

    Returns:
        ``[H (D + 2), H (D + 2)]``, ordered by output; each has its weights, its bias and its gain.

    Raises:
        ValueError: If shapes do not match, the family is unknown, ``dispersion`` is invalid for it, or a standard
            deviation is zero.

    References:
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, eqs. (13)-(14).
        Departs from it in: the derivatives across outputs in layer normalization; ``printed=True`` is as printed.

    Example:
        >>> import torch
        >>> from normscope.analysis import normalized_fisher
        >>> x, weight = torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> matrix = normalized_fisher(x, weight, torch.zeros(2), torch.ones(2), method="layer", family="gaussian")
        >>> matrix.shape
        torch.Size([8, 8])
    """
    check_model(x, weight, bias, gain, family, dispersion)
    outputs, jacobian = normalized_outputs(x, weight, bias, gain, method, printed)
    covariance = metric(outputs, family, dispersion)
    size = weight.shape[0] * (weight.shape[1] + 2)
    return torch.einsum("nkl,nkia,nljb->iajb", covariance, jacobian, jacobian).reshape(size, size) / len(x)


def normalized_outputs(
    x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, method: Method, printed: bool
) -> tuple[Tensor, Tensor]:
    """Compute the natural parameters of the normalized model, and their derivatives.

    Args:
        x: ``[N, D]``.
        weight: W, ``[H, D]``.
        bias: b, ``[H]``.
        gain: g, ``[H]``.
        method: As in `normalized_fisher`.
        printed: As in `normalized_fisher`.

    Returns:
        ``[N, H]``, and ``[N, k, i, D + 2]``: derivatives of output k by the weights, bias and gain of output i.

    Raises:
        ValueError: If a standard deviation is zero, or the method is unknown.
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
        raise ValueError(f"the standard deviations of the method {method!r} must not be zero")
    y = (a - mean) / deviation
    identity = torch.eye(outputs, dtype=x.dtype, device=x.device)
    chi = torch.einsum("ki,na->nkia", identity, x)
    if method == "layer":
        shared = (1 + y[:, :, None] * y[:, None, :]) / outputs
        chi = chi - torch.einsum("nki,na->nkia", identity * shared if printed else shared, x)
    elif method == "batch":
        moved = x.mean(0) + y[:, :, None] * (y.T @ x / len(x))
        chi = chi - torch.einsum("ki,nka->nkia", identity, moved)
    elif method == "weight":
        unit = weight / deviation[:, None]
        chi = chi - torch.einsum("ki,nk,ka->nkia", identity, y, unit)
    by_weight = (gain / deviation).expand_as(a)[:, :, None, None] * chi
    by_bias = identity.expand(len(x), -1, -1)
    by_gain = by_bias * y[:, :, None]
    return gain * y + bias, torch.cat([by_weight, by_bias[..., None], by_gain[..., None]], dim=-1)


def metric(outputs: Tensor, family: Family, dispersion: float) -> Tensor:
    """Return Cov[y | x] / phi^2, ``[N, H, H]``."""
    mean = expected(outputs, family)
    if family == "gaussian":
        return torch.diag_embed(torch.ones_like(mean)) / dispersion
    if family == "bernoulli":
        return torch.diag_embed(mean * (1 - mean))
    return torch.diag_embed(mean) - mean[:, :, None] * mean[:, None, :]


def expected(outputs: Tensor, family: Family) -> Tensor:
    """Return E[y | x] from natural parameters ``[N, H]``."""
    return {"gaussian": lambda s: s, "bernoulli": torch.sigmoid, "categorical": lambda s: s.softmax(-1)}[family](
        outputs
    )


def check_model(
    x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor | None, family: Family, dispersion: float
) -> None:
    """Check the parameters of a model as in `normalized_fisher`; ``gain`` may be None.

    Raises:
        ValueError: If shapes do not match, the family is unknown, or ``dispersion`` is invalid for it.
    """
    shapes = [list(tensor.shape) for tensor in (x, weight, bias, *([] if gain is None else [gain]))]
    outputs = len(weight)
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1] or any(s != [outputs] for s in shapes[2:]):
        raise ValueError(f"x, weight and bias (and gain) must be [N, D], [H, D] and [H], got {shapes}")
    if family not in ("gaussian", "bernoulli", "categorical"):
        raise ValueError(f"family must be 'gaussian', 'bernoulli' or 'categorical', got {family!r}")
    if not dispersion > 0 or (family != "gaussian" and dispersion != 1):
        raise ValueError(f"dispersion must be positive, and 1 for a family {family!r} that has none, got {dispersion}")
