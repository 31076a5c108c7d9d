"""No normalization: the baseline of every comparison."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from normscope.norms.checks import Shape, as_shape, check_eps, check_input
from normscope.norms.nested import over_rows
from normscope.norms.traits import NormTraits


class NoNorm(nn.Module):
    """The identity, with the input checks of a norm, so that a wrong width is reported for this arm as well.

    .. math:: h = x

    Args:
        normalized_shape: Width, or sizes of the trailing axes.
        eps: Unused, as there is no division; accepted so that all norms have the same signature.
        device: Unused, as there are no parameters.
        dtype: Unused, as there are no parameters.

    Raises:
        TypeError: If a size is not an int or ``eps`` not a real number; in ``forward``, if the input is not floating
            point.
        ValueError: If a size is below one or ``eps`` is negative; in ``forward``, if the trailing axes of the input
            differ.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, "w/o Norm" in Table 1.
        Departs from it in: nothing.

    Example:
        >>> import torch
        >>> from normscope import NoNorm
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> NoNorm(2)(x)
        tensor([[1., 2.]])
    """

    traits: ClassVar[NormTraits] = NormTraits(
        centers=False, scales=False, statistics=None, eps_place=None, has_weight=False, has_bias=False
    )

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
        check_eps(eps)

    __call__: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` itself, or a contiguous copy of an ``x`` that is not, as the other norms do."""
        if x.is_nested:
            return over_rows(self, x)
        check_input(self, x, self.normalized_shape)
        return x.contiguous()

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return f"{self.normalized_shape}"
