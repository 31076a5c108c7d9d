"""The attentive reader: reads a question, attends to a passage, and names the missing word."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from normscope.recurrent import LSTM, Places

PADDING = 0
"""Symbol of padding."""


@dataclass(frozen=True, kw_only=True)
class ReaderStart:
    """How the parameters of a reader are drawn in the code of Cooijmans et al., with a scale.

    The weights of an LSTM's gates, W_d and B are a random orthogonal matrix times the scale, embeddings are uniform
    within 0.19 times the scale, other matrices uniform as Glorot's, biases zero.
    """

    scale: float
    """The factor; 0.05 in the code, where embeddings are within 0.0095."""
    equal_gates: bool = False
    """Whether all gates and both products of an LSTM start with one matrix, as in the code, whose generator is seeded
    again before every draw."""


class AttentiveReader(nn.Module):
    r"""Unidirectional attentive reader.

    With d_t the output of an LSTM over the passage at its word t, and q the last output of another over the query:

    .. math::
        e_t &= v \cdot \tanh(W_d d_t + b_d + W_q q + (B d_t) \cdot (B q)), \quad \alpha = \mathrm{softmax}(e) \\
        g &= \tanh(U_r \textstyle\sum_t \alpha_t d_t + U_q q + b_q + U_m \tfrac{1}{T} \sum_t d_t) \\
        p &= \mathrm{softmax}(W g + b)

    Padding, symbol 0, stands on the right and is not read. Passage and query share their embeddings. Where a single row
    of a batch is the longest, its last words are cut off in training, as batch norm has no moments of one row.

    Args:
        vocabulary: Number of symbols.
        width: Features of an embedding.
        units: Number of units of each LSTM.
        joint: Width of g.
        norm: Factory of the norms in the LSTMs, from the width.
        steps: Lengths of passages and of queries, at every step of which batch norm has moments.
        places: Where the norms stand in the LSTMs.
        everywhere: Whether norms stand behind W_d, W_q, U_r, U_q and U_m, too.
        dropout: Probability of a zero in an embedding and in g, in training.
        start: How parameters are drawn; None for torch's ways, forget gates with a bias of 1, and normal embeddings
            with a standard deviation of 0.1.
        vectors: Vectors of the symbols, ``[vocabulary, width]``, from which embeddings and the rows of W start if they
            are not zero and ``joint`` is ``width``, with a standard deviation of 0.15; not used with ``start``.

    Raises:
        ValueError: If the norm is neither one of rows nor batch norm.

    References:
        Hermann et al. (2015). Teaching machines to read and comprehend. arXiv:1506.03340, section 3.2. B, the mean and
            norms everywhere: the code of Cooijmans et al. (2016), arXiv:1603.09025, section 5.4, which is that of Ba et
            al. (2016), section 6.2.
        Departs from it in: p may be over given candidates alone.

    Example:
        >>> import torch
        >>> from normscope import LayerNorm
        >>> from normscope.models import AttentiveReader
        >>> reader = AttentiveReader(vocabulary=9, width=4, units=4, joint=4, norm=LayerNorm, steps=(5, 3))
        >>> passage, query = torch.tensor([[5, 6, 7, 8, 0]]), torch.tensor([[6, 2, 8]])
        >>> reader(passage, query).shape, reader(passage, query, torch.tensor([[5, 7]])).shape
        (torch.Size([1, 9]), torch.Size([1, 2]))
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        units: int,
        joint: int,
        norm: Callable[[int], nn.Module],
        steps: tuple[int, int],
        places: str | Places = "paper",
        everywhere: bool = False,
        dropout: float = 0.0,
        start: ReaderStart | None = None,
        vectors: Tensor | None = None,
    ) -> None:
        super().__init__()
        if vectors is not None:
            vectors = vectors * (0.15 * width**0.5)

        def linear(inputs: int, outputs: int, *, bias: bool = False, **given: Any) -> nn.Module:
            layer = _Linear(inputs, outputs, bias=bias)
            layer.begin(start, **given)
            return layer

        def behind(width: int) -> nn.Module:
            return norm(width) if everywhere else nn.Identity()

        def lstm(length: int) -> LSTM:
            layer = _LSTM(
                width,
                units,
                batch_first=True,
                norm=norm,
                places=places,
                forget_bias=1.0 if start is None else None,
                batch_norm_steps=length,
            )
            layer.begin(start)
            return layer

        self.embedding = _Embedding(vocabulary, width, padding_idx=PADDING)
        self.embedding.begin(start, vectors)
        self.passage, self.query = (lstm(length) for length in steps)
        self.attend_passage = nn.Sequential(linear(units, units, bias=True, scaled=True), behind(units))
        self.attend_query = nn.Sequential(linear(units, units), behind(units))
        self.attend_both = linear(units, units, scaled=True)
        self.attend = linear(units, 1)
        self.join_read = nn.Sequential(linear(units, joint), behind(joint))
        self.join_query = nn.Sequential(linear(units, joint, bias=True), behind(joint))
        self.join_mean = nn.Sequential(linear(units, joint), behind(joint))
        self.logits = linear(joint, vocabulary, bias=True, vectors=vectors if joint == width else None)
        self.dropout = nn.Dropout(dropout)

    def forward(self, passage: Tensor, query: Tensor, candidates: Tensor | None = None) -> Tensor:
        """Map passages and queries to logits.

        Args:
            passage: Symbols, ``[B, T]`` int64, the first of a row not padding.
            query: Symbols, ``[B, L]`` int64, likewise.
            candidates: Symbols, ``[B, K]`` int64, to which the answer is restricted.

        Returns:
            ``[B, K]``, or ``[B, vocabulary]`` without candidates.
        """
        read, _, filled = self._read(self.passage, passage)
        _, asked, _ = self._read(self.query, query)
        both = self.attend_both(read) @ self.attend_both(asked)[..., None]
        hidden = torch.tanh(self.attend_passage(read) + self.attend_query(asked)[:, None] + both)
        weights = self.attend(hidden)[..., 0].masked_fill(~filled, -math.inf).softmax(-1)
        mean = filled / filled.sum(-1, keepdim=True)
        seen, average = (torch.stack([weights, mean.to(weights.dtype)], 1) @ read).unbind(1)
        joint = self.dropout(torch.tanh(self.join_read(seen) + self.join_query(asked) + self.join_mean(average)))
        if candidates is None:
            return self.logits(joint)
        rows = F.embedding(candidates, self.logits.weight)  # pyright: ignore[reportArgumentType]
        return (rows @ joint[..., None])[..., 0] + self.logits.bias[candidates]  # pyright: ignore

    def first_preactivations(self, passage: Tensor) -> Tensor:
        """Return what the gates add up at the first word of every passage, before norms and biases: ``[B, 4 units]``.

        The state before it is zero, so this is W_x x alone.
        """
        layer: Any = self.passage
        return F.linear(self.embedding(passage[:, 0]), layer.weight_ih_l0)

    def _read(self, layer: LSTM, symbols: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs ``[B, T, units]``, the last one ``[B, units]``, and where there are words, ``[B, T]``."""
        lengths = (symbols != PADDING).sum(1)
        if self.training and len(lengths) > 1:
            lengths = lengths.clamp(max=int(lengths.topk(2)[0][1]))
        symbols = symbols[:, : int(lengths.max())]
        words = self.dropout(self.embedding(symbols))
        output, (last, _) = layer(pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False))
        filled = torch.arange(symbols.shape[1], device=symbols.device) < lengths[:, None]
        return pad_packed_sequence(output, batch_first=True)[0], last[0], filled


def _copy_rows(vectors: Tensor | None, weight: Tensor) -> None:
    """Copy the rows that are not zero."""
    if vectors is not None:
        with torch.no_grad():
            given = vectors.any(1)
            weight[given] = vectors[given].to(weight)


class _Linear(nn.Linear):
    def begin(self, start: ReaderStart | None, *, scaled: bool = False, vectors: Tensor | None = None) -> None:
        self.start, self.scaled, self.vectors = start, scaled, vectors
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if (start := getattr(self, "start", None)) is not None:
            if self.scaled:
                nn.init.orthogonal_(self.weight, start.scale)
            else:
                nn.init.xavier_uniform_(self.weight)
            if self.bias is not None:
                nn.init.zeros_(self.bias)
        else:
            _copy_rows(getattr(self, "vectors", None), self.weight)


class _Embedding(nn.Embedding):
    def begin(self, start: ReaderStart | None, vectors: Tensor | None) -> None:
        self.start, self.vectors = start, vectors
        self.reset_parameters()

    def reset_parameters(self) -> None:
        start = getattr(self, "start", None)
        if start is None:
            nn.init.normal_(self.weight, std=0.1)
            _copy_rows(getattr(self, "vectors", None), self.weight)
        else:
            nn.init.uniform_(self.weight, -0.19 * start.scale, 0.19 * start.scale)
        with torch.no_grad():
            self.weight[PADDING] = 0


class _LSTM(LSTM):
    def begin(self, start: ReaderStart | None) -> None:
        self.start = start
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if (start := getattr(self, "start", None)) is not None:
            layer: Any = self
            gates = [*layer.weight_ih_l0.chunk(4), *layer.weight_hh_l0.chunk(4)]
            with torch.no_grad():
                for gate in gates:
                    nn.init.orthogonal_(gate, start.scale)
                    if start.equal_gates:
                        gate.copy_(gates[0] if gate.shape == gates[0].shape else gates[4])
            nn.init.zeros_(layer.bias_ih_l0)
            nn.init.zeros_(layer.bias_hh_l0)
