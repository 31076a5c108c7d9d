"""Layer normalization, with a weight and a bias."""

from functools import reduce
from math import prod
from typing import ClassVar, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.kernels import Backend, check_backend, fused
from normscope.kernels.autograd import norm as with_closed_form
from normscope.kernels.backends import native
from normscope.kernels.formula import CENTER, ROOT, Formula
from normscope.kernels.scaling import is_ordinary, is_plain
from normscope.norms.checks import Shape, as_shape, check_eps
from normscope.norms.moments import defined, standardize, trailing, widen
from normscope.norms.traits import NormTraits, ResidualCall
from normscope.torch_internals import is_expanded_weight


def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *, axes: int = 1
) -> Tensor:
    r"""Normalize every row of ``x`` by its own mean and standard deviation, then scale and shift.

    .. math:: h = g \odot \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + b

    Args:
        x: ``[..., D]``, any floating dtype; statistics in at least float32.
        weight: The weight g, called gain in the paper, ``[D]``.
        bias: The bias b, ``[D]``.
        eps: Added to the variance.
        axes: Number of trailing axes in a row.

    Returns:
        ``[..., D]`` in the dtype of ``x``, rounded once.

    References:
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, eqs. (15)-(16).
        Departs from it in: ``eps``, which the paper does not have.

    Example:
        >>> import torch
        >>> from normscope.norms import layer_norm
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> layer_norm(x, weight=torch.ones(4), bias=torch.zeros(4))
        tensor([[-1.3416, -0.4472,  0.4472,  1.3416]])
    """
    y = standardize(widen(x), eps, axes)
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y.to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """``torch.nn.LayerNorm`` with checked inputs, a dtype rule and an optional weight.

    A subclass with torch's constructor arguments and state dict. The output has the dtype of the input, also under
    autocast; torch's own keeps it on a CPU, while its CUDA autocast runs layer norm in float32. Parameters may have a
    wider or a narrower dtype than the input: the arithmetic is done in the wider one and rounded once.

    Args:
        normalized_shape: Width, or sizes of the trailing axes.
        eps: Added to the variance.
        elementwise_affine: Whether there are parameters.
        bias: Whether there is a bias, if ``elementwise_affine``.
        device: Device of the parameters.
        dtype: The dtype of the parameters.
        weight: Whether there is a weight, if ``elementwise_affine``.
        backend: ``eager``, ``cpu`` or ``triton``; None for NORMSCOPE_BACKEND, or else the best for the input's device.

    Raises:
        TypeError: If a size is not an int or ``eps`` not a real number; in ``forward``, if the input is not floating
            point.
        ValueError: If a size is below one, ``eps`` is negative or the backend is unknown; in ``forward``, if the
            trailing axes of the input differ, or the residual has another shape or dtype.
        BackendUnavailable: In ``forward``, if the backend was requested by name and cannot run here.

    References:
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, eqs. (15)-(16).
        Departs from it in: ``eps``, which the paper does not have.

    Example:
        >>> import torch
        >>> from normscope import LayerNorm
        >>> norm = LayerNorm(4, bias=False)
        >>> x, residual = torch.ones(1, 4), torch.tensor([[0.0, 1.0, 2.0, 3.0]])
        >>> y, total = norm(x, residual)
        >>> y.detach()
        tensor([[-1.3416, -0.4472,  0.4472,  1.3416]])
        >>> total.detach()
        tensor([[1., 2., 3., 4.]])
    """

    traits: ClassVar[NormTraits] = NormTraits.of_formula(
        CENTER | ROOT, has_weight=True, has_bias=True, without_weight={"weight": False}, without_bias={"bias": False}
    )

    def __init__(
        self,
        normalized_shape: Shape,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        weight: bool = True,
        backend: Backend | None = None,
    ) -> None:
        shape = list(as_shape(normalized_shape))
        super().__init__(shape, check_eps(eps), elementwise_affine, bias, device, dtype)
        if not weight:
            self.register_parameter("weight", None)
        self.backend: Backend | None = check_backend(backend)

    def reset_parameters(self) -> None:
        """Set the weight to one and the bias to zero."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    __call__: ResidualCall  # pyright: ignore[reportIncompatibleVariableOverride]

    @overload
    def forward(self, x: Tensor, residual: None = None) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]: ...
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map ``[..., D]`` to ``[..., D]``; with a residual, return the norm of the sum, and the sum."""
        weight, bias = self.weight, self.bias
        z = fused(x, self.normalized_shape, weight, bias, residual, CENTER | ROOT, self.eps, backend=self.backend)
        return defined(self, self._eager, x, residual) if z is None else z

    def _eager(self, x: Tensor) -> Tensor:
        if is_expanded_weight(self.weight) or is_expanded_weight(self.bias):
            # Gradients per sample: such a weight takes part in this very call only.
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        parameters = [p for p in (self.weight, self.bias) if p is not None]
        dtype = reduce(torch.promote_types, (p.dtype for p in parameters), torch.promote_types(x.dtype, torch.float32))
        weight = None if self.weight is None else self.weight.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        shape, wide = self.normalized_shape, x.to(dtype)
        if is_ordinary(wide, trailing(len(shape))) and is_plain(*parameters):
            formula = Formula(CENTER | ROOT, self.eps)
            z, _ = with_closed_form(native, formula, prod(shape), wide, None, weight, bias)
            return z.to(x.dtype)
        return layer_norm(wide, weight, bias, self.eps, axes=len(shape)).to(x.dtype)

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        # nn.LayerNorm of torch 2.11 names no bias; that of 2.12 and later does.
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}, weight={self.weight is not None}, backend={self.backend!r}"
        )
