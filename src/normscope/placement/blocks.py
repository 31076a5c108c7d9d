"""Residual blocks: a branch f, a norm N, and the equation that joins them to the stream x.

Every block is made from (branch, width, norm, site) and the arguments of its placement, and maps ``[..., D]`` to
``[..., D]``; what follows x in a call goes to the branch as it is.
"""

from typing import Any

import torch
from torch import Tensor, nn

from normscope.placement.sites import NormFactory, Site

CONSTANTS = ("paper", "released")
"""Whose constants: the paper's, or those of the code that its authors released."""


def deepnorm_constants(site: Site, constants: str) -> tuple[float, float]:
    r"""Give alpha, which scales the shortcut, and beta, which scales the first weights of a branch.

    ============================  =========================  ============================
    stream                        alpha                      beta
    ============================  =========================  ============================
    encoder only, decoder only    :math:`(2 N)^{1/4}`        :math:`(8 N)^{-1/4}`
    encoder of N and M            :math:`0.81 (N^4 M)^{1/16}`  :math:`0.87 (N^4 M)^{-1/16}`
    decoder of N and M            :math:`(3 M)^{1/4}`        :math:`(12 M)^{-1/4}`
    ============================  =========================  ============================

    ``released`` differs in the encoder of an encoder-decoder: there the code divides weights by
    :math:`(N^4 M)^{1/16} / 1.15`, so beta is :math:`1.15 (N^4 M)^{-1/16}`, 1.32 times the paper's. (1 / 0.87 is 1.15:
    the constant seems to have been turned over once too often.)

    Args:
        site: Which stream, and its depths: N layers of encoder, M of decoder.
        constants: One of :data:`CONSTANTS`.

    Raises:
        ValueError: If ``constants`` is another word.

    References:
        Wang et al. (2022). DeepNet: scaling transformers to 1,000 layers. arXiv:2203.00555, Figure 2.
    """
    if constants not in CONSTANTS:
        raise ValueError(f"constants must be one of {', '.join(CONSTANTS)}, got {constants!r}")
    own, other = site.layers, site.other_layers
    if site.part == "encoder":
        depth = (own**4 * other) ** (1 / 16)
        return 0.81 * depth, (0.87 if constants == "paper" else 1.15) / depth
    if site.part == "decoder":
        return (3 * own) ** 0.25, (12 * own) ** -0.25
    return (2 * own) ** 0.25, (8 * own) ** -0.25


class PlainBlock(nn.Module):
    """``x + f(x)``: no norm; the residual network that every placement starts from."""

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.branch(x, *context)


class PostNorm(nn.Module):
    """``N(x + f(x))``: the norm stands on the residual stream itself.

    References:
        Xiong et al. (2020). On layer normalization in the transformer architecture. arXiv:2002.04745, Table 1.
        Departs from it in: nothing.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> None:
        super().__init__()
        self.branch = branch
        self.norm = norm(width)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return self.norm(x + self.branch(x, *context))


class PreNorm(nn.Module):
    """``x + f(N(x))``: the residual stream is never normalized before the end.

    References:
        Xiong et al. (2020). On layer normalization in the transformer architecture. arXiv:2002.04745, Table 1.
        Departs from it in: nothing; the final norm is the stream's.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> None:
        super().__init__()
        self.branch = branch
        self.norm = norm(width)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.branch(self.norm(x), *context)


class OutputNorm(nn.Module):
    """``x + N(f(x))``: what a branch adds has a fixed size.

    References:
        OLMo team (2024). 2 OLMo 2 furious. arXiv:2501.00656, section 3; Liu et al. (2021), Swin v2, res-post-norm.
        Departs from it in: the final norm before the head is kept for any norm.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> None:
        super().__init__()
        self.branch = branch
        self.norm = norm(width)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.norm(self.branch(x, *context))


class PeriNorm(nn.Module):
    """``x + N(f(N(x)))``: a norm before the branch and another after it (sandwich).

    References:
        Kim et al. (2025). Peri-LN: revisiting layer normalization in the transformer architecture. arXiv:2502.02732.
        Departs from it in: nothing; the norms of the stem and of the end are the stream's.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> None:
        super().__init__()
        self.branch = branch
        self.norm = norm(width)
        self.output_norm = norm(width)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.output_norm(self.branch(self.norm(x), *context))


