"""DyT: an element-wise tanh in place of a norm."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from normscope.norms.checks import Shape, as_shape, check_eps, check_input, check_number
from normscope.norms.moments import widen
from normscope.norms.nested import over_rows
from normscope.norms.traits import NormTraits


def dyt(x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    r"""Squash every entry of ``x``; no statistics are taken.

    .. math:: h = \gamma \odot \tanh(\alpha x) + \beta

    Args:
        x: ``[..., D]``, any floating dtype; arithmetic in at least float32.
        alpha: The scalar slope, ``[1]``.
        weight: The weight, ``[D]``.
        bias: The bias, ``[D]``.

    Returns:
        ``[..., D]`` in the dtype of ``x``, rounded once.

    References:
        Zhu et al. (2025). Transformers without normalization. arXiv:2503.10622.
        Departs from it in: nothing.

    Example:
        >>> import torch
        >>> from normscope.norms import dyt
        >>> one = torch.ones(2)
        >>> dyt(torch.tensor([[-1.0, 1.0]]), torch.tensor(0.5), one, 0 * one)
        tensor([[-0.4621,  0.4621]])
    """
    return (weight * torch.tanh(alpha * widen(x)) + bias).to(x.dtype)


class DyT(nn.Module):
    """Dynamic tanh: a learned slope, a weight and a bias.

    Proposed as a replacement of layer norms, not of batch norms. The output has the dtype of the input, also under
    autocast.

    Args:
        normalized_shape: Width, or sizes of the trailing axes.
        eps: Unused, as there is no division; accepted so that all norms have the same signature.
        alpha: Initial slope.
        device: Device of the parameters.
        dtype: The dtype of the parameters.

    Raises:
        TypeError: If a size is not an int or ``eps`` or ``alpha`` not a real number; in ``forward``, if the input is
            not floating point.
        ValueError: If a size is below one, ``eps`` is negative or ``alpha`` is not finite; in ``forward``, if the
            trailing axes of the input differ.

    References:
        Zhu et al. (2025). Transformers without normalization. arXiv:2503.10622.
        Departs from it in: nothing.

    Example:
        >>> import torch
        >>> from normscope import DyT
        >>> norm = DyT(4)
        >>> norm(torch.tensor([[-100.0, -1.0, 0.0, 100.0]])).detach()
        tensor([[-1.0000, -0.4621,  0.0000,  1.0000]])
        >>> [name for name, _ in norm.named_parameters()]
        ['alpha', 'weight', 'bias']
    """

    traits: ClassVar[NormTraits] = NormTraits(
        centers=False, scales=False, statistics=None, eps_place=None, has_weight=True, has_bias=True
    )

    def __init__(
        self,
        normalized_shape: Shape,
        eps: float = 1e-5,
        *,
        alpha: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = as_shape(normalized_shape)
        check_eps(eps)
        self.initial_alpha = check_number("alpha", alpha)
        self.alpha = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.weight = nn.Parameter(torch.empty(self.normalized_shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.normalized_shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the slope to its initial value, the weight to one and the bias to zero."""
        nn.init.constant_(self.alpha, self.initial_alpha)
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    __call__: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``, contiguous."""
        if x.is_nested:
            return over_rows(self, x)
        check_input(self, x, self.normalized_shape)
        return dyt(x, self.alpha, self.weight, self.bias).contiguous()

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return f"{self.normalized_shape}, alpha={self.initial_alpha}"
