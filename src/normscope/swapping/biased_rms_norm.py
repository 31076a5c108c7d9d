"""An RMS norm with a bias: what a layer norm of a centered input is."""

import torch
from torch import Tensor, nn

from normscope.kernels import fused
from normscope.kernels.formula import ROOT
from normscope.norms import rms_norm
from normscope.norms.checks import check_eps, check_input


class BiasedRMSNorm(nn.Module):
    r"""RMSNorm, then a bias. Keys of the state dict are those of ``torch.nn.LayerNorm``.

    .. math:: h = g \odot \frac{x}{\sqrt{\tfrac{1}{H} \sum_i x_i^2 + \epsilon}} + b

    The output has the dtype of the input.

    Args:
        normalized_shape: The sizes of the trailing axes.
        eps: Added to the mean square.
        weight: The gain g, taken as it is; None for none.
        bias: The bias b, taken as it is.

    Raises:
        TypeError: On call, if the input is not of a floating dtype.
        ValueError: If ``eps`` is negative; on call, if the trailing axes of the input differ.
    """

    def __init__(
        self, normalized_shape: tuple[int, ...], eps: float, weight: nn.Parameter | None, bias: nn.Parameter
    ) -> None:
        super().__init__()
        self.normalized_shape = tuple(normalized_shape)
        self.eps = check_eps(eps)
        self.weight = weight
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        z = fused(x, self.normalized_shape, self.weight, self.bias, None, ROOT, self.eps)
        if z is not None:
            return z
        check_input(self, x, self.normalized_shape)
        dtype = torch.promote_types(x.dtype, self.bias.dtype)
        y = rms_norm(x.to(dtype), self.weight, self.eps, axes=len(self.normalized_shape))
        return (y + self.bias).to(x.dtype)

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return f"{self.normalized_shape}, eps={self.eps}, gain={self.weight is not None}"
