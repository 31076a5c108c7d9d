"""Instance normalization with the channels on the last axis."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from normscope.kernels.scaling import in_range
from normscope.norms.batch_norm import batch_norm
from normscope.norms.checks import Shape, as_shape, check_eps, check_input, check_number
from normscope.norms.group_norm import group_norm
from normscope.norms.moments import widen
from normscope.norms.nested import over_parts
from normscope.norms.traits import NormTraits


def instance_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5, *, axes: int = 1) -> Tensor:
    r"""Standardize every channel of every sample over its positions, then scale and shift.

    .. math:: h_{ij} = g_j \frac{x_{ij} - \mu_j}{\sqrt{\sigma_j^2 + \epsilon}} + b_j

    The moments of a channel j are over all positions i of one sample.

    Args:
        x: ``[B, ..., C]``, any floating dtype; the moments in at least float32.
        weight: The weight g, ``[C]``.
        bias: The bias b, ``[C]``.
        eps: Added to the variance.
        axes: Number of trailing axes that are channels.

    Returns:
        ``[B, ..., C]`` in the dtype of ``x``, rounded once.

    References:
        Ulyanov, Vedaldi, Lempitsky (2016). Instance normalization. arXiv:1607.08022.
        Departs from it in: channels are last; weight and bias.

    Example:
        >>> import torch
        >>> from normscope.norms import instance_norm
        >>> instance_norm(torch.tensor([[[1.0, 10.0], [3.0, 30.0]]]), weight=None, bias=None)
        tensor([[[-1.0000, -1.0000],
                 [ 1.0000,  1.0000]]])
    """
    return group_norm(x, math.prod(x.shape[-axes:]), weight, bias, eps, axes=axes)


class InstanceNorm(nn.Module):
    """Instance normalization over the LAST axis of ``[B, ..., C]``; torch's normalizes axis 1.

    The moments of a channel are over the positions of a sample, so positions depend on each other; samples do not. With
    ``track_running_stats`` evaluation uses running moments, as torch's. The output has the dtype of the input, also
    under autocast. The state dict is that of ``torch.nn.InstanceNorm1d``.

    Args:
        normalized_shape: Number of channels, or sizes of the trailing axes, each element of which is a channel.
        eps: Added to the variance.
        momentum: The weight of the new batch in the running moments.
        affine: Whether there are a weight and a bias. Torch's have none unless asked.
        bias: Whether there is a bias, if ``affine``.
        track_running_stats: Whether there are running moments.
        device: Device of parameters and running moments.
        dtype: The dtype of parameters and running moments.

    Raises:
        TypeError: If a size is not an int or ``eps`` or ``momentum`` not a real number; in ``forward``, if the input is
            not floating point.
        ValueError: If a size is below one, ``eps`` is negative or ``momentum`` is outside 0 to 1; in ``forward``, if
            the trailing axes of the input differ, or the moments of a sample are needed and it does not have several
            positions.

    References:
        Ulyanov, Vedaldi, Lempitsky (2016). Instance normalization. arXiv:1607.08022.
        Departs from it in: channels are last; weight and bias.

    Example:
        >>> import torch
        >>> from normscope import InstanceNorm
        >>> InstanceNorm(2)(torch.tensor([[[1.0, 10.0], [3.0, 30.0]]])).detach()
        tensor([[[-1.0000, -1.0000],
                 [ 1.0000,  1.0000]]])
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
        momentum: float = 0.1,
        *,
        affine: bool = True,
        bias: bool = True,
        track_running_stats: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = shape = as_shape(normalized_shape)
        self.eps = check_eps(eps)
        self.momentum = check_number("momentum", momentum, least=0, most=1)
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if affine else None
        self.bias = nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if affine and bias else None
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        for name in ("running_mean", "running_var"):
            moment = torch.empty(shape, device=device, dtype=dtype) if track_running_stats else None
            self.register_buffer(name, moment)
        # Torch's has this buffer, too, and never counts.
        count = torch.empty((), device=device, dtype=torch.long) if track_running_stats else None
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Set the running mean to zero and the running variance to one, if there are any."""
        for name, start in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
            buffer = getattr(self, name)
            if buffer is not None:
                buffer.fill_(start)

    def reset_parameters(self) -> None:
        """Set the weight and the running variance to one, the rest to zero."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    __call__: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, ..., C]`` to ``[B, ..., C]``.

        Args:
            x: The batch.

        Returns:
            The shape and dtype of ``x``, contiguous.

        Raises:
            ValueError: If the moments of a sample are needed and it does not have several positions.
        """
        if x.is_nested:
            return over_parts(self, x)
        check_input(self, x, self.normalized_shape)
        axes = len(self.normalized_shape)
        mean, variance = self.running_mean, self.running_var
        if not self.training and self.track_running_stats and mean is not None and variance is not None:
            return batch_norm(x, mean, variance, self.weight, self.bias, self.eps).contiguous()
        positions = math.prod(x.shape[1:-axes])
        if x.dim() < axes + 2 or positions == 1:
            wanted = ", ".join(map(str, self.normalized_shape))
            raise ValueError(f"{self} expects [batch, positions, ..., {wanted}], two or more, got {list(x.shape)}")
        if self.training and self.track_running_stats and mean is not None and variance is not None and x.numel():
            over = tuple(range(1, x.dim() - axes))
            wide, scale, middle = in_range(widen(x.detach()), over, centers=True)
            spread, center = torch.var_mean(wide, over, correction=1, keepdim=True)
            for running, moments in ((mean, center / scale + middle), (variance, spread / scale / scale)):
                running.add_((moments.mean(0).reshape(running.shape) - running) * self.momentum)
        return instance_norm(x, self.weight, self.bias, self.eps, axes=axes).contiguous()

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )
