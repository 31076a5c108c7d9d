"""Batch normalization in a recurrent layer: moments of every time step over the batch."""

from collections.abc import Callable

from torch import Tensor, nn

from normscope.norms import BatchNorm
from normscope.norms.checks import check_number


class StepBatchNorm(BatchNorm):
    r"""Batch normalization of one place of a recurrent layer, ``[B, D]`` at each of T time steps.

    .. math:: h_{tj} = g_j \frac{x_{tj} - \mu_{tj}}{\sqrt{\sigma_{tj}^2 + \epsilon}} + b_j

    In training the moments of a step are those of the sequences that are running at it, and move its running moments;
    in evaluation the running ones are used. A step beyond the last one that has been seen in training, or beyond
    ``steps``, uses those of the last. The first batch of a step sets its running moments, and the share of the n-th one
    is 1/n until that is below the momentum, as a step that few sequences reach sees few batches.

    Args:
        like: A batch norm whose settings are taken.
        steps: T, the number of steps with running moments.
        bias: Whether there is a bias, if ``like`` has one.

    Raises:
        TypeError: If ``steps`` is not an int.
        ValueError: If ``steps`` is below one; in ``forward``, if the batch's moments are needed and it has a single
            row.

    References:
        Cooijmans et al. (2016). Recurrent batch normalization. arXiv:1603.09025, eqs. 6-8 and section 4: weights start
        at 0.1. Departs from it in: running moments instead of those of the training set, which
        ``torch.optim.swa_utils.update_bn`` computes.
    """

    def __init__(self, like: BatchNorm, steps: int, *, bias: bool) -> None:
        if not isinstance(steps, int) or isinstance(steps, bool):
            raise TypeError(f"batch_norm_steps must be a whole number, got {steps!r}")
        check_number("batch_norm_steps", steps, least=1)
        super().__init__(
            like.normalized_shape,
            like.eps,
            like.momentum,
            affine=like.affine,
            bias=bias and like.bias is not None,
            track_running_stats=like.track_running_stats,
            unbiased=like.unbiased,
        )
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            buffer = getattr(self, name)
            if buffer is not None:
                self.register_buffer(name, buffer.new_empty(steps, *buffer.shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to 0.1, the running variances to one and the rest to zero."""
        super().reset_parameters()
        if self.weight is not None:
            nn.init.constant_(self.weight, 0.1)

    spans_processes = False
    """Not: at a late time step some processes may have no sequence."""

    __call__: Callable[..., Tensor]

    def forward(self, x: Tensor, step: int = 0) -> Tensor:
        """Map ``[B, D]`` to ``[B, D]``.

        Args:
            x: What the sequences have at a time step.
            step: Which one, from zero.

        Returns:
            The shape and dtype of ``x``.

        Raises:
            ValueError: If the batch's moments are needed and it has a single row.
        """
        running = self.running_mean, self.running_var, self.num_batches_tracked
        mean, variance, count = running
        if x.shape[0] == 1 and (self.training or mean is None):
            raise ValueError(
                f"batch norm takes moments over the sequences of a batch, and at time step {step} there is only one: "
                "pad the sequences to one length, leave out the longest, or use a norm of rows such as layer_norm"
            )
        if mean is None or variance is None or count is None:
            return self._normalize(x, None)
        if self.training:
            # In-place operations on these views move the running moments of the step.
            return self._normalize(x, (mean[step], variance[step], count[step]) if step < len(mean) else None)
        last = (count > 0).sum().sub(1).clamp(0, step)
        return self._normalize(x, (mean[last], variance[last], count[last]))

    def _share(self, count: Tensor) -> float | Tensor:
        return count.reciprocal().clamp(min=self.momentum or 0.0)
