"""AdaNorm: layer normalization scaled by a detached function of its own output.

Not AdaLN, the norm of diffusion transformers whose weight and bias come from a condition. Not the optimizer AdaNorm.
"""

import math
from dataclasses import replace
from typing import Literal, overload

import torch
from torch import Tensor, nn

from normscope.kernels import Backend, check_backend, fused
from normscope.kernels.formula import CENTER, PHI, RELEASED, ROOT
from normscope.kernels.scaling import in_range
from normscope.norms.checks import Shape, as_shape, check_eps, check_number
from normscope.norms.moments import defined, length, standardize, trailing, widen
from normscope.norms.traits import NormTraits, ResidualCall

Convention = Literal["paper", "released"]


def ada_norm(
    x: Tensor,
    eps: float = 1e-5,
    *,
    scale: float = 1.0,
    k: float = 0.1,
    convention: Convention = "paper",
    detach: bool = True,
    axes: int = 1,
) -> Tensor:
    r"""Normalize every row of ``x`` and multiply each entry by a factor that is a constant in the backward pass.

    .. math:: z = \hat\phi(y) \odot y, \quad \phi(y) = C (1 - k y), \quad y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}

    The hat copies the value and blocks the gradient. Where :math:`y > 1 / k` the factor is negative.

    Without ``detach`` the gradient flows through the factor, too: dy = C (1 - 2 k y) dz instead of C (1 - k y) dz. The
    values do not change.

    The convention ``released`` is the arithmetic of the authors' code: y = (x - mean) / (s + eps), where s is the
    standard deviation with the divisor H - 1 and eps stands outside the root. The factor is detached there, too.

    Args:
        x: ``[..., D]``, any floating dtype; statistics in at least float32.
        eps: Added to the variance (``paper``) or to the standard deviation (``released``).
        scale: C, the mean of the factor over a row.
        k: The slope of the factor.
        convention: ``paper`` or ``released``.
        detach: Whether the factor is a constant in the backward pass, as in the paper.
        axes: Number of trailing axes in a row.

    Returns:
        ``[..., D]`` in the dtype of ``x``, rounded once.

    Raises:
        ValueError: If the convention is unknown.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, eq. (1) of the authors'
        poster; github.com/lancopku/AdaNorm for ``released``.
        Departs from it in: ``detach``, and ``eps`` under ``paper``, which the paper lacks; under ``released`` the
        gradient of a constant row, which is zero here and NaN there.

    Example:
        >>> import torch
        >>> from normscope.norms import ada_norm
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> ada_norm(x)
        tensor([[-1.5216, -0.4672,  0.4272,  1.1616]])
    """
    wide = widen(x)
    if convention == "paper":
        y = standardize(wide, eps, axes)
    elif convention == "released":
        over = trailing(axes)
        wide, unit, _ = in_range(wide, over, centers=True)
        centered = wide - wide.mean(over, keepdim=True)
        y = centered / (length(centered, over) / math.sqrt(math.prod(x.shape[-axes:]) - 1) + eps * unit)
    else:
        raise ValueError(f"convention must be 'paper' or 'released', got {convention!r}")
    # C - (C k) y in one pass over y.
    factor = torch.rsub(y.detach() if detach else y, scale, alpha=scale * k)
    return (factor * y).to(x.dtype)


