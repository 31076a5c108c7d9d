"""Order embeddings: sentences and images in one space, compared by an order or by the cosine."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from normscope.models.kiros import KirosGRU, UniformEmbedding
from normscope.models.recurrent import of_rows

Similarity = Literal["order", "cosine"]

LENGTHS = "the last steps are those of a single sentence, as sentences differ in length"

_NUMBERS_AT_ONCE = 2**19


class _Images(nn.Linear):
    def reset_parameters(self) -> None:
        """Draw the matrix after Glorot and Bengio (2010), and set the bias to 0."""
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)


class OrderEmbedding(nn.Module):
    r"""A GRU over the words of a sentence, and a linear map of the features of an image, both of unit norm.

    .. math::
        f_s(x) = \lvert \mathrm{GRU}(x)_T / \lVert \mathrm{GRU}(x)_T \rVert \rvert, \quad
        f_i(y) = \lvert (W y + b) / \lVert W y + b \rVert \rvert

    The absolute values belong to the order, and are left out for the cosine.

    Args:
        vocabulary: Number of words.
        word_width: Features of a word's embedding.
        image_width: Features of an image.
        width: Number of units of the GRU, and features of the common space.
        similarity: ``order`` or ``cosine``.
        norm: Factory of the norms of the GRU, from the width.
        places: Where they stand, see :class:`normscope.GRU`.

    Raises:
        ValueError: If the statistics of the norm are not those of a row, or the places are unknown.

    References:
        Vendrov et al. (2016). Order-embeddings of images and language. arXiv:1511.06361, section 4.2, and its code.
        Ba et al. (2016). Layer normalization. arXiv:1607.06450, section 6.1, for the norms.
        Departs from it in: the GRU has torch's two biases, of which the candidate's recurrent one is reset.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        word_width: int,
        image_width: int,
        width: int,
        similarity: Similarity,
        norm: Callable[[int], nn.Module],
        places: str = "paper",
    ) -> None:
        super().__init__()
        self.similarity: Similarity = similarity
        self.words = UniformEmbedding(vocabulary, word_width)
        self.encoder = KirosGRU(word_width, width, batch_first=True, norm=of_rows(norm, LENGTHS), places=places)
        self.images = _Images(image_width, width)

    def forward(self, tokens: Tensor, lengths: Tensor, features: Tensor) -> Tensor:
        """Compute the errors of every pair of a sentence and an image.

        Args:
            tokens: ``[S, T]`` int64, padded at the end.
            lengths: Number of words of each sentence, ``[S]`` int64 on the CPU.
            features: ``[I, image_width]``.

        Returns:
            ``[S, I]``: small where the image fits the sentence.
        """
        return self.errors(self.sentences(tokens, lengths), self.embedded(features))

    def sentences(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Map sentences to the common space, ``[S, width]``: the state of the GRU after their last words."""
        packed = pack_padded_sequence(self.words(tokens), lengths, batch_first=True, enforce_sorted=False)
        return self._normalized(self.encoder(packed)[1][0])

    def embedded(self, features: Tensor) -> Tensor:
        """Map features of images to the common space, ``[I, width]``."""
        return self._normalized(self.images(features))

    def errors(self, sentences: Tensor, images: Tensor) -> Tensor:
        """Compute the errors ``[S, I]``: order violations, or the negative cosine."""
        return order_violations(sentences, images) if self.similarity == "order" else -sentences @ images.T

    def _normalized(self, x: Tensor) -> Tensor:
        # bfloat16 has too few digits for differences of vectors of unit norm.
        x = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
        return x.abs() if self.similarity == "order" else x


def order_violations(sentences: Tensor, images: Tensor) -> Tensor:
    r"""Compute :math:`E_{si} = \lVert \max(0, s - i) \rVert^2` of every pair.

    A sentence is more general than its image, so it should be below it in every coordinate.

    Args:
        sentences: ``[S, D]``.
        images: ``[I, D]``.

    Returns:
        ``[S, I]``.

    References:
        Vendrov et al. (2016), arXiv:1511.06361, eq. 2.
    """
    # Parts that stay in the cache of a processor: the tensor [S, I, D] would be three times as slow.
    parts = sentences.split(max(1, _NUMBERS_AT_ONCE // images.numel()))
    return torch.cat([(part[:, None] - images).relu().square().sum(-1) for part in parts])


def contrastive_loss(errors: Tensor, margin: float) -> Tensor:
    r"""Sum the hinge losses of all contrastive pairs, both ways.

    .. math::
        \sum_{s \ne i} \max(0, \alpha - E_{si} + E_{ss}) + \max(0, \alpha - E_{si} + E_{ii})

    Args:
        errors: ``[B, B]`` of B sentences and their images in the same order, such as of :func:`order_violations`.
        margin: :math:`\alpha`.

    Returns:
        A scalar.

    References:
        Vendrov et al. (2016), arXiv:1511.06361, eq. 5, with E as the negative of their similarity.
    """
    own = errors.diagonal()
    both = (margin - errors + own[:, None]).relu() + (margin - errors + own).relu()
    return both.sum() - both.diagonal().sum()
