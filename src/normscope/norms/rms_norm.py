"""RMSNorm: division by the root mean square, without centering."""

from typing import ClassVar, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.kernels import Backend, check_backend, fused
from normscope.kernels.formula import ROOT
from normscope.norms.checks import Shape, as_shape, check_eps
from normscope.norms.moments import defined, trailing, widen
from normscope.norms.traits import NormTraits, ResidualCall


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float | None = None, *, axes: int = 1) -> Tensor:
    r"""Divide every row of ``x`` by its root mean square, then scale.

    .. math:: h = g \odot \frac{x}{\sqrt{\tfrac{1}{H} \sum_i x_i^2 + \epsilon}}

    Args:
        x: ``[..., D]``, any floating dtype; the mean square in at least float32.
        weight: The gain g, ``[D]``.
        eps: Added to the mean square. None is the machine epsilon of the dtype of the mean square, which is float32
            for the half types: what torch does, though its documentation names the dtype of the input.
        axes: How many trailing axes make a row.

    Returns:
        ``[..., D]`` in the dtype of ``x``, rounded once.

    References:
        Zhang, Sennrich (2019). Root mean square layer normalization. arXiv:1910.07467, eq. (4).
        Departs from it in: ``eps``, of which the equation has none.
    """
    wide = widen(x)
    if eps is None:
        eps = torch.finfo(wide.dtype).eps
    mean_square = wide.square().mean(trailing(axes), keepdim=True)
    y = wide * (mean_square + eps).rsqrt()
    if weight is not None:
        y = y * weight
    return y.to(x.dtype)


class RMSNorm(nn.RMSNorm):
    """``torch.nn.RMSNorm`` with checked inputs and a dtype rule.

    The constructor, the state dict and ``isinstance`` are torch's. The output has the dtype of the input, also under
    autocast. The gain may be wider than the input, or narrower: the arithmetic is done in the wider dtype and rounded
    once. Without ``elementwise_affine`` there are no parameters.

    Args:
        normalized_shape: Width, or sizes of the trailing axes.
        eps: Added to the mean square. None is the machine epsilon of the dtype of the mean square: float64 for a
            float64 input or gain, float32 for anything else.
        elementwise_affine: Whether there is a gain.
        device: Where the gain is.
        dtype: The dtype of the gain.
        backend: ``eager``, ``cpu`` or ``triton``; None for NORMSCOPE_BACKEND, else the best one for the input's device.

    Raises:
        TypeError: If a size or a number is none; on call, if the input is not of a floating dtype.
        ValueError: If a size is below one, ``eps`` is negative or the backend has no such name; on call, if the
            trailing axes of the input differ, or the residual is of another shape or dtype.
        BackendUnavailable: On call, if a backend was asked for by name and cannot run here.

    References:
        Zhang, Sennrich (2019). Root mean square layer normalization. arXiv:1910.07467, eq. (4).
        Departs from it in: ``eps``, of which the equation has none.
    """

    traits: ClassVar = NormTraits.of_formula(
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
        return defined(self, self._through_torch, x, residual) if z is None else z

    def _through_torch(self, x: Tensor) -> Tensor:
        dtype = x.dtype if self.weight is None else torch.promote_types(x.dtype, self.weight.dtype)
        weight = None if self.weight is None else self.weight.to(dtype)
        return F.rms_norm(x.to(dtype), self.normalized_shape, weight, self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return f"{super().extra_repr()}, backend={self.backend!r}"
