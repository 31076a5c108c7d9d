"""Blocks and initial weights of residual streams that train without norms.

A plain stream ``x + f(x)`` grows by a constant factor per branch. What follows bounds it: at first, branches that are
zero (Fixup, SkipInit, ReZero) or small in proportion to their number (T-Fixup, scaled branches).
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from normscope.placement.sites import NormFactory, Site

Start = Literal["zero", "depth"]
"""Initial value of SkipInit's scalar: 0, or 1 / sqrt(branches)."""

Factor = Literal["weights", "forward"]
"""Place of the factor of scaled branches: the initial weights of each branch's last map, or every forward pass."""


class Gains(NamedTuple):
    """Factors on the initial weights of a branch.

    Example:
        >>> from normscope.placement import Gains
        >>> Gains(inner=0.5, last=0.0).last
        0.0
    """

    inner: float
    """Factor on all maps but the last."""
    last: float
    """Factor on the map that ends the branch."""


def fixup_gains(site: Site, *, m: int) -> Gains:
    r"""Return the factors of Fixup: :math:`L^{-1/(2m-2)}` for the maps inside a branch, and 0 for its last.

    Args:
        site: A site of a stream of L branches.
        m: Number of maps on the path through a branch.

    Raises:
        ValueError: If m is below 2, or the number of branches is unknown.

    References:
        Zhang, Dauphin, Ma (2019). Fixup initialization: residual learning without normalization. arXiv:1901.09321,
        section 3. Departs from it in: queries and keys, which do not scale a branch, keep their size, so that m is 2
        for attention (value and output) as it is for feed-forward networks; the classification layer is not zero,
        since it is the embedding in most of our networks.

    Example:
        >>> from normscope.placement import Site, fixup_gains
        >>> fixup_gains(Site(kind="attention", layer=1, layers=8, branches=16), m=2)
        Gains(inner=0.25, last=0.0)
    """
    if m < 2:
        raise ValueError(f"m must be at least 2, the maps of a branch, since the last of them is zero, got {m}")
    return Gains(_branches(site, "fixup") ** (-1 / (2 * m - 2)), 0.0)


def t_fixup_gain(site: Site) -> float:
    r"""Return the factor of T-Fixup on values, outputs and feed-forward maps.

    It is :math:`0.67 N^{-1/4}` in an encoder of N layers, and :math:`(9 N)^{-1/4}` in a decoder of N layers with
    cross-attention.

    References:
        Huang, Perez, Ba, Volkovs (2020). Improving transformer optimization through better initialization. ICML 2020,
        section 3.3. Departs from it in: a stream without cross-attention takes the encoder's factor, whether or not it
        is causal, since its layers are those of the encoder; the paper has no such network.

    Example:
        >>> from normscope.placement import Site, t_fixup_gain
        >>> t_fixup_gain(Site(kind="attention", layer=1, layers=16))
        0.335
    """
    if site.part == "decoder" and site.other_layers:
        return t_fixup_embedding_gain(site)
    return 0.67 * site.layers**-0.25


def t_fixup_embedding_gain(site: Site) -> float:
    r"""Return the factor of T-Fixup on the embeddings of encoder and decoder, :math:`(9 N)^{-1/4}` for N layers.

    References:
        Huang, Perez, Ba, Volkovs (2020). Improving transformer optimization through better initialization. ICML 2020,
        section 3.3. Departs from it in: where the streams differ in depth, N is that of the deeper one, so that they
        can share a table; sinusoidal positions, which the paper does not mention, keep their size.

    Example:
        >>> from normscope.placement import Site, t_fixup_embedding_gain
        >>> round(t_fixup_embedding_gain(Site(kind="stem", layer=0, layers=6, part="encoder", other_layers=9)), 4)
        0.3333
    """
    return (9 * max(site.layers, site.other_layers)) ** -0.25


