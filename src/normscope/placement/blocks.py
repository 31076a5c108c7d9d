"""Residual blocks: a branch f, a norm N, and the equation that joins them to the residual stream x.

Every block is built from (branch, width, norm, site) and the arguments of its placement, and maps ``[..., D]`` to
``[..., D]``; further arguments of a call are passed on to the branch.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from normscope.placement.sites import NormFactory, Site

Constants = Literal["paper", "released"]
"""Source of DeepNorm's constants: the paper, or the code released by its authors."""

CONSTANTS: tuple[Constants, ...] = get_args(Constants)


def deepnorm_constants(site: Site, constants: Constants) -> tuple[float, float]:
    r"""Return alpha, which scales the shortcut, and beta, which scales the initial weights of a branch.

    ============================  =========================  ============================
    stream                        alpha                      beta
    ============================  =========================  ============================
    encoder only, decoder only    :math:`(2 N)^{1/4}`        :math:`(8 N)^{-1/4}`
    encoder of N and M            :math:`0.81 (N^4 M)^{1/16}`  :math:`0.87 (N^4 M)^{-1/16}`
    decoder of N and M            :math:`(3 M)^{1/4}`        :math:`(12 M)^{-1/4}`
    ============================  =========================  ============================

    ``released`` differs in the encoder of an encoder-decoder: there the code divides weights by
    :math:`(N^4 M)^{1/16} / 1.15`, so beta is :math:`1.15 (N^4 M)^{-1/16}`, 1.32 times the paper's. (1 / 0.87 is 1.15:
    the constant seems to have been inverted once too often.)

    Args:
        site: Stream and its depth: N layers in the encoder, M in the decoder. A decoder without an encoder
            (``other_layers=0``) is "decoder only", and an encoder without a decoder "encoder only".
        constants: Source of the constants.

    Returns:
        alpha and beta.

    Raises:
        ValueError: If ``constants`` is neither ``paper`` nor ``released``, the stream has no layer, or the number of
            layers of the other stream is negative.

    References:
        Wang et al. (2022). DeepNet: scaling transformers to 1,000 layers. arXiv:2203.00555, Figure 2.

    Example:
        >>> from normscope.placement import Site, deepnorm_constants
        >>> alpha, beta = deepnorm_constants(Site(kind="attention", layer=1, layers=8), "paper")
        >>> round(alpha, 4), round(beta, 4)
        (2.0, 0.3536)
    """
    if constants not in CONSTANTS:
        raise ValueError(f"constants must be one of {', '.join(CONSTANTS)}, got {constants!r}")
    layers, other = site.layers, site.other_layers
    if layers < 1 or other < 0:
        raise ValueError(
            "DeepNorm's constants need a stream of at least 1 layer, and 0 or more in the other, got "
            f"{layers} and {other}"
        )
    if other and site.part == "encoder":
        depth = (layers**4 * other) ** (1 / 16)
        return 0.81 * depth, (0.87 if constants == "paper" else 1.15) / depth
    if other and site.part == "decoder":
        return (3 * layers) ** 0.25, (12 * layers) ** -0.25
    return (2 * layers) ** 0.25, (8 * layers) ** -0.25


class PlainBlock(nn.Module):
    """``x + f(x)``: a residual connection without a norm.

    References:
        He et al. (2016). Deep residual learning for image recognition. arXiv:1512.03385, eq. (1).
        Departs from it in: no activation after the sum.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.branch(x, *context)


class _NormedBlock(nn.Module):
    """A block with a branch and one norm of its width."""

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> None:
        super().__init__()
        self.branch = branch
        self.norm = norm(width)


class PostNorm(_NormedBlock):
    """``N(x + f(x))``: the norm stands on the residual stream itself.

    References:
        Xiong et al. (2020). On layer normalization in the transformer architecture. arXiv:2002.04745, Table 1.
        Departs from it in: nothing.
    """

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return self.norm(x + self.branch(x, *context))


class PreNorm(_NormedBlock):
    """``x + f(N(x))``: the residual stream itself is only normalized at its end.

    References:
        Xiong et al. (2020). On layer normalization in the transformer architecture. arXiv:2002.04745, Table 1.
        Departs from it in: nothing; the final norm belongs to the stack.
    """

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.branch(self.norm(x), *context)


class OutputNorm(_NormedBlock):
    """``x + N(f(x))``: the output of the branch is normalized before it is added.

    References:
        OLMo team (2024). 2 OLMo 2 furious. arXiv:2501.00656, section 3; Liu et al. (2021), Swin v2, res-post-norm.
        Departs from it in: the final norm before the head is present for any norm.
    """

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.norm(self.branch(x, *context))


class PeriNorm(_NormedBlock):
    """``x + N(f(N(x)))``: a norm before the branch and another after it (sandwich).

    References:
        Kim et al. (2025). Peri-LN: revisiting layer normalization in the transformer architecture. arXiv:2502.02732.
        Departs from it in: nothing; the norms after the stem and at the end belong to the stack.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> None:
        super().__init__(branch, width, norm, site)
        self.output_norm = norm(width)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.output_norm(self.branch(self.norm(x), *context))


