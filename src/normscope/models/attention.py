"""Multi-head attention of a sequence to itself and to another one, and what the branches of a stack may look at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from normscope.models.layers import Linear, Projection

KeysValues = tuple[Tensor, Tensor]
"""Keys and values ``[B, H, S, D / H]``, projected and normalized."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a branch may look at beside its input. Masks are boolean, true where a key may be seen."""

    mask: Tensor | None = None
    """Of self-attention, broadcast to ``[B, H, T, T]``."""
    causal: bool = False
    """Return whether a position sees itself and those before only; instead of a mask."""
    memory: Tensor | None = None
    """What cross-attention attends to, ``[B, S, D]``: the encoder's output."""
    memory_mask: Tensor | None = None
    """Of cross-attention, broadcast to ``[B, H, T, S]``."""
    memory_cache: Mapping[nn.Module, KeysValues] | None = None
    """Keys and values of ``memory`` by cross-attention branch; instead of ``memory``."""
    cache: dict[nn.Module, KeysValues] | None = None
    """Keys and values of earlier positions by self-attention branch, which puts those of its input behind them."""
    window: int | None = None
    """Positions that the cache keeps, the newest included; None for all."""


def padding_mask(keep: Tensor) -> Tensor:
    """Let keys be seen that are no pads; where there is no other key, let the pads be seen.

    A row of pads alone has nothing to attend to, and a softmax over nothing is NaN: such rows attend to their pads.

    Args:
        keep: ``[B, S]`` bool, false at pads.

    Returns:
        ``[B, 1, 1, S]`` bool, true where a key may be seen.
    """
    return (keep | ~keep.any(dim=1, keepdim=True))[:, None, None, :]


def window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """Let a position see itself and the ``window - 1`` positions before it.

    Returns:
        ``[T, T]`` bool, true where a key may be seen.
    """
    return torch.ones(length, length, dtype=torch.bool, device=device).tril_().triu_(1 - window)


class Attention(nn.Module):
    r"""Multi-head self-attention, with dropout of the weights and of the output.

    .. math:: f(x) = W^O\, [h_1, \dots, h_H] + b^O, \qquad h_i = \mathrm{softmax}(q_i k_i^\top / \sqrt{D / H})\, v_i

    Query, key and value of each head are slices of one packed projection of x. Norms that :meth:`normalize` sets act
    on them, every head by itself.

    Args:
        width: D, of the residual stream.
        heads: H, a divisor of the width.
        attention_dropout: Rate on the attention weights.
        dropout: Rate on the output.

    Raises:
        ValueError: If the heads do not divide the width or a rate is not from 0 to 1.

    References:
        Vaswani et al. (2017). Attention is all you need. arXiv:1706.03762, section 3.2.
        Departs from it in: biases, and dropout of the weights, as in every implementation since.
    """

    def __init__(self, width: int, heads: int, *, attention_dropout: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = head_width(width, heads)
        self.project = Projection(width, ("query", "key", "value"))
        self.query_norm, self.key_norm, self.value_norm = nn.Identity(), nn.Identity(), nn.Identity()
        self.attention_dropout = nn.Dropout(attention_dropout)
        self.output = Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def normalize(self, query: "HeadNorm", key: "HeadNorm", value: "HeadNorm") -> None:
        """Set norms over the head width, each from a function of the width; None leaves a part as it is."""
        set_head_norms(self, query, key, value)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Map ``[B, T, D]`` to ``[B, T, D]``; without a context every position sees every other."""
        context = Context() if context is None else context
        query, key, value = self.project(x).unflatten(-1, (3, self.heads, self.head_width)).unbind(2)
        query = self.query_norm(query).transpose(1, 2)  # [B, H, T, D / H]
        key, value = self.key_norm(key).transpose(1, 2), self.value_norm(value).transpose(1, 2)
        if context.cache is not None:
            if self in context.cache:
                before = context.cache[self]
                key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
            if context.window is not None:
                key, value = key[:, :, -context.window :], value[:, :, -context.window :]
            context.cache[self] = key, value
        mixed = functional.scaled_dot_product_attention(
            query, key, value, context.mask, self.attention_dropout.p if self.training else 0.0, context.causal
        )
        return self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))


class CrossAttention(nn.Module):
    """Multi-head attention to another sequence: queries from the input, keys and values from the context's memory.

    The equation, the arguments and the errors are those of :class:`Attention`.
    """

    def __init__(self, width: int, heads: int, *, attention_dropout: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = head_width(width, heads)
        self.project = Projection(width, ("query",))
        self.project_memory = Projection(width, ("key", "value"))
        self.query_norm, self.key_norm, self.value_norm = nn.Identity(), nn.Identity(), nn.Identity()
        self.attention_dropout = nn.Dropout(attention_dropout)
        self.output = Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def normalize(self, query: "HeadNorm", key: "HeadNorm", value: "HeadNorm") -> None:
        """Set norms over the head width, each from a function of the width; None leaves a part as it is."""
        set_head_norms(self, query, key, value)

    def remember(self, memory: Tensor) -> KeysValues:
        """Return the keys and values of a memory ``[B, S, D]``, for :attr:`Context.memory_cache`."""
        key, value = self.project_memory(memory).unflatten(-1, (2, self.heads, self.head_width)).unbind(2)
        return self.key_norm(key).transpose(1, 2), self.value_norm(value).transpose(1, 2)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Map ``[R, T, D]`` to ``[R, T, D]``.

        Rows may outnumber the memory's B: then each block of ``R / B`` rows, the beams of a search, shares one memory.

        Raises:
            ValueError: If the context has neither a memory nor its keys and values.
        """
        if context.memory_cache is not None:
            key, value = context.memory_cache[self]
        elif context.memory is not None:
            key, value = self.remember(context.memory)
        else:
            raise ValueError("cross-attention needs a context with a memory, got neither memory nor memory_cache")
        query = self.query_norm(self.project(x).unflatten(-1, (self.heads, self.head_width)))
        # Nothing here depends on a query's position, so the beams of a sentence may stand as further positions.
        query = query.reshape(key.shape[0], -1, self.heads, self.head_width).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, context.memory_mask, self.attention_dropout.p if self.training else 0.0
        )
        return self.dropout(self.output(mixed.transpose(1, 2).reshape(x.shape)))


HeadNorm = Callable[[int], nn.Module] | None
"""Makes the norm of one head from its width; None for no norm."""


def head_width(width: int, heads: int) -> int:
    """Divide the width among the heads.

    Raises:
        ValueError: If it cannot be divided.
    """
    if heads < 1 or width % heads:
        raise ValueError(f"the number of heads must divide the width, got {heads} heads and width {width}")
    return width // heads


def set_head_norms(attention: nn.Module, query: HeadNorm, key: HeadNorm, value: HeadNorm) -> None:
    """Set the norms of queries, keys and values of an attention branch.

    Raises:
        ValueError: If one is there already: two switches want different norms in one place.
    """
    for part, norm in (("query", query), ("key", key), ("value", value)):
        if norm is None:
            continue
        there = getattr(attention, f"{part}_norm")
        if not isinstance(there, nn.Identity):
            raise ValueError(f"the {part} is normalized by {type(there).__name__} already; choose one norm for it")
        setattr(attention, f"{part}_norm", norm(attention.head_width))  # pyright: ignore[reportArgumentType]
