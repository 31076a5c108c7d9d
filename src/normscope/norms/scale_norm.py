"""ScaleNorm: one learned length for all rows."""

from math import prod, sqrt
from typing import ClassVar, overload

import torch
from torch import Tensor, nn

from normscope.kernels import Backend, check_backend, fused
from normscope.kernels.formula import LENGTH
from normscope.kernels.scaling import in_range
from normscope.norms.checks import Shape, as_shape, check_eps
from normscope.norms.moments import defined, length, trailing, widen
from normscope.norms.traits import NormTraits, ResidualCall


def scale_norm(x: Tensor, weight: Tensor, eps: float = 1e-5, *, axes: int = 1) -> Tensor:
    r"""Scale every row of ``x`` to the length g.

    .. math:: h = g \frac{x}{\max(\lVert x \rVert_2, \epsilon)}

    Args:
        x: ``[..., D]``, any floating dtype; the length in at least float32.
        weight: The scalar g, ``[1]``.
        eps: Lower bound of the divisor.
        axes: Number of trailing axes in a row.

    Returns:
        ``[..., D]`` in the dtype of ``x``, rounded once.

    References:
        Nguyen, Salazar (2019). Transformers without tears. arXiv:1910.05895, section 2.2.
        Departs from it in: ``eps``, which does not appear in the paper's equation.

    Example:
        >>> import torch
        >>> from normscope.norms import scale_norm
        >>> scale_norm(torch.tensor([[3.0, 4.0]]), weight=torch.tensor(10.0))
        tensor([[6., 8.]])
    """
    wide, unit, _ = in_range(widen(x), trailing(axes))
    return (wide * (weight / length(wide, trailing(axes)).clamp(min=eps * unit))).to(x.dtype)


class ScaleNorm(nn.Module):
    """Division by the Euclidean length, times one learned scalar that starts at the square root of the width.

    The output has the dtype of the input, also under autocast. At a row of zeros the derivative is g / eps, which
    float16 cannot hold at the default ``eps``.

    Args:
        normalized_shape: Width, or sizes of the trailing axes.
        eps: Lower bound of the divisor.
        device: Device of the scalar.
        dtype: The dtype of the scalar.
        backend: ``eager``, ``cpu`` or ``triton``; None for NORMSCOPE_BACKEND, or else the best for the input's device.

    Raises:
        TypeError: If a size is not an int or ``eps`` not a real number; in ``forward``, if the input is not floating
            point.
        ValueError: If a size is below one, ``eps`` is negative or the backend is unknown; in ``forward``, if the
            trailing axes of the input differ, or the residual has another shape or dtype.
        BackendUnavailable: In ``forward``, if the backend was requested by name and cannot run here.

    References:
        Nguyen, Salazar (2019). Transformers without tears. arXiv:1910.05895, section 2.2.
        Departs from it in: ``eps``, which does not appear in the paper's equation.

    Example:
        >>> import torch
        >>> from normscope import ScaleNorm
        >>> norm = ScaleNorm(4)
        >>> y = norm(torch.tensor([[3.0, 4.0, 0.0, 0.0]])).detach()
        >>> y
        tensor([[1.2000, 1.6000, 0.0000, 0.0000]])
        >>> y.norm()
        tensor(2.)
    """

    traits: ClassVar[NormTraits] = NormTraits.of_formula(LENGTH, has_weight=True, has_bias=False, weight_is_length=True)

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
        self.weight = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scalar to the square root of the number of entries in a row."""
        nn.init.constant_(self.weight, sqrt(prod(self.normalized_shape)))

    __call__: ResidualCall  # pyright: ignore[reportIncompatibleVariableOverride]

    @overload
    def forward(self, x: Tensor, residual: None = None) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]: ...
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map ``[..., D]`` to ``[..., D]``; with a residual, return the norm of the sum, and the sum."""
        shape = self.normalized_shape
        # The sum over features of the scalar's gradient is taken before it is rounded. A complex one is refused below.
        weight = (self.weight if self.weight.is_complex() else widen(self.weight)).expand(shape)
        z = fused(x, shape, weight, None, residual, LENGTH, self.eps, backend=self.backend)
        if z is not None:
            return z
        return defined(self, lambda x: scale_norm(x, self.weight, self.eps, axes=len(shape)), x, residual)

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return f"{self.normalized_shape}, eps={self.eps}, backend={self.backend!r}"
