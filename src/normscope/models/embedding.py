"""Word embeddings, as a transformer reads them and as it ties them to its softmax."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

PAD = 0
"""The word that fills a row up to the length of its batch, where there is such a word."""


class Embedding(nn.Module):
    r"""Look words up, scale them by the root of the width, and add positions.

    .. math:: y_t = \sqrt{D}\, E_{w_t} + p_t, \qquad E_{ij} \sim \mathcal{N}(0, 1 / D)

    Args:
        vocabulary: Number of words.
        width: Features a word.
        padding: The word that stands for no word: its row begins as zeros and looking it up gives it no gradient.

    References:
        Vaswani et al. (2017). Attention is all you need. arXiv:1706.03762, section 3.4.
        Departs from it in: nothing; the first weights, which it leaves open, are fairseq's.
    """

    def __init__(self, vocabulary: int, width: int, *, padding: int | None = None) -> None:
        super().__init__()
        self.padding = padding
        self.scale = math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(vocabulary, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the first weights anew, in place."""
        nn.init.normal_(self.weight, std=1 / self.scale)
        if self.padding is not None:
            nn.init.zeros_(self.weight[self.padding])

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Map words ``[B, T]`` int64 and positions ``[T, D]`` to ``[B, T, D]``."""
        words = functional.embedding(tokens, self.weight, self.padding)
        return words * self.scale if positions is None else torch.add(positions, words, alpha=self.scale)
