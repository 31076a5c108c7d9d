"""Group normalization with the channels on the last axis."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from normscope.kernels.scaling import in_range
from normscope.norms.checks import Shape, as_shape, check_eps, check_input
from normscope.norms.moments import widen
from normscope.norms.nested import over_parts
from normscope.norms.traits import NormTraits

_GROUPS = 32
"""The number of groups in the paper."""


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5, *, axes: int = 1
) -> Tensor:
    r"""Standardize every group of channels of every sample, over its channels and positions; then scale and shift.

    .. math:: h_{ij} = g_j \frac{x_{ij} - \mu_G}{\sqrt{\sigma_G^2 + \epsilon}} + b_j

    The moments of a group G are over its channels j and all positions i of one sample.

    Args:
        x: ``[B, ..., C]``, any floating dtype; the moments in at least float32.
        num_groups: Number of groups of neighbouring channels, a divisor of C.
        weight: The weight g, ``[C]``.
        bias: The bias b, ``[C]``.
        eps: Added to the variance.
        axes: Number of trailing axes that are channels.

    Returns:
        ``[B, ..., C]`` in the dtype of ``x``, rounded once.

    References:
        Wu, He (2018). Group normalization. arXiv:1803.08494.
        Departs from it in: channels are last, whatever the number of positions' axes.

    Example:
        >>> import torch
        >>> from normscope.norms import group_norm
        >>> group_norm(torch.tensor([[[1.0, 3.0, 10.0, 30.0]]]), 2, weight=None, bias=None)
        tensor([[[-1.0000,  1.0000, -1.0000,  1.0000]]])
    """
    channels = math.prod(x.shape[-axes:])
    groups = widen(x).reshape(len(x), math.prod(x.shape[1:-axes]), num_groups, channels // num_groups)
    groups, scale, _ = in_range(groups, (1, 3), centers=True)
    centered = groups - groups.mean((1, 3), keepdim=True)
    variance = centered.square().mean((1, 3), keepdim=True)
    y = (centered * (variance + eps * scale * scale).rsqrt()).reshape(x.shape)
    if weight is not None:
        y = y * widen(weight)
    if bias is not None:
        y = y + widen(bias)
    return y.to(x.dtype)


class GroupNorm(nn.Module):
    """Group normalization over the LAST axis of ``[B, ..., C]``; torch's normalizes axis 1.

    The moments of a group are over its channels and all positions of a sample, so positions depend on each other;
    samples do not. The output has the dtype of the input, also under autocast. The state dict is that of
    ``torch.nn.GroupNorm``.

    Args:
        normalized_shape: Number of channels, or sizes of the trailing axes, each element of which is a channel.
        eps: Added to the variance.
        num_groups: Number of groups, a divisor of the number of channels. None for 32, the paper's, or else for the
            largest divisor below that leaves two or more channels in a group.
        affine: Whether there are a weight and a bias.
        bias: Whether there is a bias, if ``affine``.
        device: Device of the parameters.
        dtype: The dtype of the parameters.

    Raises:
        TypeError: If a size or ``num_groups`` is not an int or ``eps`` not a real number; in ``forward``, if the input
            is not floating point.
        ValueError: If a size is below one, ``eps`` is negative or ``num_groups`` does not divide the number of
            channels; in ``forward``, if the trailing axes of the input differ, there is no axis of samples, or a group
            is a single number.

    References:
        Wu, He (2018). Group normalization. arXiv:1803.08494.
        Departs from it in: channels are last.

    Example:
        >>> import torch
        >>> from normscope import GroupNorm
        >>> GroupNorm(4, num_groups=2)(torch.tensor([[1.0, 3.0, 10.0, 30.0]])).detach()
        tensor([[-1.0000,  1.0000, -1.0000,  1.0000]])
        >>> GroupNorm(6, num_groups=4)
        Traceback (most recent call last):
            ...
        ValueError: num_groups must divide the 6 channels: one of 1, 2, 3, 6, got 4
    """

    traits: ClassVar[NormTraits] = NormTraits(
        centers=True,
        scales=True,
        statistics="channels",
        eps_place="variance",
        has_weight=True,
        has_bias=True,
        without_weight={"affine": False},
        without_bias={"bias": False},
    )

    mixes_positions = True
    """The output at a position depends on the others of its sample, so no autoregressive model may use it."""

    def __init__(
        self,
        normalized_shape: Shape,
        eps: float = 1e-5,
        *,
        num_groups: int | None = None,
        affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = shape = as_shape(normalized_shape)
        self.eps = check_eps(eps)
        self.num_groups = _checked_groups(num_groups, math.prod(shape))
        self.affine = affine
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if affine else None
        self.bias = nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if affine and bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to one and the bias to zero."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    __call__: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, ..., C]`` to ``[B, ..., C]``.

        Args:
            x: The batch; without further axes a sample has one position.

        Returns:
            The shape and dtype of ``x``, contiguous.

        Raises:
            ValueError: If there is no axis of samples, or a group is a single number.
        """
        if x.is_nested:
            return over_parts(self, x)
        check_input(self, x, self.normalized_shape)
        axes = len(self.normalized_shape)
        if x.dim() == axes:
            wanted = ", ".join(map(str, self.normalized_shape))
            raise ValueError(f"{self} expects [batch, ..., {wanted}], got {list(x.shape)}")
        if math.prod(x.shape[1:]) == self.num_groups:
            raise ValueError(f"{self} expects groups of more than one number, got {list(x.shape)}")
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps, axes=axes).contiguous()

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, num_groups={self.num_groups}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


def _checked_groups(num_groups: int | None, channels: int) -> int:
    """Return a number of groups that divides the channels.

    Raises:
        TypeError: If it is not an int.
        ValueError: If it does not divide them.
    """
    divisors = [number for number in range(1, channels + 1) if channels % number == 0]
    if num_groups is None:
        return max(number for number in divisors if number == 1 or (number <= _GROUPS and 2 * number <= channels))
    if not isinstance(num_groups, int) or isinstance(num_groups, bool):
        raise TypeError(f"num_groups must be an int, got {num_groups!r}")
    if num_groups not in divisors:
        listed = ", ".join(map(str, divisors))
        raise ValueError(f"num_groups must divide the {channels} channels: one of {listed}, got {num_groups}")
    return num_groups