class DeepNorm(_NormedBlock):
    """``N(alpha x + f(x))``, with the initial weights of f scaled by beta.

    References:
        Wang et al. (2022). DeepNet: scaling transformers to 1,000 layers. arXiv:2203.00555, Figure 2.
        Departs from it in: nothing; see :func:`normscope.placement.blocks.deepnorm_constants`.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site, *, constants: Constants) -> None:
        super().__init__(branch, width, norm, site)
        self.alpha = deepnorm_constants(site, constants)[0]

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return self.norm(self.alpha * x + self.branch(x, *context))


class ReZero(nn.Module):
    """``x + alpha f(x)``: one learned scalar alpha per branch, initialized to 0; no norm.

    References:
        Bachlechner et al. (2020). ReZero is all you need. arXiv:2003.04887, eq. (3).
        Departs from it in: each of the two branches of a transformer layer has its scalar; the paper shares one.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> None:
        super().__init__()
        self.branch = branch
        self.scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set alpha to 0, which makes the block the identity."""
        nn.init.zeros_(self.scale)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.scale * self.branch(x, *context)


class ScaledPreNorm(_NormedBlock):
    """``x + f(N(x) / sqrt(l))``, with l the index of the layer from 1: deep layers add less variance.

    References:
        Sun et al. (2025). The curse of depth in large language models. arXiv:2502.05795, LayerNorm Scaling.
        Departs from it in: nothing; the final norm is not scaled.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> None:
        super().__init__(branch, width, norm, site)
        self.factor = site.layer**-0.5

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.branch(self.norm(x) * self.factor, *context)


class RecursiveSkip(nn.Module):
    """``y_1 = N(x + f(x))``, ``y_k = N(x + y_(k-1))``, output ``y_times``: the shortcut is added ``times`` times.

    References:
        Liu et al. (2021). Rethinking skip connection with layer normalization. arXiv:2105.07205, rSkip+LN, the
        paper's lambda is ``times``.
        Departs from it in: every step has a separate norm; whether the paper shares one could not be verified.
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


class NormThenPlain(_NormedBlock):
    """``n + f(n)`` with ``n = N(x)``: the feed-forward half of HybridNorm; the shortcut is normalized, too.

    References:
        Zhuo et al. (2025). HybridNorm. arXiv:2503.04598, the feed-forward network's Post-Norm seen from its input.
        Departs from it in: nothing.
    """

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        x = self.norm(x)
        return x + self.branch(x, *context)


class DualBlock(_NormedBlock):
    """``N(x + f(x))`` and ``f(x)``: one step of the two streams of ResiDual.

    References:
        Xie et al. (2023). ResiDual: transformer with dual residual connections. arXiv:2304.14802, eqs. (6)-(8).
        Departs from it in: no factor against float16 overflow; use bfloat16.
    """

    def forward(self, x: Tensor, *context: Any) -> tuple[Tensor, Tensor]:
        """Return the next state of the normalized stream, and the change to add to the other stream."""
        change = self.branch(x, *context)
        return self.norm(x + change), change


class ResidualStack(nn.Module):
    """``N_final(block_n(... block_1(N_stem(x))))``: the blocks between two norms, each possibly the identity."""

    def __init__(self, stem_norm: nn.Module, blocks: nn.ModuleList, final_norm: nn.Module) -> None:
        super().__init__()
        self.stem_norm = stem_norm
        self.blocks = blocks
        self.final_norm = final_norm
        self.embedding_gain = 1.0
        """Factor on the initial embeddings of the network around the stream."""

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``; ``context`` is passed to every branch."""
        x = self.stem_norm(x)
        for block in self.blocks:
            x = block(x, *context)
        return self.final_norm(x)


class DualStack(ResidualStack):
    """ResiDual: a normalized stream, and a plain sum of the outputs of all branches, joined at the end.

    ``x <- N(x + f(x))``, ``s <- s + f(x)``, output ``x + N(s)``; both streams start from the input.

    References:
        Xie et al. (2023). ResiDual: transformer with dual residual connections. arXiv:2304.14802, eqs. (6)-(8).
        Departs from it in: nothing.
    """

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``; ``context`` is passed to every branch."""
        x = total = self.stem_norm(x)
        for block in self.blocks:
            x, change = block(x, *context)
            total = total + change
        return x + self.final_norm(total)
