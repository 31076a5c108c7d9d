"""LayerNorm-simple: layer normalization without parameters."""

from typing import ClassVar, overload

import torch
from torch import Tensor, nn

from normscope.kernels import Backend, check_backend, fused
from normscope.kernels.formula import CENTER, ROOT
from normscope.norms.checks import Shape, as_shape, check_eps
from normscope.norms.moments import defined, standardize, widen
from normscope.norms.traits import NormTraits, ResidualCall


def layer_norm_simple(x: Tensor, eps: float = 1e-5, *, axes: int = 1) -> Tensor:
    r"""Normalize every row of ``x`` by its own mean and standard deviation.

    .. math:: h = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}

    Args:
        x: ``[..., D]``, any floating dtype; statistics in at least float32.
        eps: Added to the variance.
        axes: Number of trailing axes in a row.

    Returns:
        ``[..., D]`` in the dtype of ``x``, rounded once.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, poster, Table 1.
        Departs from it in: ``eps``, which the paper does not have.

    Example:
        >>> import torch
        >>> from normscope.norms import layer_norm_simple
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> layer_norm_simple(x)
        tensor([[-1.3416, -0.4472,  0.4472,  1.3416]])
    """
    return standardize(widen(x), eps, axes).to(x.dtype)


class LayerNormSimple(nn.Module):
    """Layer normalization without weight and bias. The output has the dtype of the input, also under autocast.

    Args:
        normalized_shape: Width, or sizes of the trailing axes.
        eps: Added to the variance.
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
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, poster, Table 1.
        Departs from it in: ``eps``, which the paper does not have. The released code divides by the unbiased standard
        deviation plus eps instead, as ``AdaNorm(width, k=0, convention="released")`` does.

    Example:
        >>> import torch
        >>> from normscope import LayerNormSimple
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> LayerNormSimple(4)(x)
        tensor([[-1.3416, -0.4472,  0.4472,  1.3416]])
    """

    traits: ClassVar[NormTraits] = NormTraits.of_formula(CENTER | ROOT, has_weight=False, has_bias=False)

    def __init__(
        self,
        normalized_shape: Shape,
        eps: float = 1e-5,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = as_shape(normalized_shape)
        self.eps = check_eps(eps)
        self.backend: Backend | None = check_backend(backend)

    __call__: ResidualCall  # pyright: ignore[reportIncompatibleVariableOverride]

    @overload
    def forward(self, x: Tensor, residual: None = None) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]: ...
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map ``[..., D]`` to ``[..., D]``; with a residual, return the norm of the sum, and the sum."""
        shape = self.normalized_shape
        z = fused(x, shape, None, None, residual, CENTER | ROOT, self.eps, backend=self.backend)
        if z is not None:
            return z
        return defined(self, lambda x: layer_norm_simple(x, self.eps, axes=len(shape)), x, residual)

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return f"{self.normalized_shape}, eps={self.eps}, backend={self.backend!r}"
