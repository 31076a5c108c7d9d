"""RMSNorm: division by the root mean square, without centering."""

from typing import ClassVar, overload

import torch
from torch import Tensor, nn

from normscope.kernels import Backend, check_backend, fused
from normscope.kernels.formula import ROOT
from normscope.kernels.scaling import in_range
from normscope.norms.checks import Shape, as_shape, check_eps
from normscope.norms.moments import defined, trailing, widen
from normscope.norms.traits import NormTraits, ResidualCall


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float | None = None, *, axes: int = 1) -> Tensor:
    r"""Divide every row of ``x`` by its root mean square, then scale.

    .. math:: h = g \odot \frac{x}{\sqrt{\tfrac{1}{H} \sum_i x_i^2 + \epsilon}}

    Args:
        x: ``[..., D]``, any floating dtype; the mean square in at least float32.
        weight: The weight g, called gain in the paper, ``[D]``.
        eps: Added to the mean square. None is the machine epsilon of the dtype of the mean square, which is float32 for
            the half types: as torch computes it, though its documentation names the dtype of the input.
        axes: Number of trailing axes in a row.

    Returns:
        ``[..., D]`` in the dtype of ``x``, rounded once.

    References:
        Zhang, Sennrich (2019). Root mean square layer normalization. arXiv:1910.07467, eq. (4).
        Departs from it in: ``eps``, which does not appear in the equation.

    Example:
        >>> import torch
        >>> from normscope.norms import rms_norm
        >>> rms_norm(torch.tensor([[3.0, 4.0]]))
        tensor([[0.8485, 1.1314]])
    """
    wide, scale, _ = in_range(widen(x), trailing(axes))
    if eps is None:
        eps = torch.finfo(wide.dtype).eps
    mean_square = wide.square().mean(trailing(axes), keepdim=True)
    y = wide * (mean_square + eps * scale * scale).rsqrt()
    if weight is not None:
        y = y * weight
    return y.to(x.dtype)


class RMSNorm(nn.RMSNorm):
    """``torch.nn.RMSNorm`` with checked inputs and a dtype rule.

    A subclass with torch's constructor arguments and state dict. The output has the dtype of the input, also under
    autocast. The weight may have a wider or a narrower dtype than the input: the arithmetic is done in the wider one
    and rounded once. Without ``elementwise_affine`` there are no parameters.

    Args:
        normalized_shape: Width, or sizes of the trailing axes.
        eps: Added to the mean square. None is the machine epsilon of the dtype of the mean square: float64 for a
            float64 input or weight, float32 otherwise.
        elementwise_affine: Whether there is a weight.
        device: Device of the weight.
        dtype: The dtype of the weight.
        backend: ``eager``, ``cpu`` or ``triton``; None for NORMSCOPE_BACKEND, or else the best for the input's device.

    Raises:
        TypeError: If a size is not an int or ``eps`` not a real number; in ``forward``, if the input is not floating
            point.
        ValueError: If a size is below one, ``eps`` is negative or the backend is unknown; in ``forward``, if the
            trailing axes of the input differ, or the residual has another shape or dtype.
        BackendUnavailable: In ``forward``, if the backend was requested by name and cannot run here.

    References:
        Zhang, Sennrich (2019). Root mean square layer normalization. arXiv:1910.07467, eq. (4).
        Departs from it in: ``eps``, which does not appear in the equation.

    Example:
        >>> import torch
        >>> from normscope import RMSNorm
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> RMSNorm(4)(x).detach()
        tensor([[0.3651, 0.7303, 1.0954, 1.4606]])
    """

    traits: ClassVar[NormTraits] = NormTraits.of_formula(
        ROOT, has_weight=True, has_bias=False, without_weight={"elementwise_affine": False}
    )

    def __init__(
        self,
        normalized_shape: Shape,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        backend: Backend | None = None,
    ) -> None:
        eps = None if eps is None else check_eps(eps)
        super().__init__(list(as_shape(normalized_shape)), eps, elementwise_affine, device, dtype)
        self.backend: Backend | None = check_backend(backend)

    __call__: ResidualCall  # pyright: ignore[reportIncompatibleVariableOverride]

    @overload
    def forward(self, x: Tensor, residual: None = None) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]: ...
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map ``[..., D]`` to ``[..., D]``; with a residual, return the norm of the sum, and the sum."""
        eps = self.eps
        if eps is None:
            eps = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).eps
        z = fused(x, self.normalized_shape, self.weight, None, residual, ROOT, eps, backend=self.backend)
        return defined(self, self._eager, x, residual) if z is None else z

    def _eager(self, x: Tensor) -> Tensor:
        dtype = x.dtype if self.weight is None else torch.promote_types(x.dtype, self.weight.dtype)
        return rms_norm(x.to(dtype), self.weight, self.eps, axes=len(self.normalized_shape)).to(x.dtype)

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return f"{super().extra_repr()}, backend={self.backend!r}"
