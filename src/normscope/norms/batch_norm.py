"""Batch normalization with the features on the last axis."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from normscope.kernels.scaling import in_range
from normscope.norms.checks import Shape, as_shape, check_eps, check_input, check_number
from normscope.norms.moments import widen
from normscope.norms.nested import over_rows
from normscope.norms.traits import NormTraits
from normscope.torch_internals import BatchNormBase


def batch_moments(x: Tensor, *, axes: int = 1) -> tuple[Tensor, Tensor]:
    r"""Return the mean and the variance of every feature over all leading axes.

    .. math:: \mu_j = \frac{1}{n} \sum_i x_{ij}, \quad \sigma_j^2 = \frac{1}{n} \sum_i (x_{ij} - \mu_j)^2

    Args:
        x: ``[..., D]``, any floating dtype; the moments are in at least float32.
        axes: Number of trailing axes that are features.

    Returns:
        Mean and variance, each ``[D]``. The variance is biased: its divisor is n.

    References:
        Ioffe, Szegedy (2015). Batch normalization. arXiv:1502.03167, Algorithm 1.
        Departs from it in: nothing.

    Example:
        >>> import torch
        >>> from normscope.norms import batch_moments
        >>> batch_moments(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))
        (tensor([ 2., 20.]), tensor([  1., 100.]))
    """
    wide = widen(x)
    over = tuple(range(x.dim() - axes))
    mean = wide.mean(over)
    return mean, (wide - mean).square().mean(over)


def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float | Tensor = 1e-5
) -> Tensor:
    r"""Normalize every feature by the given moments, then scale and shift.

    .. math:: h_j = g_j \frac{x_j - \mu_j}{\sqrt{\sigma_j^2 + \epsilon}} + b_j

    Args:
        x: ``[..., D]``, any floating dtype; arithmetic in at least float32.
        mean: ``[D]``: of the batch in training, the running one in evaluation.
        variance: ``[D]``, likewise.
        weight: The weight g, called gain in the paper, ``[D]``.
        bias: The bias b, ``[D]``.
        eps: Added to the variance; a number, or one for each feature.

    Returns:
        ``[..., D]`` in the dtype of ``x``, rounded once.

    References:
        Ioffe, Szegedy (2015). Batch normalization. arXiv:1502.03167, Algorithm 1.
        Departs from it in: nothing.

    Example:
        >>> import torch
        >>> from normscope.norms import batch_norm
        >>> x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
        >>> mean, variance = torch.tensor([2.0, 20.0]), torch.tensor([1.0, 100.0])
        >>> batch_norm(x, mean, variance, weight=None, bias=None)
        tensor([[-1.0000, -1.0000],
                [ 1.0000,  1.0000]])
    """
    scale = (widen(variance) + eps).rsqrt()
    if weight is not None:
        scale = scale * widen(weight)
    y = (widen(x) - widen(mean)) * scale
    if bias is not None:
        y = y + widen(bias)
    return y.to(x.dtype)


class BatchNorm(BatchNormBase):
    """Batch normalization over the LAST axis of ``[..., D]``; torch's normalizes axis 1.

    It has the base class of torch's batch norms, so that ``torch.optim.swa_utils.update_bn`` and whatever else asks for
    that class find it. There is no ``num_features``, from which others conclude that axis 1 holds the features.

    The moments of a feature are taken over all other axes. In training the moments of the batch are used and the
    running ones updated; in evaluation the running moments are used. The running variance has the divisor n - 1, as
    torch's. The state dict has the keys of ``torch.nn.BatchNorm1d``. An empty batch changes nothing. The output has the
    dtype of the input, also under autocast. In training, ``across``, a function that sums a tensor over processes
    (differentiably), makes the moments those of the rows of all of them. Rows of a training batch are not independent,
    and ``torch.vmap`` over them cannot update the running moments: use evaluation mode, or leave those moments out
    by ``track_running_stats=False``.

    Args:
        normalized_shape: Width, or sizes of the trailing axes, each place of which is a feature.
        eps: Added to the variance.
        momentum: The weight of the new batch in the running moments; None for plain averages.
        affine: Whether there are a weight and a bias.
        bias: Whether there is a bias, if ``affine``.
        track_running_stats: Whether there are running moments; without them evaluation uses those of the batch.
        unbiased: Whether the batch is normalized by the variance with the divisor n - 1.
        device: Device of parameters and running moments.
        dtype: The dtype of parameters and running moments.

    Raises:
        TypeError: If a size is not an int or ``eps`` or ``momentum`` not a real number; in ``forward``, if the input is
            not floating point.
        ValueError: If a size is below one, ``eps`` is negative or ``momentum`` is outside 0 to 1; in ``forward``, if
            the trailing axes of the input differ, or the batch's moments are needed and it has a single row.
        AttributeError: If ``num_features`` is read, as ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` does.

    References:
        Ioffe, Szegedy (2015). Batch normalization. arXiv:1502.03167, Algorithms 1 and 2; Ba, Kiros, Hinton (2016).
        Layer normalization. arXiv:1607.06450, section 6.6, for ``unbiased``.
        Departs from it in: the running moments are exponential averages, not averages over the training set.

    Example:
        >>> import torch
        >>> from normscope import BatchNorm
        >>> norm = BatchNorm(2)
        >>> norm(torch.tensor([[1.0, 10.0], [3.0, 30.0]])).detach()
        tensor([[-1.0000, -1.0000],
                [ 1.0000,  1.0000]])
        >>> norm.running_mean
        tensor([0.2000, 2.0000])
    """

    def __init__(
        self,
        normalized_shape: Shape,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        affine: bool = True,
        bias: bool = True,
        track_running_stats: bool = True,
        unbiased: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # Not the base's, which makes parameters and buffers of one axis.
        nn.Module.__init__(self)
        if momentum is not None:
            check_number("momentum", momentum, least=0, most=1)
        self.normalized_shape = as_shape(normalized_shape)
        self.eps = check_eps(eps)
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.unbiased = unbiased
        shape = self.normalized_shape
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if affine else None
        self.bias = nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if affine and bias else None
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.num_batches_tracked: Tensor | None
        for name in ("running_mean", "running_var"):
            moment = torch.empty(shape, device=device, dtype=dtype) if track_running_stats else None
            self.register_buffer(name, moment)
        count = torch.empty((), device=device, dtype=torch.long) if track_running_stats else None
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    @property
    def traits(self) -> NormTraits:
        """Return the traits, which depend on the divisor of the variance."""
        return NormTraits(
            centers=True,
            scales=True,
            statistics="batch",
            eps_place="variance",
            has_weight=True,
            has_bias=True,
            without_weight={"affine": False},
            without_bias={"bias": False},
            unbiased=self.unbiased,
        )

    def reset_parameters(self) -> None:
        """Set the weight and the running variance to one, the rest to zero."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    spans_processes = True
    """Whether ``across`` has an effect."""
    across: Callable[[Tensor], Tensor] | None = None
    """Sums a tensor over the processes that share a batch, differentiably; None if there is one."""

    __call__: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``.

        Args:
            x: The batch.

        Returns:
            The shape and dtype of ``x``, contiguous.

        Raises:
            ValueError: If the batch's moments are needed and it has a single row.
        """
        if x.is_nested:
            return over_rows(self, x)
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return self._normalize(x, None)
        return self._normalize(x, (self.running_mean, self.running_var, self.num_batches_tracked))

    def _normalize(self, x: Tensor, running: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
        """Normalize by the moments of the batch, or in evaluation by the running ones: mean, variance and count.

        Raises:
            ValueError: If the batch's moments are needed and it has a single row.
        """
        check_input(self, x, self.normalized_shape)
        if not self.training and running is not None:
            return batch_norm(x, *running[:2], self.weight, self.bias, self.eps).contiguous()
        axes = len(self.normalized_shape)
        rows = math.prod(x.shape[:-axes])
        if self.training and self.across is not None:
            wide = widen(x)
            mean, variance, spread = self._moments_across(wide, axes)
            if self.track_running_stats and running is not None:
                self._move(running, mean.detach(), spread.detach())
            variance = spread if self.unbiased else variance
            return batch_norm(wide, mean, variance, self.weight, self.bias, self.eps).to(x.dtype).contiguous()
        if rows == 1:
            raise ValueError(f"{self} expects more than one row in training, got {list(x.shape)}")
        if rows == 0:
            # The moments of an empty batch are NaN, and so would be the gradients of weight and bias.
            nothing = x.new_zeros(self.normalized_shape)
            return batch_norm(x, nothing, nothing + 1, self.weight, self.bias, self.eps)
        wide, scale, middle = in_range(widen(x), tuple(range(x.dim() - axes)), centers=True)
        mean, variance = batch_moments(wide, axes=axes)
        spread = variance * (rows / (rows - 1))
        if self.training and self.track_running_stats and running is not None:
            self._move(running, mean.detach() / scale + middle, spread.detach() / scale / scale)
        eps, variance = self.eps * scale * scale, spread if self.unbiased else variance
        return batch_norm(wide, mean, variance, self.weight, self.bias, eps).to(x.dtype).contiguous()

    def _moments_across(self, x: Tensor, axes: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the moments of the rows of all processes, as in ``batch_moments``, and the variance for n - 1.

        Raises:
            ValueError: If there is a single row.
        """
        assert self.across is not None
        over = tuple(range(x.dim() - axes))
        rows = self.across(x.new_tensor(math.prod(x.shape[:-axes])))
        if rows == 1:
            raise ValueError(f"{self} expects more than one row in training, got {list(x.shape)} over all processes")
        mean = self.across(x.sum(over)) / rows
        variance = self.across((x - mean).square().sum(over)) / rows
        return mean, variance, variance * (rows / (rows - 1))

    def _move(self, running: tuple[Tensor, Tensor, Tensor], *moments: Tensor) -> None:
        """Move the running mean and variance towards those of a batch."""
        share = self._share(running[2].add_(1).to(moments[0].dtype))
        for moving, moment in zip(running[:2], moments, strict=True):
            moving.add_((moment.reshape(moving.shape) - moving) * share)

    def _share(self, count: Tensor) -> float | Tensor:
        """Return the weight of the newest of ``count`` batches in the running moments."""
        return count.reciprocal() if self.momentum is None else self.momentum

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}, unbiased={self.unbiased}"
        )

    def __getattr__(self, name: str) -> Any:
        if name == "num_features":
            raise AttributeError(
                "BatchNorm of normscope has its features on the last axis and no num_features, which stands for the "
                "size of axis 1: SyncBatchNorm and the like would normalize another axis. Its width is normalized_shape"
            )
        return super().__getattr__(name)
