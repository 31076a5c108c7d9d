"""A residual multi-layer perceptron: the smallest network in which the place of a norm is a question."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class ResidualMLP(nn.Module):
    """A linear stem, residual blocks with two-layer branches, a linear head.

    Args:
        inputs: Width of the input.
        width: Width of the residual stream.
        depth: Number of blocks.
        classes: Number of logits.
        stack: Builds the residual stream from (kind, branch) pairs and the width: where norms stand is its choice.
    """

    def __init__(
        self,
        *,
        inputs: int,
        width: int,
        depth: int,
        classes: int,
        stack: Callable[[Sequence[tuple[str, nn.Module]], int], nn.Module],
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, width)
        self.stack = stack([("feed_forward", _branch(width)) for _ in range(depth)], width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``[B, D]`` to logits ``[B, classes]``."""
        return self.head(self.stack(self.stem(x)))


def _branch(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
