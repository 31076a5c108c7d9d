"""Multi-head self-attention and cross-attention, and the context of the branches of a stack."""

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
    """Inputs of a branch besides the residual stream. Masks are boolean, True for visible keys."""

    mask: Tensor | None = None
    """Mask of self-attention, broadcast to ``[B, H, T, T]``."""
    causal: bool = False
    """Return whether a position sees itself and earlier positions; replaces the mask."""
    memory: Tensor | None = None
    """Input of cross-attention, ``[B, S, D]``: the encoder's output."""
    memory_mask: Tensor | None = None
    """Mask of cross-attention, broadcast to ``[B, H, T, S]``."""
    memory_cache: Mapping[nn.Module, KeysValues] | None = None
    """Keys and values of ``memory`` by cross-attention branch; instead of ``memory``."""
    cache: dict[nn.Module, KeysValues] | None = None
    """Keys and values of earlier positions by self-attention branch, which appends those of its input."""
    window: int | None = None
    """Number of positions kept in the cache, the newest included; None keeps all."""


def padding_mask(keep: Tensor) -> Tensor:
    """Build the mask that hides padding.

    Rows that consist of padding only attend to it: a softmax over no keys would be NaN.

    Args:
        keep: ``[B, S]`` bool, False at padding.

    Returns:
        ``[B, 1, 1, S]`` bool, True for visible keys.
    """
    return (keep | ~keep.any(dim=1, keepdim=True))[:, None, None, :]


def window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """Build the mask with which a position sees itself and the ``window - 1`` positions before it.

    Returns:
        ``[T, T]`` bool, True for visible keys.
    """
    return torch.ones(length, length, dtype=torch.bool, device=device).tril_().triu_(1 - window)


class Attention(nn.Module):
    r"""Multi-head self-attention, with dropout of the weights and of the output.

    .. math:: f(x) = W^O\, [h_1, \dots, h_H] + b^O, \qquad h_i = \mathrm{softmax}(q_i k_i^\top / \sqrt{D / H})\, v_i

    Query, key and value of each head are slices of a packed projection of x. Norms set by :meth:`normalize` act on
    them, separately for each head.

    Args:
        width: D, the width of the residual stream.
        heads: H, a divisor of the width.
        attention_dropout: Dropout rate of the attention weights.
        dropout: Dropout rate of the output.

    Raises:
        ValueError: If the heads do not divide the width or a rate is not in [0, 1].

    References:
        Vaswani et al. (2017). Attention is all you need. arXiv:1706.03762, section 3.2.
        Departs from it in: biases, and dropout of the attention weights, as in all common implementations.
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
        """Set norms over the head width from their factories; None leaves a part unchanged."""
        set_head_norms(self, query, key, value)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Map ``[B, T, D]`` to ``[B, T, D]``; without a context every position sees all others."""
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

    Equation, arguments and errors are those of :class:`Attention`.
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
        """Set norms over the head width from their factories; None leaves a part unchanged."""
        set_head_norms(self, query, key, value)

    def remember(self, memory: Tensor) -> KeysValues:
        """Return the keys and values of a memory ``[B, S, D]``, for :attr:`Context.memory_cache`."""
        key, value = self.project_memory(memory).unflatten(-1, (2, self.heads, self.head_width)).unbind(2)
        return self.key_norm(key).transpose(1, 2), self.value_norm(value).transpose(1, 2)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Map ``[R, T, D]`` to ``[R, T, D]``.

        R may be a multiple of the memory's B: then each block of ``R / B`` rows, such as the beams of a search, shares
        a memory.

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
        # Queries are independent of their positions, so the beams of a sentence are treated as further positions.
        query = query.reshape(key.shape[0], -1, self.heads, self.head_width).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, context.memory_mask, self.attention_dropout.p if self.training else 0.0
        )
        return self.dropout(self.output(mixed.transpose(1, 2).reshape(x.shape)))


HeadNorm = Callable[[int], nn.Module] | None
"""Factory of the norm of a head, from its width; None for no norm."""


def head_width(width: int, heads: int) -> int:
    """Return the width of each head.

    Raises:
        ValueError: If the number of heads does not divide the width.
    """
    if heads < 1 or width % heads:
        raise ValueError(f"the number of heads must divide the width, got {heads} heads and width {width}")
    return width // heads


def set_head_norms(attention: nn.Module, query: HeadNorm, key: HeadNorm, value: HeadNorm) -> None:
    """Set the norms of queries, keys and values of an attention branch.

    Raises:
        ValueError: If a norm is already set at one of them.
    """
    for part, norm in (("query", query), ("key", key), ("value", value)):
        if norm is None:
            continue
        present = getattr(attention, f"{part}_norm")
        if not isinstance(present, nn.Identity):
            raise ValueError(f"the {part} is already normalized by {type(present).__name__}; choose one norm for it")
        setattr(attention, f"{part}_norm", norm(attention.head_width))  # pyright: ignore[reportArgumentType]
