"""Placements: positions of the norms around a residual branch, or on the summed inputs of a plain layer.

x is the residual stream, f the branch and N the norm:

======================  ===========================================  ==================================================
name                    equation                                     source
======================  ===========================================  ==================================================
``preactivation``       h = relu(N(W x))                             Ba et al. (2016), eq. (5); no residual branches
``post``                x <- N(x + f(x))                             Xiong et al. (2020), Table 1, left
``pre``                 x <- x + f(N(x)); N at the end               Xiong et al. (2020), Table 1, right
``output``              x <- x + N(f(x)); N at the end               OLMo 2 (2024), the branch's output is normalized
``peri``                x <- x + N(f(N(x))); N at both ends          Kim et al. (2025), Peri-LN (sandwich)
``deepnorm``            x <- N(alpha x + f(x)), beta f at init       Wang et al. (2022), DeepNet
``rezero``              x <- x + alpha f(x), alpha = 0 at init       Bachlechner et al. (2020); no norm
``layernorm_scaling``   x <- x + f(N(x) / sqrt(l)); N at the end     Sun et al. (2025), l the index of the layer
``recursive_skip``      y <- N(x + f(x)), then y <- N(x + y), ...    Liu et al. (2021), rSkip+LN
``hybrid``              N inside attention on q, k, v; x <- N(x),    Zhuo et al. (2025), HybridNorm
                        x + f(x) around the feed-forward network
``mix``                 first layers ``post``, others ``pre``        Li et al. (2024), Mix-LN
``residual_dual``       x <- N(x + f(x)), s <- s + f(x); x + N(s)    Xie et al. (2023), ResiDual
``none``                x <- x + f(x)                                He et al. (2016); no norm
``fixup``               x <- x + a f(x + b), last map of f 0 at init Zhang, Dauphin, Ma (2019); no norm
``t_fixup``             x <- x + f(x), f and embeddings scaled at    Huang et al. (2020); no norm
                        init
``skipinit``            x <- x + alpha f(x), alpha = 0 at init       De, Smith (2020); no norm
``scaled_branches``     x <- x + f(x), f scaled by 1 / sqrt(number   Radford et al. (2019), Zhang et al. (2019); no norm
                        of branches)
======================  ===========================================  ==================================================

``docs/guides/placements.md`` draws each of them.
"""

from normscope.placement.blocks import (
    DeepNorm,
    DualBlock,
    DualStack,
    NormThenPlain,
    OutputNorm,
    PeriNorm,
    PlainBlock,
    PostNorm,
    PreNorm,
    RecursiveSkip,
    ResidualStack,
    ReZero,
    ScaledPreNorm,
    deepnorm_constants,
)
from normscope.placement.placement import PLACEMENTS, POST, PRE, Placement, mix, per_layer
from normscope.placement.sites import LayeredNorm, NormFactory, Site, Where, named_norm, norm_at
from normscope.placement.without_norms import (
    Fixup,
    Gains,
    ScaledBranch,
    SkipInit,
    fixup_gains,
    scaled_branch_gains,
    t_fixup_embedding_gain,
    t_fixup_gain,
)

__all__ = [
    "PLACEMENTS",
    "POST",
    "PRE",
    "DeepNorm",
    "DualBlock",
    "DualStack",
    "Fixup",
    "Gains",
    "LayeredNorm",
    "NormFactory",
    "NormThenPlain",
    "OutputNorm",
    "PeriNorm",
    "Placement",
    "PlainBlock",
    "PostNorm",
    "PreNorm",
    "ReZero",
    "RecursiveSkip",
    "ResidualStack",
    "ScaledBranch",
    "ScaledPreNorm",
    "Site",
    "SkipInit",
    "Where",
    "deepnorm_constants",
    "fixup_gains",
    "mix",
    "named_norm",
    "norm_at",
    "per_layer",
    "scaled_branch_gains",
    "t_fixup_embedding_gain",
    "t_fixup_gain",
]