def scaled_branch_gains(site: Site, *, factor: Factor) -> Gains | None:
    r"""Return the factor :math:`1 / \sqrt{B}` on the last map of each of B branches, or None with ``forward``.

    Two branches in each of L layers make the usual :math:`1 / \sqrt{2L}`.

    Raises:
        ValueError: If ``factor`` is neither ``weights`` nor ``forward``, or the number of branches is unknown.

    References:
        Radford et al. (2019). Language models are unsupervised multitask learners (GPT-2), section 2.3, for
        ``weights``. Departs from it in: Xavier weights in place of N(0, 0.02), and no norms.

    Example:
        >>> from normscope.placement import Site, scaled_branch_gains
        >>> scaled_branch_gains(Site(kind="attention", layer=1, layers=8, branches=16), factor="weights")
        Gains(inner=1.0, last=0.25)
    """
    if factor not in get_args(Factor):
        raise ValueError(f"factor must be one of {', '.join(get_args(Factor))}, got {factor!r}")
    return Gains(1.0, _branches(site, "scaled_branches") ** -0.5) if factor == "weights" else None


class Fixup(nn.Module):
    """``x + a f(x + b)`` with learned scalars a = 1 and b = 0, the initial weights of f from :func:`fixup_gains`.

    References:
        Zhang, Dauphin, Ma (2019). Fixup initialization: residual learning without normalization. arXiv:1901.09321,
        section 3. Departs from it in: the maps inside a branch keep their bias vectors, which take the place of the
        scalar biases before and after an activation.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site, *, m: int) -> None:
        super().__init__()
        self.branch = branch
        self.scale = nn.Parameter(torch.empty(()))
        self.bias = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set a to 1 and b to 0."""
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.scale * self.branch(x + self.bias, *context)


class SkipInit(nn.Module):
    """``x + alpha f(x)``: one learned scalar alpha per branch, 0 or 1 / sqrt(branches) at initialization.

    With 0 it is :class:`normscope.placement.ReZero` as it is here. The papers differ: ReZero has one scalar for both
    branches of a transformer layer, SkipInit one per branch, and a small value other than 0 as an alternative.

    Raises:
        ValueError: If ``start`` is neither ``zero`` nor ``depth``, or the number of branches is needed and unknown.

    References:
        De, Smith (2020). Batch normalization biases residual blocks towards the identity function in deep networks.
        arXiv:2002.10444, section 4. Departs from it in: nothing; the paper's networks are convolutional.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site, *, start: Start) -> None:
        super().__init__()
        if start not in get_args(Start):
            raise ValueError(f"start must be one of {', '.join(get_args(Start))}, got {start!r}")
        self.branch = branch
        self.start = 0.0 if start == "zero" else _branches(site, "skipinit(start='depth')") ** -0.5
        self.scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set alpha to its initial value."""
        nn.init.constant_(self.scale, self.start)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.scale * self.branch(x, *context)


class ScaledBranch(nn.Module):
    r"""``x + c f(x)``, :math:`c = 1 / \sqrt{B}` for B branches with ``forward``, else 1 and smaller initial weights.

    References:
        Zhang, Yu, Yi, Chen, Liu (2019). Stabilize deep ResNet with a sharp scaling factor tau. arXiv:1903.07120, for
        ``forward``; for ``weights`` see :func:`normscope.placement.without_norms.scaled_branch_gains`.
        Departs from it in: no activation after the sum.
    """

    def __init__(self, branch: nn.Module, width: int, norm: NormFactory, site: Site, *, factor: Factor) -> None:
        super().__init__()
        self.branch = branch
        self.factor = _branches(site, "scaled_branches") ** -0.5 if factor == "forward" else 1.0

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``."""
        return x + self.factor * self.branch(x, *context)


def _branches(site: Site, name: str) -> int:
    if site.branches is None or site.branches < 1:
        raise ValueError(f"{name} needs a site with the number of branches of its stream, got {site.branches}")
    return site.branches
