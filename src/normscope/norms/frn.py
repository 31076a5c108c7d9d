"""Filter response normalization: a channel of one feature map, divided by its root mean square, then thresholded."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from normscope.kernels.scaling import in_range
from normscope.norms.checks import Shape, as_shape, check_eps, check_input
from normscope.norms.moments import widen
from normscope.norms.nested import over_parts
from normscope.norms.traits import NormTraits


def frn(
    x: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor, eps: float | Tensor = 1e-6, *, axes: int = 1
) -> Tensor:
    r"""Normalize every channel of every sample over its spatial axes, then threshold it.

    .. math::
        y = \gamma \odot \frac{x}{\sqrt{\nu^2 + |\epsilon|}} + \beta, \quad z = \max(y, \tau), \quad
        \nu^2 = \frac{1}{N} \sum_i x_i^2

    The sum runs over the N places of the map, of one sample and one channel; the mean is not subtracted.

    Args:
        x: ``[B, ..., C]``, any floating dtype; the mean square in at least float32.
        weight: gamma, ``[C]``.
        bias: beta, ``[C]``.
        threshold: tau, ``[C]``, of the thresholded linear unit.
        eps: Added to the mean square without its sign; a number, or a learned scalar.
        axes: How many trailing axes are channels.

    Returns:
        ``[B, ..., C]`` in the dtype of ``x``, rounded once.

    References:
        Singh, Krishnan (2020). Filter response normalization layer. arXiv:1911.09737, section 3.
        Departs from it in: channels are last, whatever the number of spatial axes.

    Example:
        >>> import torch
        >>> from normscope.norms import frn
        >>> x = torch.tensor([[[3.0], [-3.0]]])
        >>> frn(x, weight=torch.ones(1), bias=torch.zeros(1), threshold=torch.zeros(1))
        tensor([[[1.0000],
                 [0.0000]]])
    """
    over = tuple(range(1, x.dim() - axes))
    wide, scale, _ = in_range(widen(x), over)
    mean_square = wide.square().mean(over, keepdim=True)
    y = weight * (wide * (mean_square + abs(eps) * scale * scale).rsqrt()) + bias
    return torch.maximum(y, threshold).to(x.dtype)


class FRN(nn.Module):
    """Filter response normalization with its thresholded linear unit, which replaces the nonlinearity.

    Feature maps are channels-last, ``[B, ..., C]``, with at least one spatial axis. Positions of a map depend on each
    other; samples do not. The output has the dtype of the input, also under autocast.

    Args:
        normalized_shape: Number of channels, or sizes of the trailing axes, each element of which is a channel.
        eps: Added to the mean square. The paper advises to learn it if maps have a single position.
        learnable_eps: Whether ``eps`` is the initial value of a learned scalar, whose absolute value is used.
        device: Device of the parameters.
        dtype: The dtype of the parameters.

    Raises:
        TypeError: If a size is not an int or ``eps`` not a real number; in ``forward``, if the input is not floating
            point.
        ValueError: If a size is below one or ``eps`` is negative; in ``forward``, if the trailing axes of the input
            differ, or there is no spatial axis.

    References:
        Singh, Krishnan (2020). Filter response normalization layer. arXiv:1911.09737, section 3.
        Departs from it in: channels are last; the learned scalar starts at ``eps``, which is this implementation's
        choice.

    Example:
        >>> import torch
        >>> from normscope import FRN
        >>> norm = FRN(3)
        >>> x = torch.tensor([[[3.0, 1.0, 0.0], [3.0, -1.0, 0.0]]])
        >>> norm(x).detach()
        tensor([[[1.0000, 1.0000, 0.0000],
                 [1.0000, 0.0000, 0.0000]]])
    """

    traits: ClassVar[NormTraits] = NormTraits(
        centers=False,
        scales=True,
        statistics="channels",
        eps_place="variance",
        has_weight=True,
        has_bias=True,
        is_activation=True,
    )

    brings_activation = traits.is_activation
    """A network leaves out the nonlinearity that follows this norm."""

    mixes_positions = True
    """The output at a position depends on the others of its map, so no autoregressive model may use it."""

    def __init__(
        self,
        normalized_shape: Shape,
        eps: float = 1e-6,
        *,
        learnable_eps: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = as_shape(normalized_shape)
        self.initial_eps = check_eps(eps)
        self.weight = nn.Parameter(torch.empty(self.normalized_shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.normalized_shape, device=device, dtype=dtype))
        self.threshold = nn.Parameter(torch.empty(self.normalized_shape, device=device, dtype=dtype))
        self.eps = nn.Parameter(torch.empty(1, device=device, dtype=dtype)) if learnable_eps else eps
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to one, bias and threshold to zero, a learned eps to its initial value."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.threshold)
        if isinstance(self.eps, nn.Parameter):
            nn.init.constant_(self.eps, self.initial_eps)

    __call__: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, ..., C]`` to ``[B, ..., C]``.

        Args:
            x: The feature maps.

        Returns:
            The shape and dtype of ``x``, contiguous.

        Raises:
            ValueError: If ``x`` has no spatial axis.
        """
        if x.is_nested:
            return over_parts(self, x)
        check_input(self, x, self.normalized_shape)
        axes = len(self.normalized_shape)
        if x.dim() < axes + 2:
            wanted = ", ".join(map(str, self.normalized_shape))
            raise ValueError(f"{self} expects [batch, space, ..., {wanted}], got {list(x.shape)}")
        return frn(x, self.weight, self.bias, self.threshold, self.eps, axes=axes).contiguous()

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        learned = isinstance(self.eps, nn.Parameter)
        return f"{self.normalized_shape}, eps={self.initial_eps}, learnable_eps={learned}"
