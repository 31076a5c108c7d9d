"""DetachNorm: layer normalization with the mean, the deviation or both as constants in the backward pass."""

from typing import overload

import torch
from torch import Tensor, nn

from normscope.kernels import Backend, check_backend, fused
from normscope.kernels.formula import CENTER, DETACH_MEAN, DETACH_STD, ROOT
from normscope.kernels.scaling import in_range
from normscope.norms.checks import Shape, as_shape, check_eps
from normscope.norms.moments import defined, trailing, widen
from normscope.norms.traits import NormTraits, ResidualCall


def detach_norm(x: Tensor, eps: float = 1e-5, *, mean: bool = True, std: bool = True, axes: int = 1) -> Tensor:
    r"""Normalize as LayerNorm-simple does, with the chosen statistics as constants in the backward pass.

    .. math:: h = \frac{x - \hat\mu}{\hat\sigma}, \quad \sigma = \sqrt{\tfrac{1}{H} \sum_i (x_i - \mu)^2 + \epsilon}

    A hat copies the value and blocks the gradient. With both detached the gradient is that of a division by a constant,
    dx = dh / sigma. Forward-mode derivatives treat the same statistics as constants.

    Args:
        x: ``[..., D]``, any floating dtype; statistics in at least float32.
        eps: Added to the variance.
        mean: Whether the mean is detached.
        std: Whether the standard deviation is detached.
        axes: Number of trailing axes in a row.

    Returns:
        ``[..., D]`` in the dtype of ``x``, rounded once; the values are those of LayerNorm-simple.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, poster, Theorem 1.
        Departs from it in: ``eps``, which the paper does not have.

    Example:
        >>> import torch
        >>> from normscope.norms import detach_norm
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> detach_norm(x)
        tensor([[-1.3416, -0.4472,  0.4472,  1.3416]])
    """
    over = trailing(axes)
    wide, scale, _ = in_range(widen(x), over, centers=True)
    mu = (wide.detach() if mean else wide).mean(over, keepdim=True)
    centered = wide - mu
    # The mean inside the deviation is not detached, which second derivatives show: the first one is zero there.
    inner = centered.detach() if std else wide - wide.mean(over, keepdim=True) if mean else centered
    variance = inner.square().mean(over, keepdim=True)
    return (centered * (variance + eps * scale * scale).rsqrt()).to(x.dtype)


class DetachNorm(nn.Module):
    """LayerNorm-simple with its mean, its standard deviation, or both as constants in the backward pass.

    It measures what the derivatives of the two statistics contribute. With neither detached it is LayerNorm-simple. The
    output has the dtype of the input, also under autocast.

    Args:
        normalized_shape: Width, or sizes of the trailing axes.
        eps: Added to the variance.
        mean: Whether the mean is detached.
        std: Whether the standard deviation is detached.
        device: Unused, as there are no parameters.
        dtype: Unused, as there are no parameters.
        backend: ``eager``, ``cpu`` or ``triton``; None for NORMSCOPE_BACKEND, or else the best for the input's device.

    Raises:
        TypeError: If a size is not an int or ``eps`` not a real number; in ``forward``, if the input is not floating
            point.
        ValueError: If a size is below one, ``eps`` is negative or the backend is unknown; in ``forward``, if the
            trailing axes of the input differ, or the residual has another shape or dtype.
        BackendUnavailable: In ``forward``, if the backend was requested by name and cannot run here.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, poster, Theorem 1.
        Departs from it in: ``eps``, which the paper does not have.

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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = as_shape(normalized_shape)
        self.eps = check_eps(eps)
        self.mean = mean
        self.std = std
        self.backend: Backend | None = check_backend(backend)

    @property
    def traits(self) -> NormTraits:
        """Return the traits, which depend on what is detached."""
        return NormTraits.of_formula(self._flags, has_weight=False, has_bias=False)

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
        z = fused(x, shape, None, None, residual, self._flags, self.eps, backend=self.backend)
        if z is not None:
            return z
        mean, std = self.mean, self.std
        return defined(self, lambda x: detach_norm(x, self.eps, mean=mean, std=std, axes=len(shape)), x, residual)

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return f"{self.normalized_shape}, eps={self.eps}, mean={self.mean}, std={self.std}, backend={self.backend!r}"
