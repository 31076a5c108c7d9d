"""A residual stream: branches one after another, with the norms where a placement wants them."""

from typing import Any

from torch import Tensor, nn


class ResidualStack(nn.Module):
    """The stem's norm, the blocks, the final norm; each norm the identity where there is none."""

    def __init__(self, stem_norm: nn.Module, blocks: nn.ModuleList, final_norm: nn.Module) -> None:
        super().__init__()
        self.stem_norm = stem_norm
        self.blocks = blocks
        self.final_norm = final_norm

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``; ``context`` goes to every branch."""
        x = self.stem_norm(x)
        for block in self.blocks:
            x = block(x, *context)
        return self.final_norm(x)


class DualStack(nn.Module):
    """ResiDual: a normalized stream and a plain sum of everything the branches add, joined at the end.

    ``x <- N(x + f(x))``, ``s <- s + f(x)``, output ``x + N(s)``; both begin as the input.

    References:
        Xie et al. (2023). ResiDual: transformer with dual residual connections. arXiv:2304.14802, eqs. (6)-(8).
        Departs from it in: nothing.
    """

    def __init__(self, stem_norm: nn.Module, blocks: nn.ModuleList, final_norm: nn.Module) -> None:
        super().__init__()
        self.stem_norm = stem_norm
        self.blocks = blocks
        self.final_norm = final_norm

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``; ``context`` goes to every branch."""
        x = total = self.stem_norm(x)
        for block in self.blocks:
            x, change = block(x, *context)
            total = total + change
        return x + self.final_norm(total)
