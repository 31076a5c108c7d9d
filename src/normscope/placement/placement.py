"""Placements: descriptions of where norms stand, which build a residual stream from branches."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from torch import nn

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
from normscope.placement.sites import (
    BRANCHES,
    ENDS,
    QK,
    NormFactory,
    Site,
    SiteKind,
    StreamPart,
    Where,
    named_norm,
    norm_at,
)
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
from normscope.registry import Registry

WITHOUT_NORMS = (None, PlainBlock, ReZero, Fixup, SkipInit, ScaledBranch)
"""Blocks that have no norm."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Position of the norms in a residual stream.

    Example:
        >>> import torch
        >>> from normscope import LayerNorm
        >>> from normscope.placement import PRE
        >>> PRE.equation
        'x <- x + f(N(x)); N at the end'
        >>> stream = PRE.stack([("feed_forward", torch.nn.Linear(8, 8))], 8, LayerNorm)
        >>> stream(torch.zeros(2, 8)).shape
        torch.Size([2, 8])
    """

    equation: str
    """Update of the residual stream in one line, for tables."""
    block: Callable[..., nn.Module] | None
    """Builds a block from (branch, width, norm, site) and the arguments; None without residual branches."""
    other_block: Callable[..., nn.Module] | None = None
    """Builds the block of a feed-forward branch, if it differs from that of attention."""
    normalize_stem: bool = False
    """Whether a norm stands before the first block."""
    normalize_final: bool = False
    """Whether a norm stands after the last block."""
    normalize_qkv: bool = False
    """Whether queries, keys and values are normalized inside attention, separately for every head."""
    stream: Callable[[nn.Module, nn.ModuleList, nn.Module], ResidualStack] = ResidualStack
    """Module that runs the blocks between the norms at both ends."""
    gain: Callable[..., float | Gains | None] | None = None
    """Computes the factor on the initial weights of a branch from its site and the arguments; None for 1.

    :class:`Gains` has a factor of its own for the last map, in the order in which the branch registers its modules.
    """
    embedding_gain: Callable[..., float] | None = None
    """Computes the factor on initial embeddings from the site of the stem and the arguments; None for 1."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the placement, with their defaults or chosen values."""
    choose: Callable[..., "Placement"] | None = None
    """Returns the placement to use at a site, from the site and the arguments; None to use this one everywhere."""
    parts: tuple["Part", ...] = ()
    """Placements of single layers and branches, if any."""

    @property
    def has_norms(self) -> bool:
        """Whether the placement has a norm anywhere."""
        blocks = (self.block, self.other_block)
        ends = self.normalize_stem or self.normalize_final or self.normalize_qkv
        return ends or self.choose is not None or any(block not in WITHOUT_NORMS for block in blocks)

    def with_arguments(self, **arguments: Any) -> "Placement":
        """Return the same placement with other arguments.

        Raises:
            TypeError: If a value has another type than its default.
            ValueError: If there is no argument of that name, or a count is not a whole number of at least 1.
        """
        for name, value in arguments.items():
            if name not in self.arguments:
                takes = ", ".join(f"{key}={entry!r}" for key, entry in self.arguments.items()) or "no arguments"
                raise ValueError(f"the placement has no argument {name!r}; it takes {takes}")
            default = self.arguments[name]
            wanted = str if isinstance(default, str) else (int, float)
            if not isinstance(value, wanted) or isinstance(value, bool):
                kind = "a string" if wanted is str else "a number"
                raise TypeError(f"{name} must be {kind}, got {value!r}")
            if isinstance(default, int) and (value != int(value) or int(value) < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        given = {name: type(self.arguments[name])(value) for name, value in arguments.items()}
        return replace(self, arguments={**self.arguments, **given})

    def at(self, site: Site) -> "Placement":
        """Return the placement to use at a site."""
        return self if self.choose is None else self.choose(site, **self.arguments)

    def stack(
        self,
        branches: Sequence[tuple[str, nn.Module]],
        width: int,
        norm: NormFactory,
        *,
        part: StreamPart = "only",
        other_layers: int = 0,
    ) -> nn.Module:
        """Build the whole residual stream.

        Args:
            branches: Kind and module of every residual branch, in order; a layer ends with its ``feed_forward``.
            width: Width of the stream.
            norm: Builds a norm from a width.
            part: Which stream of the network it is.
            other_layers: Number of layers of the other stream of an encoder-decoder.

        Returns:
            A module with ``forward(x, *context)``, and the factor on initial embeddings as ``embedding_gain``.

        Raises:
            ValueError: If there is no branch, a kind is unknown, the last branch is not a ``feed_forward``, the
                placement has no residual blocks, or it scales initial weights and a branch has no module with a gain.
        """
        kinds = [kind for kind, _ in branches]
        if not kinds or set(kinds) - set(BRANCHES) or kinds[-1] != "feed_forward":
            raise ValueError(
                f"expected branches of the kinds {', '.join(BRANCHES)}, the last once per layer, got {kinds}"
            )
        layers = kinds.count("feed_forward")
        site = partial(Site, layers=layers, part=part, other_layers=other_layers, branches=len(kinds))
        blocks, layer = [], 1
        for kind, branch in branches:
            here = site(kind=cast(SiteKind, kind), layer=layer)
            on_heads = named_norm(norm, replace(here, kind=QK))
            if on_heads is not None and kind != "feed_forward":
                branch.normalize(on_heads, on_heads, None)  # pyright: ignore[reportCallIssue]
            blocks.append(self.at(here)._place(branch, width, norm_at(norm, here), here))
            layer += kind == "feed_forward"
        first, last = site(kind="stem", layer=0), site(kind="final", layer=layer - 1)
        beginning = self.at(replace(first, layer=1))
        wants_final = self.at(last).normalize_final
        stem_norm = norm_at(norm, first)(width) if beginning.normalize_stem else nn.Identity()
        final_norm = norm_at(norm, last)(width) if wants_final else nn.Identity()
        stream = self.at(last).stream(stem_norm, nn.ModuleList(blocks), final_norm)
        gain = beginning.embedding_gain
        stream.embedding_gain = 1.0 if gain is None else gain(first, **beginning.arguments)
        return stream

    def _place(self, branch: nn.Module, width: int, norm: NormFactory, site: Site) -> nn.Module:
        block = self.other_block if site.kind == "feed_forward" and self.other_block is not None else self.block
        if block is None:
            raise ValueError(f"the placement {self.equation!r} is for networks without residual branches")
        if self.normalize_qkv and site.kind != "feed_forward":
            branch.normalize(norm, norm, norm)  # pyright: ignore[reportCallIssue]
        factors = None if self.gain is None else self.gain(site, **self.arguments)
        if factors is not None:
            _scale(branch, factors)
        return block(branch, width, norm, site, **self.arguments)


def _scale(branch: nn.Module, factors: float | Gains) -> None:
    scaled = [module for module in branch.modules() if hasattr(module, "gain")]
    if not scaled:
        raise ValueError(f"the placement scales initial weights, and {type(branch).__name__} has no module with a gain")
    inner, last = factors if isinstance(factors, Gains) else (factors, factors)
    for module in scaled:
        setattr(module, "gain", last if module is scaled[-1] else inner)  # noqa: B010


@dataclass(kw_only=True)
class Part:
    """A placement for some of the layers or branches, with the number of branches that it has been used for."""

    where: Where
    placement: Placement
    used: int = 0


def per_layer(rest: Placement, *chosen: tuple[Where, Placement]) -> Placement:
    """Build a placement that differs between layers.

    The first of ``chosen`` that contains a site applies to it, otherwise ``rest``. :attr:`Placement.parts` counts the
    uses of each: a part with no uses matches no site of the network. The placement of the last layer decides whether
    there is a final norm, and that of the first whether there is a norm after the stem.

    Args:
        rest: Placement of all other sites.
        chosen: Parts of the network with their placements.

    Returns:
        The combined placement.

    Raises:
        ValueError: If a placement has two streams, which cannot be mixed, or a part is a site without a branch.

    Example:
        >>> from normscope.placement import POST, PRE, Where, per_layer
        >>> per_layer(PRE, (Where(text="1-2"), POST)).equation
        '1-2: x <- N(x + f(x)); rest: x <- x + f(N(x)); N at the end'
    """
    outside = [where.text for where, _ in chosen if where.text in (*ENDS, QK)]
    if outside:
        raise ValueError(f"a placement applies to layers and branches, not to {outside[0]!r}")
    for each in (rest, *(placement for _, placement in chosen)):
        if each.stream is not ResidualStack:
            raise ValueError(f"the placement {each.equation!r} has two streams and cannot be mixed with another")

    parts = tuple(Part(where=where, placement=placement) for where, placement in chosen)

    def choose(site: Site) -> Placement:
        as_branch = replace(site, kind="feed_forward") if site.kind not in BRANCHES else site
        found = next((part for part in parts if part.where.holds(as_branch)), None)
        if found is None:
            return rest.at(site)
        found.used += 1
        return found.placement.at(site)

    equations = [f"{part.where.text}: {part.placement.equation}" for part in parts]
    return Placement(equation="; ".join([*equations, f"rest: {rest.equation}"]), block=None, choose=choose, parts=parts)


POST = Placement(equation="x <- N(x + f(x))", block=PostNorm)
"""Placement of the original transformer, without a final norm."""

PRE = Placement(equation="x <- x + f(N(x)); N at the end", block=PreNorm, normalize_final=True)
"""Norms inside the branches, and a final norm."""


def mix(site: Site, *, share: float) -> Placement:
    """Return Post-LN for the first ``floor(share * layers)`` layers, and Pre-LN for the rest.

    Raises:
        ValueError: If ``share`` is not from 0 to 1.

    References:
        Li, Yin, Liu (2024). Mix-LN: unleashing the power of deeper layers by combining Pre-LN and Post-LN.
        arXiv:2412.13795.
        Departs from it in: nothing.

    Example:
        >>> from normscope.placement import Site, mix
        >>> mix(Site(kind="attention", layer=1, layers=12), share=0.25).equation
        'x <- N(x + f(x))'
        >>> mix(Site(kind="attention", layer=4, layers=12), share=0.25).equation
        'x <- x + f(N(x)); N at the end'
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}")
    # 0.29 of 100 layers is 29, but the floating-point product is 28.999999999999996.
    return POST if site.layer <= math.floor(round(share * site.layers, 9)) else PRE


PLACEMENTS: Registry[Placement] = Registry(
    "placement",
    {
        "preactivation": Placement(equation="h = relu(N(W x))", block=None),
        "post": POST,
        "pre": PRE,
        "output": Placement(equation="x <- x + N(f(x)); N at the end", block=OutputNorm, normalize_final=True),
        "peri": Placement(
            equation="x <- x + N(f(N(x))); N after the stem and at the end",
            block=PeriNorm,
            normalize_stem=True,
            normalize_final=True,
        ),
        "deepnorm": Placement(
            equation="x <- N(alpha x + f(x)), initial weights of f times beta",
            block=DeepNorm,
            gain=lambda site, constants: deepnorm_constants(site, constants)[1],
            arguments={"constants": "paper"},
        ),
        "rezero": Placement(equation="x <- x + alpha f(x), alpha = 0 at initialization; no norm", block=ReZero),
        "layernorm_scaling": Placement(
            equation="x <- x + f(N(x) / sqrt(layer)); N at the end", block=ScaledPreNorm, normalize_final=True
        ),
        "recursive_skip": Placement(
            equation="y <- N(x + f(x)), then y <- N(x + y) until `times` norms",
            block=RecursiveSkip,
            arguments={"times": 2},
        ),
        "hybrid": Placement(
            equation="x <- x + f(x) with N on q, k, v; x <- N(x), x <- x + f(x) around feed-forward; N at the end",
            block=PlainBlock,
            other_block=NormThenPlain,
            normalize_qkv=True,
            normalize_final=True,
        ),
        "mix": Placement(
            equation="the first `share` of the layers post, the rest pre",
            block=None,
            choose=mix,
            arguments={"share": 0.25},
        ),
        "residual_dual": Placement(
            equation="x <- N(x + f(x)), s <- s + f(x); x + N(s) at the end",
            block=DualBlock,
            normalize_final=True,
            stream=DualStack,
        ),
        "none": Placement(equation="x <- x + f(x); no norm", block=PlainBlock),
        "fixup": Placement(
            equation="x <- x + a f(x + b), a = 1, b = 0, last weights of f 0, others times L^(-1/(2m-2)); no norm",
            block=Fixup,
            gain=fixup_gains,
            arguments={"m": 2},
        ),
        "t_fixup": Placement(
            equation="x <- x + f(x), weights of f times 0.67 N^(-1/4) or (9N)^(-1/4), embeddings too; no norm",
            block=PlainBlock,
            gain=t_fixup_gain,
            embedding_gain=t_fixup_embedding_gain,
        ),
        "skipinit": Placement(
            equation="x <- x + alpha f(x), alpha = 0 or 1 / sqrt(branches) at initialization; no norm",
            block=SkipInit,
            arguments={"start": "zero"},
        ),
        "scaled_branches": Placement(
            equation="x <- x + f(x), last weights of f, or f itself, times 1 / sqrt(branches); no norm",
            block=ScaledBranch,
            gain=scaled_branch_gains,
            arguments={"factor": "weights"},
        ),
    },
    group="normscope.placements",
    accepts=lambda entry: isinstance(entry, Placement),
    wanted="a normscope.placement.Placement",
)
"""Positions of norms around a residual branch; ``preactivation`` is for networks without residual branches."""
