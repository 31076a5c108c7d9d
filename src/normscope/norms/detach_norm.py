"""DetachNorm: layer normalization whose backward pass does not see the mean, the deviation, or both."""

import torch
from torch import Tensor, nn

from normscope.norms.checks import Shape, as_shape, check_eps, check_input
from normscope.norms.moments import trailing, widen


def detach_norm(x: Tensor, eps: float = 1e-5, *, mean: bool = True, std: bool = True, axes: int = 1) -> Tensor:
    r"""Normalize as LayerNorm-simple does, with the chosen statistics as constants in the backward pass.

    .. math:: h = \frac{x - \hat\mu}{\hat\sigma}, \quad \sigma = \sqrt{\tfrac{1}{H} \sum_i (x_i - \mu)^2 + \epsilon}

    A hat copies the value and blocks the gradient. With both detached the gradient is that of a division by a
    constant, dx = dh / sigma. Forward-mode derivatives treat the same statistics as constants.

    Args:
        x: ``[..., D]``, any floating dtype; statistics in at least float32.
        eps: Added to the variance.
        mean: Whether the mean is detached.
        std: Whether the standard deviation is detached.
        axes: How many trailing axes make a row.

    Returns:
        ``[..., D]`` in the dtype of ``x``, rounded once; the values are those of LayerNorm-simple.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, poster, Theorem 1.
        Departs from it in: ``eps``, of which the paper has none.
    """
    wide = widen(x)
    over = trailing(axes)
    mu = (wide.detach() if mean else wide).mean(over, keepdim=True)
    centered = wide - mu
    # The mean inside the deviation needs no case of its own: its derivative is zero, for the centered row sums to zero.
    variance = (centered.detach() if std else centered).square().mean(over, keepdim=True)
    return (centered * (variance + eps).rsqrt()).to(x.dtype)


class DetachNorm(nn.Module):
    """LayerNorm-simple with its mean, its standard deviation, or both as constants in the backward pass.

    An instrument, not a product: it tells what the derivatives of the two statistics do. With neither detached it is
    LayerNorm-simple. The output has the dtype of the input, also under autocast.

    Args:
        normalized_shape: Width, or sizes of the trailing axes.
        eps: Added to the variance.
        mean: Whether the mean is detached.
        std: Whether the standard deviation is detached.
        device: Unused, for there are no parameters.
        dtype: Unused, for there are no parameters.

    Raises:
        TypeError: If a size or a number is none; on call, if the input is not of a floating dtype.
        ValueError: If a size is below one or ``eps`` is negative; on call, if the trailing axes of the input differ.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013, poster, Theorem 1.
        Departs from it in: ``eps``, of which the paper has none.
    """

    def __init__(
        self,
        normalized_shape: Shape,
        eps: float = 1e-5,
        *,
        mean: bool = True,
        std: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = as_shape(normalized_shape)
        self.eps = check_eps(eps)
        self.mean = mean
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        check_input(self, x, self.normalized_shape)
        return detach_norm(x, self.eps, mean=self.mean, std=self.std, axes=len(self.normalized_shape))

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return f"{self.normalized_shape}, eps={self.eps}, mean={self.mean}, std={self.std}"
