"""ScaleNorm: one learned length for all rows."""

from math import prod, sqrt

import torch
from torch import Tensor, nn

from normscope.norms.checks import Shape, as_shape, check_eps, check_input
from normscope.norms.moments import trailing, widen


def scale_norm(x: Tensor, weight: Tensor, eps: float = 1e-5, *, axes: int = 1) -> Tensor:
    r"""Give every row of ``x`` the length g.

    .. math:: h = g \frac{x}{\max(\lVert x \rVert_2, \epsilon)}

    Args:
        x: ``[..., D]``, any floating dtype; the length in at least float32.
        weight: The scalar g, ``[1]``.
        eps: The smallest length that is divided by.
        axes: How many trailing axes make a row.

    Returns:
        ``[..., D]`` in the dtype of ``x``, rounded once.

    References:
        Nguyen, Salazar (2019). Transformers without tears. arXiv:1910.05895, section 2.2.
        Departs from it in: ``eps``, which the paper's equation has not.
    """
    wide = widen(x)
    length = torch.linalg.vector_norm(wide, dim=trailing(axes), keepdim=True)
    return (wide * (weight / length.clamp(min=eps))).to(x.dtype)


class ScaleNorm(nn.Module):
    """Division by the Euclidean length, times one learned scalar, the square root of the width at the start.

    The output has the dtype of the input, also under autocast. At a row of zeros the derivative is g / eps, which
    float16 cannot hold at the default ``eps``.

    Args:
        normalized_shape: Width, or sizes of the trailing axes.
        eps: The smallest length that is divided by.
        device: Where the scalar is.
        dtype: The dtype of the scalar.

    Raises:
        TypeError: If a size or a number is none; on call, if the input is not of a floating dtype.
        ValueError: If a size is below one or ``eps`` is negative; on call, if the trailing axes of the input differ.

    References:
        Nguyen, Salazar (2019). Transformers without tears. arXiv:1910.05895, section 2.2.
        Departs from it in: ``eps``, which the paper's equation has not.
    """

    def __init__(
        self,
        normalized_shape: Shape,
        eps: float = 1e-5,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = as_shape(normalized_shape)
        self.eps = check_eps(eps)
        self.weight = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scalar to the square root of the number of entries in a row."""
        nn.init.constant_(self.weight, sqrt(prod(self.normalized_shape)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        check_input(self, x, self.normalized_shape)
        return scale_norm(x, self.weight, self.eps, axes=len(self.normalized_shape))

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return f"{self.normalized_shape}, eps={self.eps}"
