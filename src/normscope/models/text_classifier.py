"""A transformer encoder that sorts texts into classes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from normscope.models.attention import Attention, Context, padding_mask
from normscope.models.layers import PAD, Embedding, FeedForward, Linear, sinusoids


class TextClassifier(nn.Module):
    """Embeddings with sinusoidal positions, an encoder stack, the mean over the words, a linear head.

    Args:
        vocabulary: Number of words, the pad included.
        width: Of the residual stream.
        heads: Of every attention branch.
        feed_forward: Hidden width of every feed-forward branch.
        layers: Number of encoder layers.
        classes: Number of logits.
        dropout: Rate on embeddings, attention weights, activations and the output of every branch.
        max_length: Longest text, in words.
        stack: Makes the residual stream from (branches, width): where norms stand in it is the caller's choice.

    Raises:
        ValueError: If the heads do not divide the width, the width is odd, or the rate is not from 0 to 1.

    References:
        Vaswani et al. (2017). Attention is all you need. arXiv:1706.03762, the encoder of section 3.
        Departs from it in: the mean over words and the head, which are our choice.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        heads: int,
        feed_forward: int,
        layers: int,
        classes: int,
        dropout: float,
        max_length: int,
        stack: Callable[[Sequence[tuple[str, nn.Module]], int], nn.Module],
    ) -> None:
        super().__init__()
        self.embedding = Embedding(vocabulary, width, padding=PAD)
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(torch.arange(max_length), width), persistent=False)
        self.dropout = nn.Dropout(dropout)
        branches: list[tuple[str, nn.Module]] = []
        for _ in range(layers):
            branches += [
                ("attention", Attention(width, heads, attention_dropout=dropout, dropout=dropout)),
                ("feed_forward", FeedForward(width, feed_forward, activation_dropout=dropout, dropout=dropout)),
            ]
        self.encoder = stack(branches, width)
        self.head = Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map texts ``[B, T]`` int64, 0 where there is no word, to logits ``[B, classes]``.

        A text without any word has the features 0, so its logits are the head's bias.

        Raises:
            ValueError: If the texts are longer than ``max_length``.
        """
        if tokens.shape[1] > len(self.positions):
            raise ValueError(f"texts may have {len(self.positions)} words, got {tokens.shape[1]}")
        keep = tokens != PAD
        x = self.dropout(self.embedding(tokens, self.positions[: tokens.shape[1]]))
        x = self.encoder(x, Context(mask=padding_mask(keep)))
        words = keep.to(x.dtype)
        share = words / words.sum(dim=1, keepdim=True).clamp(min=1)  # [B, T]
        return self.head(torch.bmm(share[:, None], x)[:, 0])
