"""A residual multi-layer perceptron: the smallest network in which the place of a norm is a question."""

from collections.abc import Callable

from torch import Tensor, nn


class ResidualMLP(nn.Module):
    """A linear stem, residual blocks with two-layer branches, a linear head.

    Args:
        inputs: Width of the input.
        width: Width of the residual stream.
        depth: Number of blocks.
        classes: Number of logits.
        norm: Makes a norm from its width.
        block: Makes a residual block from (branch, width, norm): where norms stand in it is the caller's choice.
        normalize_stem: Whether a norm stands before the first block.
        normalize_final: Whether a norm stands after the last block.
    """

    def __init__(
        self,
        *,
        inputs: int,
        width: int,
        depth: int,
        classes: int,
        norm: Callable[[int], nn.Module],
        block: Callable[[nn.Module, int, Callable[[int], nn.Module]], nn.Module],
        normalize_stem: bool,
        normalize_final: bool,
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, width)
        self.stem_norm = norm(width) if normalize_stem else nn.Identity()
        self.blocks = nn.Sequential(*(block(_branch(width), width, norm) for _ in range(depth)))
        self.final_norm = norm(width) if normalize_final else nn.Identity()
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``[B, D]`` to logits ``[B, classes]``."""
        return self.head(self.final_norm(self.blocks(self.stem_norm(self.stem(x)))))


def _branch(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
