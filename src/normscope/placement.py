"""Where norms stand in a network: around a residual branch, or on the summed inputs of a plain layer.

With x the residual stream, f the branch and N the norm:

=================  ==============================  ===========================================================
name               equation                        source
=================  ==============================  ===========================================================
``preactivation``  h = relu(N(W x))                Ba, Kiros, Hinton (2016), eq. (5); networks without branches
``post``           x <- N(x + f(x))                Xiong et al. (2020), Table 1, left; no further final norm
``pre``            x <- x + f(N(x)), then N(x)     Xiong et al. (2020), Table 1, right; final norm included
``output``         x <- x + N(f(x)), then N(x)     OLMo 2 (2024): the branch's output is normalized
``peri``           x <- x + N(f(N(x))), then N(x)  Kim et al. (2025), Peri-LN; the stem is normalized, too
=================  ==============================  ===========================================================
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

Norm = Callable[[int], nn.Module]
"""Makes the norm of a given width."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a network builds its residual blocks. A model asks this object; it never tests a name."""

    equation: str
    """One line, for tables."""
    block: Callable[[nn.Module, int, Norm], nn.Module] | None
    """From (branch, width, norm) to the residual block; None for networks without residual branches."""
    normalize_stem: bool = False
    """Whether a norm stands before the first block."""
    normalize_final: bool = False
    """Whether a norm stands after the last block."""


class PostNorm(nn.Module):
    """``N(x + f(x))``: the norm stands on the residual stream itself.

    References:
        Xiong et al. (2020). On layer normalization in the transformer architecture. arXiv:2002.04745, Table 1.
        Departs from it in: nothing.
    """

    def __init__(self, branch: nn.Module, width: int, norm: Norm) -> None:
        super().__init__()
        self.branch = branch
        self.norm = norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return self.norm(x + self.branch(x))


class PreNorm(nn.Module):
    """``x + f(N(x))``: the residual stream is never normalized before the end.

    References:
        Xiong et al. (2020). On layer normalization in the transformer architecture. arXiv:2002.04745, Table 1.
        Departs from it in: nothing; the final norm is the network's.
    """

    def __init__(self, branch: nn.Module, width: int, norm: Norm) -> None:
        super().__init__()
        self.branch = branch
        self.norm = norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.branch(self.norm(x))


class OutputNorm(nn.Module):
    """``x + N(f(x))``: what a branch adds has a fixed size.

    References:
        OLMo team (2024). 2 OLMo 2 furious. arXiv:2501.00656, section 3; Liu et al. (2021), Swin v2, res-post-norm.
        Departs from it in: the final norm before the head is kept for any norm.
    """

    def __init__(self, branch: nn.Module, width: int, norm: Norm) -> None:
        super().__init__()
        self.branch = branch
        self.norm = norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.norm(self.branch(x))


class PeriNorm(nn.Module):
    """``x + N(f(N(x)))``: a norm before the branch and another after it.

    References:
        Kim et al. (2025). Peri-LN: revisiting layer normalization in the transformer architecture. arXiv:2502.02732.
        Departs from it in: nothing; the norms of the stem and of the end are the network's.
    """

    def __init__(self, branch: nn.Module, width: int, norm: Norm) -> None:
        super().__init__()
        self.branch = branch
        self.norm = norm(width)
        self.output_norm = norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.output_norm(self.branch(self.norm(x)))