class AdaNorm(nn.Module):
    """AdaNorm of Xu et al. (2019): no parameters, a detached factor. Not AdaLN, and not the optimizer AdaNorm.

    The output has the dtype of the input, also under autocast.

    Args:
        normalized_shape: Width, or sizes of the trailing axes.
        eps: Added to the variance (``paper``) or to the standard deviation (``released``).
        scale: C, the mean of the factor over a row. The paper tunes it; the released script's choices are 1 and 2.
        k: The slope of the factor; with 0 the factor is constant.
        convention: ``paper`` for the equations, ``released`` for the arithmetic of the authors' code.
        detach: Whether the factor is a constant in the backward pass, as in the paper. Kernels then compute the whole
            norm, and otherwise only y.
        device: Unused, as there are no parameters.
        dtype: Unused, as there are no parameters.
        backend: ``eager``, ``cpu`` or ``triton``; None for NORMSCOPE_BACKEND, or else the best for the input's device.

    Raises:
        TypeError: If a size is not an int or ``eps``, ``scale`` or ``k`` not a real number; in ``forward``, if the
            input is not floating point.
        ValueError: If a size is below one, ``eps`` or ``k`` is negative or not finite, ``scale`` is not positive and
            finite, the convention or the backend is unknown, or the convention is ``released`` and a row has one entry,
            for which the divisor is zero; in ``forward``, if the trailing axes of the input differ, or the residual has
            another shape or dtype.
        BackendUnavailable: In ``forward``, if the backend was requested by name and cannot run here.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, eq. (1) of the authors'
        poster; github.com/lancopku/AdaNorm for ``released``.
        Departs from it in: ``detach``, and ``eps`` under ``paper``, which the paper lacks; under ``released`` the
        gradient of a constant row, which is zero here and NaN there.

    Example:
        >>> import torch
        >>> from normscope import AdaNorm
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> AdaNorm(4)(x)
        tensor([[-1.5216, -0.4672,  0.4272,  1.1616]])
        >>> AdaNorm(4, scale=2.0)(x)
        tensor([[-3.0433, -0.9344,  0.8544,  2.3233]])
    """

    def __init__(
        self,
        normalized_shape: Shape,
        eps: float = 1e-5,
        *,
        scale: float = 1.0,
        k: float = 0.1,
        convention: Convention = "paper",
        detach: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = as_shape(normalized_shape)
        self.eps = check_eps(eps)
        if convention not in ("paper", "released"):
            raise ValueError(f"convention must be 'paper' or 'released', got {convention!r}")
        if convention == "released" and math.prod(self.normalized_shape) == 1:
            raise ValueError(
                f"convention 'released' needs at least two entries per row, got normalized_shape {normalized_shape}"
            )
        self.scale = check_number("scale", scale, above=0)
        self.k = check_number("k", k, least=0)
        self.convention: Convention = convention
        self.detach = detach
        self.backend: Backend | None = check_backend(backend)

    @property
    def traits(self) -> NormTraits:
        """Return the traits, which depend on the convention and on what is detached."""
        traits = NormTraits.of_formula(self._flags | PHI, has_weight=False, has_bias=False)
        return traits if self.detach else replace(traits, factor_moves=True, formula=None)

    @property
    def _flags(self) -> int:
        return CENTER | (ROOT if self.convention == "paper" else RELEASED)

    __call__: ResidualCall  # pyright: ignore[reportIncompatibleVariableOverride]

    @overload
    def forward(self, x: Tensor, residual: None = None) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]: ...
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map ``[..., D]`` to ``[..., D]``; with a residual, return the norm of the sum, and the sum."""
        if not self.detach:
            return defined(self, self._attached, x, residual)
        shape = self.normalized_shape
        z = fused(x, shape, None, None, residual, self._flags | PHI, self.eps, self.scale, self.k, self.backend)
        return defined(self, self._defined, x, residual) if z is None else z

    def _attached(self, x: Tensor) -> Tensor:
        y = fused(widen(x), self.normalized_shape, None, None, None, self._flags, self.eps, backend=self.backend)
        return self._defined(x) if y is None else (torch.rsub(y, self.scale, alpha=self.scale * self.k) * y).to(x.dtype)

    def _defined(self, x: Tensor) -> Tensor:
        settings = {"scale": self.scale, "k": self.k, "convention": self.convention, "detach": self.detach}
        return ada_norm(x, self.eps, **settings, axes=len(self.normalized_shape))

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        numbers = f"{self.normalized_shape}, eps={self.eps}, scale={self.scale}, k={self.k}"
        return f"{numbers}, convention={self.convention!r}, detach={self.detach}, backend={self.backend!r}"
