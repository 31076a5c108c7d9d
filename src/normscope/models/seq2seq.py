"""An encoder-decoder transformer with incremental decoding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from normscope.models.attention import (
    Attention,
    Context,
    CrossAttention,
    HeadNorm,
    KeysValues,
    padding_mask,
    window_mask,
)
from normscope.models.layers import PAD, Embedding, FeedForward, sinusoids

Stack = Callable[[Sequence[tuple[str, nn.Module]], int], nn.Module]
"""Builds a residual stream, with its norms, from (kind, branch) pairs and the width."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DecoderState:
    """The immutable state of incremental decoding: encoded sources and the words generated so far."""

    position: int
    """Number of generated words."""
    rows: int
    """Number of sequences being generated: one per source, or ``beam`` per source after :meth:`repeat`."""
    cache: dict[nn.Module, KeysValues]
    """Keys and values of the generated words by branch, ``[R, H, T, D / H]`` each."""
    memory_cache: dict[nn.Module, KeysValues]
    """Keys and values of the sources by branch, ``[B, H, S, D / H]`` each; shared by the rows of a source."""
    memory_mask: Tensor
    """Mask of the sources, ``[B, 1, 1, S]``, True for visible words."""

    def repeat(self, beam: int) -> "DecoderState":
        """Return the state with every row repeated ``beam`` times, copies adjacent.

        Raises:
            ValueError: If ``beam`` is below 1.
        """
        if beam < 1:
            raise ValueError(f"beam must be at least 1, got {beam}")
        cache = {
            branch: (keys.repeat_interleave(beam, 0), values.repeat_interleave(beam, 0))
            for branch, (keys, values) in self.cache.items()
        }
        return replace(self, rows=self.rows * beam, cache=cache)

    def reorder(self, indices: Tensor) -> "DecoderState":
        """Return the state of the rows ``indices``, ``[R]`` int64, with omissions and repetitions.

        If the rows of a source stay together, as in a beam search, the sources are not copied.
        """
        beam = self.rows // len(self.memory_mask)
        sentences = indices // beam
        if len(indices) % beam == 0:
            blocks = sentences.view(-1, beam)
            if bool((blocks == blocks[:, :1]).all()):
                sentences = blocks[:, 0]
        memory_cache, memory_mask = self.memory_cache, self.memory_mask
        if sentences.tolist() != list(range(len(memory_mask))):
            memory_cache = _select(memory_cache, sentences)
            memory_mask = memory_mask.index_select(0, sentences)
        return replace(
            self,
            rows=len(indices),
            cache=_select(self.cache, indices),
            memory_cache=memory_cache,
            memory_mask=memory_mask,
        )


def _select(cache: dict[nn.Module, KeysValues], rows: Tensor) -> dict[nn.Module, KeysValues]:
    return {
        branch: (keys.index_select(0, rows), values.index_select(0, rows)) for branch, (keys, values) in cache.items()
    }


