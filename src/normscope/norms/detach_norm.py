"""DetachNorm: layer normalization with the mean, the deviation or both as constants in the backward pass."""

from dataclasses import replace
from typing import overload

import torch
from torch import Tensor, nn

from normscope.kernels import Backend, check_backend, fused
from normscope.kernels.formula import CENTER, DETACH_MEAN, DETACH_STD, ROOT
from normscope.kernels.scaling import in_range
from normscope.norms.checks import Shape, as_shape, check_eps
from normscope.norms.moments import defined, length, trailing, widen
from normscope.norms.traits import NormTraits, ResidualCall


def detach_norm(
    x: Tensor, eps: float = 1e-5, *, mean: bool = True, std: bool = True, hold_size: bool = False, axes: int = 1
) -> Tensor:
    r"""Normalize as LayerNorm-simple does, with the chosen statistics as constants in the backward pass.

    .. math:: h = \frac{x - \hat\mu}{\hat\sigma}, \quad \sigma = \sqrt{\tfrac{1}{H} \sum_i (x_i - \mu)^2 + \epsilon}

    A hat copies the value and blocks the gradient. With both detached the gradient is that of a division by a constant,
    dx = dh / sigma. Forward-mode derivatives treat the same statistics as constants.

    That gradient has a part that multiplies all N rows by one number, and, with the mean detached, a part that
    multiplies all their means by one number. No later layer can see either, and both let the input grow. With
    ``hold_size`` they are removed:

    .. math::
        h = \frac{\hat S}{S} \, \frac{x - \hat\mu R / \hat R}{\hat\sigma}, \quad
        S^2 = \frac{1}{NH} \sum_n \lVert x_n - \mu_n \rVert^2, \quad R^2 = \frac{1}{N} \sum_n \mu_n^2

    The values do not change. Of the gradient as one vector of all rows, the parts along the centered rows and, with the
    mean detached, along the means are gone, and nothing else: it is orthogonal to the input, and a small step of x
    leaves S and R as they are. LayerNorm's derivative removes these parts from every row by itself.

    Args:
        x: ``[..., D]``, any floating dtype; statistics in at least float32.
        eps: Added to the variance.
        mean: Whether the mean is detached.
        std: Whether the standard deviation is detached.
        hold_size: Whether the parts of the gradient that change S and, with the mean detached, R are removed.
        axes: Number of trailing axes in a row.

    Returns:
        ``[..., D]`` in the dtype of ``x``, rounded once; the values are those of LayerNorm-simple.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, poster, Theorem 1.
        Departs from it in: ``eps`` and ``hold_size``, which the paper does not have.

    Example:
        >>> import torch
        >>> from normscope.norms import detach_norm
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> detach_norm(x)
        tensor([[-1.3416, -0.4472,  0.4472,  1.3416]])
    """
    over = trailing(axes)
    wide, scale, shift = in_range(widen(x), over, centers=True)
    mu = (wide.detach() if mean else wide).mean(over, keepdim=True)
    centered = wide - mu
    # The mean inside the deviation is not detached, which second derivatives show: the first one is zero there.
    inner = centered.detach() if std else wide - wide.mean(over, keepdim=True) if mean else centered
    variance = inner.square().mean(over, keepdim=True)
    if not hold_size or not x.numel():
        return (centered * (variance + eps * scale * scale).rsqrt()).to(x.dtype)
    common, _, _ = in_range(widen(x), trailing(x.dim()))
    means = common.mean(over, keepdim=True)
    if mean:
        centered = centered + (_one(means) - 1) * (mu + shift * scale)
    return (centered * (variance + eps * scale * scale).rsqrt() * _one(common - means)).to(x.dtype)


def _one(x: Tensor) -> Tensor:
    """Return the scalar 1, with the derivative of the reciprocal of the root mean square of all entries."""
    size = length(x, trailing(x.dim())).reshape(())
    size = size.masked_fill(size == 0, 1.0)
    return size.detach() / size


class DetachNorm(nn.Module):
    """LayerNorm-simple with its mean, its standard deviation, or both as constants in the backward pass.

    It measures what the derivatives of the two statistics contribute. With neither detached it is LayerNorm-simple. The
    output has the dtype of the input, also under autocast.

    Args:
        normalized_shape: Width, or sizes of the trailing axes.
        eps: Added to the variance.
        mean: Whether the mean is detached.
        std: Whether the standard deviation is detached.
        hold_size: Whether the parts of the gradient that make the whole input grow are removed; see
            :func:`detach_norm`. The rows of a call then share a gradient, and no kernel computes it.
        device: Unused, as there are no parameters.
        dtype: Unused, as there are no parameters.
        backend: ``eager``, ``cpu`` or ``triton``; None for NORMSCOPE_BACKEND, or else the best for the input's device.

    Raises:
        TypeError: If a size is not an int or ``eps`` not a real number; in ``forward``, if the input is not floating
            point.
        ValueError: If a size is below one, ``eps`` is negative, the backend is unknown, or ``hold_size`` is given
            without ``std`` or with a backend of kernels; in ``forward``, if the trailing axes of the input differ, or
            the residual has another shape or dtype.
        BackendUnavailable: In ``forward``, if the backend was requested by name and cannot run here.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, poster, Theorem 1.
        Departs from it in: ``eps`` and ``hold_size``, which the paper does not have.

    Example:
        >>> import torch
        >>> from normscope import DetachNorm
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]], requires_grad=True)
        >>> (DetachNorm(4)(x) ** 2).sum().backward()
        >>> x.grad  # of LayerNorm-simple it is zero, up to eps
        tensor([[-2.4000, -0.8000,  0.8000,  2.4000]])
    """

    def __init__(
        self,
        normalized_shape: Shape,
        eps: float = 1e-5,
        *,
        mean: bool = True,
        std: bool = True,
        hold_size: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = as_shape(normalized_shape)
        self.eps = check_eps(eps)
        if hold_size and not std:
            raise ValueError("hold_size needs std=True: the deviation's derivative already holds the size of every row")
        if hold_size and backend not in (None, "eager"):
            raise ValueError(f"no kernel holds the size: leave backend={backend!r} out, or choose 'eager'")
        self.mean = mean
        self.std = std
        self.hold_size = hold_size
        self.backend: Backend | None = check_backend(backend)

    @property
    def traits(self) -> NormTraits:
        """Return the traits, which depend on what is detached."""
        traits = NormTraits.of_formula(self._flags, has_weight=False, has_bias=False)
        return replace(traits, holds_size=True, formula=None) if self.hold_size else traits

    @property
    def _flags(self) -> int:
        return CENTER | ROOT | (DETACH_MEAN if self.mean else 0) | (DETACH_STD if self.std else 0)

    __call__: ResidualCall  # pyright: ignore[reportIncompatibleVariableOverride]

    @overload
    def forward(self, x: Tensor, residual: None = None) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]: ...
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map ``[..., D]`` to ``[..., D]``; with a residual, return the norm of the sum, and the sum."""
        shape = self.normalized_shape
        if not self.hold_size:
            z = fused(x, shape, None, None, residual, self._flags, self.eps, backend=self.backend)
            if z is not None:
                return z
        settings = {"mean": self.mean, "std": self.std, "hold_size": self.hold_size, "axes": len(shape)}
        return defined(self, lambda x: detach_norm(x, self.eps, **settings), x, residual)

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        detached = f"mean={self.mean}, std={self.std}, hold_size={self.hold_size}"
        return f"{self.normalized_shape}, eps={self.eps}, {detached}, backend={self.backend!r}"
