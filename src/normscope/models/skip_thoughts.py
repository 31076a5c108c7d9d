"""Skip-thoughts: a GRU encoder of a sentence, and two GRU decoders of the sentences before and after it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from normscope.models.kiros import KirosGRU, UniformEmbedding, UniformLinear
from normscope.models.recurrent import of_rows

END = 0
"""Number of the symbol behind the last word, and of padding."""

LENGTHS = "the vector of a sentence would depend on the other sentences of its batch"


class SkipThoughts(nn.Module):
    r"""Encoder of sentences that predicts the sentence before and the one after, word by word.

    With :math:`h` the encoder's state behind the last word, each decoder starts at :math:`h`:

    .. math::
        s_0 = h, \quad s_t = \mathrm{GRU}(E y_{t-1}, s_{t-1}), \quad p(y_t) = \mathrm{softmax}(V s_t + b), \quad
        E y_0 = 0

    Embeddings :math:`E` and output layer are shared by all three. A sentence ends with :data:`END`, which the encoder
    reads in training, too.

    Args:
        vocabulary: Number of symbols, with :data:`END`.
        features: Width of an embedding.
        width: Number of units of each GRU, and of the vector of a sentence.
        norm: Factory of the norms of the three GRUs, from the width.
        places: Places of the norms, as in :class:`normscope.GRU`.
        conditioned: Whether the decoders read :math:`h` at every step, beside the embedding, as in the paper; the
            published code gives it as the initial state only.

    Raises:
        ValueError: If the statistics of the norm are not those of a row.

    References:
        Kiros et al. (2015). Skip-thought vectors. arXiv:1506.06726, section 2.1, and its code,
            ryankiros/skip-thoughts, of which the initial weights are. Ba et al. (2016). Layer normalization.
            arXiv:1607.06450, section 6.3, eqs. 26-28.
        Departs from it in: biases as torch's GRU has them.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        features: int,
        width: int,
        norm: Callable[[int], nn.Module],
        places: str = "paper",
        conditioned: bool = False,
    ) -> None:
        super().__init__()
        self.conditioned = conditioned
        self.embedding = UniformEmbedding(vocabulary, features)

        def gru(inputs: int) -> KirosGRU:
            return KirosGRU(inputs, width, batch_first=True, norm=of_rows(norm, LENGTHS), places=places)

        self.encoder = gru(features)
        self.before, self.after = (gru(features + width if conditioned else features) for _ in range(2))
        self.logits = UniformLinear(width, vocabulary)

    def encode(self, words: Tensor, lengths: Tensor) -> Tensor:
        """Compute the vectors of sentences.

        Args:
            words: ``[B, T]`` int64, padded behind the end; padding has no effect.
            lengths: Number of symbols of each, ``[B]`` int64, at least 1.

        Returns:
            ``[B, width]``.
        """
        states = self.encoder(self.embedding(words))[0]
        return states[torch.arange(len(words), device=words.device), lengths - 1]

    def decoder(self, side: str) -> KirosGRU:
        """Return the decoder of a side.

        Raises:
            ValueError: If ``side`` is neither ``before`` nor ``after``.
        """
        if side not in ("before", "after"):
            raise ValueError(f"side must be before or after, got {side!r}")
        return self.before if side == "before" else self.after

    def nats(self, vectors: Tensor, side: str, words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the negative log-likelihood of every word of neighboring sentences, the words before it given.

        Args:
            vectors: Vectors of the sentences in the middle, ``[B, width]``.
            side: ``before`` or ``after``.
            words: The neighboring sentences, ``[B, T]`` int64, each with its :data:`END`.
            lengths: Number of symbols of each, with the end, ``[B]`` int64 on the CPU.

        Returns:
            Nats of all symbols, ``[N]`` with N the sum of the lengths, and the sentence of each, ``[N]`` int64.
        """
        inputs = F.pad(self.embedding(words[:, :-1]), (0, 0, 1, 0))
        if self.conditioned:
            inputs = torch.cat([inputs, vectors[:, None].expand(-1, inputs.shape[1], -1)], -1)
        packed = _pack(inputs, lengths)
        states = self.decoder(side)(packed, vectors[None])[0].data
        numbers = torch.arange(len(words), device=words.device)[:, None].expand_as(words)
        targets = _pack(words, lengths).data
        logits = self.logits(states)
        # Nats of bfloat16 would have two digits.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, targets, reduction="none"), _pack(numbers, lengths).data

    def next_words(self, vectors: Tensor, side: str, words: Tensor | None, states: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logits of the next word of each neighboring sentence, one step of its decoder.

        Args:
            vectors: Vectors of the sentences in the middle, ``[B, width]``.
            side: ``before`` or ``after``.
            words: The words before, ``[B]`` int64; None at the start of the sentences.
            states: States of the decoder, ``[B, width]``; at the start, the vectors.

        Returns:
            Logits ``[B, vocabulary]``, and the states behind the words.
        """
        shape = len(vectors), self.embedding.embedding_dim
        inputs = vectors.new_zeros(shape) if words is None else self.embedding(words)
        if self.conditioned:
            inputs = torch.cat([inputs, vectors], -1)
        states = self.decoder(side)(inputs[:, None], states[None])[1][0]
        return self.logits(states), states

    def word_means(self, words: Tensor, lengths: Tensor) -> Tensor:
        """Compute the mean of the embeddings of each sentence: the bag of its words, ``[B, features]``.

        Args:
            words: ``[B, T]`` int64, padded behind the end.
            lengths: Number of symbols of each, ``[B]`` int64.
        """
        there = torch.arange(words.shape[1], device=words.device) < lengths[:, None]
        return (self.embedding(words) * there[..., None]).sum(1) / lengths[:, None]


def _pack(padded: Tensor, lengths: Tensor) -> PackedSequence:
    return pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