class Seq2Seq(nn.Module):
    r"""An encoder-decoder transformer: an encoder stack, a decoder stack, and a softmax over the vocabulary.

    Padding (id 0) is at the end of each row. It is hidden in the source; in the target, causality hides it from all
    words before it. Outputs at padding are meaningless.

    With a window N, a position of the decoder sees N keys, itself and the N - 1 positions before it, and a decoding
    cache has N entries; the paper does not say whether N or N - 1 earlier positions are meant. With L layers the
    receptive field extends L (N - 1) positions back.

    Args:
        vocabulary: Number of words of both sides, padding included.
        width: D, the width of both residual streams.
        heads: Number of attention heads.
        feed_forward: Hidden width of the feed-forward branches.
        encoder_layers: Number of encoder layers.
        decoder_layers: Number of decoder layers.
        dropout: Dropout rate of embeddings and of the outputs of branches.
        attention_dropout: Dropout rate of attention weights.
        activation_dropout: Dropout rate after the activation of feed-forward branches.
        share_embeddings: Whether source, target and softmax share a table.
        window: Number of positions the decoder's self-attention sees, itself included; None means all earlier ones.
        qk_norm: Factory of the norms of every head's queries and keys, from the head width; None for no norm.
        max_length: Maximum number of words of a source or a target.
        encoder_stack: Builds the encoder's residual stream, with its norms, from (kind, branch) pairs and the width.
        decoder_stack: Builds the decoder's residual stream.

    Raises:
        ValueError: If the heads do not divide the width, the width is odd, a rate is not in [0, 1], or the window is
            below 1.

    References:
        Vaswani et al. (2017). Attention is all you need. arXiv:1706.03762, section 3.
        Chelba, Chen, Bapna, Shazeer (2020). Faster transformer decoding: N-gram masked self-attention.
        arXiv:2001.04589.
        Departs from them in: the softmax has no bias.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        heads: int,
        feed_forward: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        share_embeddings: bool = True,
        window: int | None = None,
        qk_norm: HeadNorm = None,
        max_length: int = 1024,
        encoder_stack: Stack,
        decoder_stack: Stack,
    ) -> None:
        super().__init__()
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, the position itself, got {window}")
        self.window = window
        self.source = Embedding(vocabulary, width, padding=PAD)
        self.target = self.source if share_embeddings else Embedding(vocabulary, width, padding=PAD)
        self.softmax = self.source if share_embeddings else Embedding(vocabulary, width)
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(torch.arange(max_length), width), persistent=False)
        self.dropout = nn.Dropout(dropout)

        def attend(kind: type[Attention | CrossAttention]) -> nn.Module:
            branch = kind(width, heads, attention_dropout=attention_dropout, dropout=dropout)
            branch.normalize(qk_norm, qk_norm, None)
            return branch

        def feed() -> nn.Module:
            return FeedForward(width, feed_forward, activation_dropout=activation_dropout, dropout=dropout)

        encoder: list[tuple[str, nn.Module]] = []
        for _ in range(encoder_layers):
            encoder += [("attention", attend(Attention)), ("feed_forward", feed())]
        self.encoder = encoder_stack(encoder, width)
        decoder: list[tuple[str, nn.Module]] = []
        for _ in range(decoder_layers):
            decoder += [
                ("attention", attend(Attention)),
                ("cross_attention", attend(CrossAttention)),
                ("feed_forward", feed()),
            ]
        self.decoder = decoder_stack(decoder, width)
        for table, stack in ((self.source, self.encoder), (self.target, self.decoder)):
            table.gain = getattr(stack, "embedding_gain", 1.0)

    def forward(self, source: Tensor, target_in: Tensor) -> Tensor:
        """Map sources ``[B, S]`` and shifted targets ``[B, T]``, int64, to logits ``[B, T, V]``.

        Raises:
            ValueError: If a side is longer than ``max_length``.
        """
        return self.logits(self.features(source, target_in))

    def features(self, source: Tensor, target_in: Tensor) -> Tensor:
        """Return the decoder's output ``[B, T, D]``, from which padding can be removed before :meth:`logits`.

        Raises:
            ValueError: If a side is longer than ``max_length``.
        """
        memory, memory_mask = self.encode(source)
        length = target_in.shape[1]
        mask = None if self.window is None else window_mask(length, self.window, target_in.device)
        context = Context(mask=mask, causal=mask is None, memory=memory, memory_mask=memory_mask)
        return self.decoder(self._embed(self.target, target_in, 0), context)

    def logits(self, features: Tensor) -> Tensor:
        """Map features ``[..., D]`` to logits ``[..., V]``."""
        return functional.linear(features, self.softmax.weight)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoder's output ``[B, S, D]`` and its mask ``[B, 1, 1, S]`` bool, True for visible positions.

        Raises:
            ValueError: If the source is longer than ``max_length``.
        """
        mask = padding_mask(source != PAD)
        return self.encoder(self._embed(self.source, source, 0), Context(mask=mask)), mask

    def start(self, source: Tensor) -> DecoderState:
        """Encode sources ``[B, S]`` int64 and return the initial decoding state. Call ``eval()`` before.

        Raises:
            ValueError: If the source is longer than ``max_length``.
        """
        memory, memory_mask = self.encode(source)
        branches = [module for module in self.decoder.modules() if isinstance(module, CrossAttention)]
        return DecoderState(
            position=0,
            rows=len(source),
            cache={},
            memory_cache={branch: branch.remember(memory) for branch in branches},
            memory_mask=memory_mask,
        )

    def step(self, state: DecoderState, tokens: Tensor) -> tuple[Tensor, DecoderState]:
        """Map the last generated words ``[R]`` int64 to logits ``[R, V]`` of the next words, and the new state.

        Raises:
            ValueError: If the number of words differs from the rows of the state, or ``max_length`` is reached.
        """
        if tokens.shape != (state.rows,):
            raise ValueError(f"the state has {state.rows} rows, so expected [{state.rows}], got {list(tokens.shape)}")
        cache = dict(state.cache)
        context = Context(
            memory_mask=state.memory_mask, memory_cache=state.memory_cache, cache=cache, window=self.window
        )
        x = self.decoder(self._embed(self.target, tokens[:, None], state.position), context)
        return self.logits(x[:, 0]), replace(state, position=state.position + 1, cache=cache)

    def _embed(self, table: Embedding, tokens: Tensor, start: int) -> Tensor:
        end = start + tokens.shape[1]
        if end > len(self.positions):
            raise ValueError(f"sequences may have {len(self.positions)} words, got {end}")
        return self.dropout(table(tokens, self.positions[start:end]))
