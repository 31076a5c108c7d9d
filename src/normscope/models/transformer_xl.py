"""Transformer-XL: a language model with relative positions and a memory of earlier segments in every layer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from normscope.models.attention import HeadNorm, head_width, set_head_norms
from normscope.models.layers import Embedding, FeedForward, Linear, Projection, relative_shift, sinusoids


class Memory(NamedTuple):
    """Remembered states of the layers."""

    states: Tensor
    """The last M inputs of every attention branch, ``[layers, B, M, D]``, oldest first."""
    count: Tensor
    """Number of valid states among the M, int64 scalar: fewer at the start of a stream."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Inputs of the branches for a segment of T words after M remembered words, K = M + T."""

    memory: Tensor
    """Remembered states ``[layers, B, M, D]``, detached."""
    distances: Tensor
    """Encoded distances ``[K + 1, D]``: zeros, then K - 1 down to 0."""
    hidden: Tensor
    """``[T, K]`` bool, True for hidden keys."""
    inputs: dict[int, Tensor] = field(default_factory=dict)
    """Inputs of the attention branches, ``[B, T, D]`` each, by number."""


class RelativeAttention(nn.Module):
    r"""Causal self-attention to a segment and to the memory, with scores by content and by distance.

    .. math::
        a_{tk} = \frac{(q_t + u)^\top k_k + (q_t + v)^\top W^R r_{t - k}}{\sqrt{D / H}}, \qquad
        f(x) = W^O\, [h_1, \dots, h_H] + b^O, \quad h = \mathrm{softmax}(a)\, v

    for each head. The memory contains inputs of this branch, after a norm in front of it. The memory is detached, so
    that it contributes no gradient to that norm's parameters.

    Args:
        width: D, the width of the residual stream.
        heads: H, a divisor of the width.
        number: Index of the branch in the memory, from 0.
        attention_dropout: Dropout rate of the attention weights.
        dropout: Dropout rate of the output.

    Raises:
        ValueError: If the heads do not divide the width or a rate is not in [0, 1].

    References:
        Dai et al. (2019). Transformer-XL: attentive language models beyond a fixed-length context. arXiv:1901.02860,
        section 3.3. Departs from it in: u and v are initially zero and not shared by layers; the output has a bias.
    """

    def __init__(
        self, width: int, heads: int, number: int, *, attention_dropout: float = 0.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = head_width(width, heads)
        self.number = number
        self.project = Projection(width, ("query",), bias=False)
        self.project_keys = Projection(width, ("key", "value"), bias=False)
        self.project_distances = Projection(width, ("distance",), bias=False)
        self.query_norm, self.key_norm, self.value_norm = nn.Identity(), nn.Identity(), nn.Identity()
        self.content_bias = nn.Parameter(torch.empty(heads, self.head_width))
        self.distance_bias = nn.Parameter(torch.empty(heads, self.head_width))
        self.attention_dropout = nn.Dropout(attention_dropout)
        self.output = Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize u and v to zero, in place."""
        nn.init.zeros_(self.content_bias)
        nn.init.zeros_(self.distance_bias)

    def normalize(self, query: HeadNorm, key: HeadNorm, value: HeadNorm) -> None:
        """Set norms over the head width from their factories; None leaves a part unchanged."""
        set_head_norms(self, query, key, value)

    def forward(self, x: Tensor, segment: Segment) -> Tensor:
        """Map ``[B, T, D]`` to ``[B, T, D]``, and store x in ``segment.inputs``."""
        batch, length, _ = x.shape
        segment.inputs[self.number] = x.detach()
        seen = torch.cat([segment.memory[self.number], x], dim=1)  # [B, K, D]
        query = self.query_norm(self.project(x).unflatten(-1, (self.heads, self.head_width)))  # [B, T, H, D / H]
        key, value = self.project_keys(seen).unflatten(-1, (2, self.heads, self.head_width)).unbind(2)
        distance = self.project_distances(segment.distances).unflatten(-1, (self.heads, self.head_width))
        # Heads come first, so that the scores by distance are a single matrix product per head.
        by_distance = torch.bmm(
            (query + self.distance_bias).permute(2, 0, 1, 3).flatten(1, 2),
            distance.permute(1, 2, 0),
        ).unflatten(1, (batch, length))  # [H, B, T, K + 1]
        scale = 1 / math.sqrt(self.head_width)
        scores = torch.baddbmm(
            relative_shift(by_distance).flatten(0, 1),
            (query + self.content_bias).permute(2, 0, 1, 3).flatten(0, 1),
            self.key_norm(key).permute(2, 0, 3, 1).flatten(0, 1),
            beta=scale,
            alpha=scale,
        )  # [H B, T, K]
        weights = self.attention_dropout(scores.masked_fill_(segment.hidden, -math.inf).softmax(dim=-1))
        mixed = torch.bmm(weights, self.value_norm(value).permute(2, 0, 1, 3).flatten(0, 1))
        mixed = mixed.unflatten(0, (self.heads, batch)).permute(1, 2, 0, 3).flatten(2)
        return self.dropout(self.output(mixed))


class TransformerXL(nn.Module):
    """A Transformer-XL: embeddings, a causal stack with memory, and a softmax over the vocabulary, without padding.

    Args:
        vocabulary: Number of words.
        width: D, the width of the residual stream.
        heads: Number of attention heads.
        feed_forward: Hidden width of the feed-forward branches.
        layers: Number of layers.
        batch: Number of streams read in parallel in training, whose memory is in the buffers ``memory`` and
            ``memory_count``, and so in the state dict.
        memory_length: M, the number of words remembered in training; 0 disables the memory.
        dropout: Dropout rate of embeddings, encoded distances, activations, and outputs of branches and stack.
        attention_dropout: Dropout rate of attention weights.
        clamp_length: Maximum distance, to which larger distances are clamped; None for no limit.
        share_embeddings: Whether the embeddings and the softmax share a table.
        qk_norm: Factory of the norms of every head's queries and keys, from the head width; None for no norm.
        stack: Builds the residual stream, with its norms, from (kind, branch) pairs and the width.

    Raises:
        ValueError: If the heads do not divide the width, the width is odd, a rate is not in [0, 1], or a length is
            negative.

    References:
        Dai et al. (2019). Transformer-XL: attentive language models beyond a fixed-length context. arXiv:1901.02860.
        Departs from it in: a single softmax over all words, without a bias; positions before the start of a stream are
        masked, while the released code attends to zeros.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        heads: int,
        feed_forward: int,
        layers: int,
        batch: int,
        memory_length: int,
        dropout: float,
        attention_dropout: float = 0.0,
        clamp_length: int | None = None,
        share_embeddings: bool = True,
        qk_norm: HeadNorm = None,
        stack: Callable[[Sequence[tuple[str, nn.Module]], int], nn.Module],
    ) -> None:
        super().__init__()
        if memory_length < 0 or (clamp_length is not None and clamp_length < 0):
            raise ValueError(f"lengths must not be negative, got memory {memory_length} and clamp {clamp_length}")
        self.layers = layers
        self.width = width
        self.clamp_length = clamp_length
        self.embedding = Embedding(vocabulary, width)
        self.softmax = self.embedding if share_embeddings else Embedding(vocabulary, width)
        self.dropout = nn.Dropout(dropout)
        branches: list[tuple[str, nn.Module]] = []
        for number in range(layers):
            attention = RelativeAttention(width, heads, number, attention_dropout=attention_dropout, dropout=dropout)
            attention.normalize(qk_norm, qk_norm, None)
            feed = FeedForward(width, feed_forward, activation_dropout=dropout, dropout=dropout)
            branches += [("attention", attention), ("feed_forward", feed)]
        self.decoder = stack(branches, width)
        self.embedding.gain = getattr(self.decoder, "embedding_gain", 1.0)
        self.memory: Tensor
        self.memory_count: Tensor
        self.register_buffer("memory", torch.zeros(layers, batch, memory_length, width))
        self.register_buffer("memory_count", torch.zeros((), dtype=torch.int64))

    def forward(self, tokens: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Process a segment with a memory, without changing the model's buffers.

        Args:
            tokens: ``[B, T]`` int64.
            memory: Memory of the same B streams, of any length M, from :meth:`empty_memory` or the previous call.

        Returns:
            Logits of the next words ``[B, T, V]``, and the detached memory of the last M words.

        Raises:
            ValueError: If the memory is not ``[layers, B, M, D]``.
        """
        batch, length = tokens.shape
        remembered = memory.states.shape[2] if memory.states.dim() == 4 else 0
        if memory.states.shape != (self.layers, batch, remembered, self.width):
            raise ValueError(
                f"expected a memory [{self.layers}, {batch}, M, {self.width}], got {list(memory.states.shape)}"
            )
        words = self.dropout(self.embedding(tokens))
        segment = self._segment(memory, length, words)
        features = self.dropout(self.decoder(words, segment))
        inputs = torch.stack([segment.inputs[number] for number in range(self.layers)]).to(memory.states.dtype)
        states = torch.cat([memory.states, inputs], dim=2)[:, :, length:]
        return functional.linear(features, self.softmax.weight), Memory(
            states.detach(), (memory.count + length).clamp(max=remembered)
        )

    def advance(self, tokens: Tensor) -> Tensor:
        """Process the next training segment ``[B, T]``, update the memory and return logits ``[B, T, V]``.

        Raises:
            ValueError: If B differs from ``batch``.
        """
        logits, memory = self(tokens, Memory(self.memory, self.memory_count))
        self.memory.copy_(memory.states)
        self.memory_count.copy_(memory.count)
        return logits

    def forget(self) -> None:
        """Clear the memory of the training streams."""
        self.memory.zero_()
        self.memory_count.zero_()

    def empty_memory(self, batch: int, length: int) -> Memory:
        """Return an empty memory for up to ``length`` words."""
        states = self.memory.new_zeros(self.layers, batch, length, self.width)
        return Memory(states, torch.zeros_like(self.memory_count))

    def _segment(self, memory: Memory, length: int, words: Tensor) -> Segment:
        remembered = memory.states.shape[2]
        keys = torch.arange(remembered + length, device=words.device)
        queries = keys[remembered:, None]
        distances = keys.flip(0) if self.clamp_length is None else keys.flip(0).clamp(max=self.clamp_length)
        encoded = sinusoids(distances, self.width).to(words.dtype)
        return Segment(
            memory=memory.states.detach(),
            distances=functional.pad(self.dropout(encoded), (0, 0, 1, 0)),
            hidden=(keys > queries) | (keys < remembered - memory.count),
        )