class DeepNorm(nn.Module):
    """``N(alpha x + f(x))``, the first weights of f made smaller by beta.

    References:
        Wang et al. (2022). DeepNet: scaling transformers to 1,000 layers. arXiv:2203.00555, Figure 2.
        Departs from it in: nothing; see :func:`normscope.placement.blocks.deepnorm_constants`.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site, *, constants: str) -> None:
        super().__init__()
        self.branch = branch
        self.norm = norm(width)
        self.alpha = deepnorm_constants(site, constants)[0]

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return self.norm(self.alpha * x + self.branch(x, *context))


class ReZero(nn.Module):
    """``x + a f(x)`` with one learned number a a branch, 0 at first; no norm.

    References:
        Bachlechner et al. (2020). ReZero is all you need. arXiv:2003.04887, eq. (3).
        Departs from it in: the two branches of a transformer layer have a number each; the paper shares one.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> None:
        super().__init__()
        self.branch = branch
        self.scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the number to 0: the block begins as the identity."""
        nn.init.zeros_(self.scale)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.scale * self.branch(x, *context)


class ScaledPreNorm(nn.Module):
    """``x + f(N(x) / sqrt(l))``, l the number of the layer from 1: deep layers add less variance.

    References:
        Sun et al. (2025). The curse of depth in large language models. arXiv:2502.05795, LayerNorm Scaling.
        Departs from it in: nothing; the final norm is not scaled.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> None:
        super().__init__()
        self.branch = branch
        self.norm = norm(width)
        self.factor = site.layer**-0.5

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.branch(self.norm(x) * self.factor, *context)


class RecursiveSkip(nn.Module):
    """``y_1 = N(x + f(x))``, ``y_k = N(x + y_(k-1))``, output ``y_times``: the shortcut is added again and again.

    References:
        Liu et al. (2021). Rethinking skip connection with layer normalization. arXiv:2105.07205, rSkip+LN, the
        paper's lambda is ``times``.
        Departs from it in: every step has a norm of its own; whether the paper shares them we could not read.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site, *, times: int) -> None:
        super().__init__()
        self.branch = branch
        self.norms = nn.ModuleList(norm(width) for _ in range(times))

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        y = self.branch(x, *context)
        for norm in self.norms:
            y = norm(x + y)
        return y


class NormThenPlain(nn.Module):
    """``n + f(n)`` with ``n = N(x)``: the feed-forward half of HybridNorm; what passes by is normalized, too.

    References:
        Zhuo et al. (2025). HybridNorm. arXiv:2503.04598, the feed-forward network's Post-Norm seen from its input.
        Departs from it in: nothing.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> None:
        super().__init__()
        self.branch = branch
        self.norm = norm(width)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        x = self.norm(x)
        return x + self.branch(x, *context)


class DualBlock(nn.Module):
    """``x <- N(x + f(x))`` and what f added: one step of ResiDual's two streams.

    References:
        Xie et al. (2023). ResiDual: transformer with dual residual connections. arXiv:2304.14802, eqs. (6)-(8).
        Departs from it in: no factor against float16 overflow; use bfloat16.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> None:
        super().__init__()
        self.branch = branch
        self.norm = norm(width)

    def forward(self, x: Tensor, *context: Any) -> tuple[Tensor, Tensor]:
        """Give the next state of the normalized stream, and the change that the other stream adds up."""
        change = self.branch(x, *context)
        return self.norm(x + change), change


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
