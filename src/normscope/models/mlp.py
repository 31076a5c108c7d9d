"""A perceptron over embedded discrete features: the classifier of a transition-based dependency parser."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    r"""Linear maps with a norm and a ReLU on every hidden layer, and none on the logits.

    .. math:: h^{l+1} = \mathrm{relu}(N(W^l h^l + b^l))

    Args:
        widths: Input, hidden and output widths, at least two.
        norm: Makes the norm of a hidden layer from its width.

    Raises:
        ValueError: If fewer than two widths are given.

    References:
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, eq. (5) and section 6.6.
        Departs from it in: the linear maps keep a bias of their own, so that every norm has the same weights.
    """

    def __init__(self, widths: Sequence[int], norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"widths must hold an input and an output width, got {list(widths)}")
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths[:-1]))
        self.norms = nn.ModuleList(norm(width) for width in widths[1:-1])
        self.logits = nn.Linear(widths[-2], widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``[B, D]`` to logits ``[B, classes]``."""
        for linear, norm in zip(self.hidden, self.norms, strict=True):
            x = norm(linear(x)).relu()
        return self.logits(x)


class ResidualMLP(nn.Module):
    """A linear stem, residual blocks with two-layer branches, a linear head.

    Args:
        inputs: Width of the input.
        width: Width of the residual stream.
        depth: Number of blocks.
        classes: Number of logits.
        stack: Builds the residual stream from (kind, branch) pairs and the width: where norms stand is its choice.
    """

    def __init__(
        self,
        *,
        inputs: int,
        width: int,
        depth: int,
        classes: int,
        stack: Callable[[Sequence[tuple[str, nn.Module]], int], nn.Module],
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, width)
        self.stack = stack([("feed_forward", _branch(width)) for _ in range(depth)], width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``[B, D]`` to logits ``[B, classes]``."""
        return self.head(self.stack(self.stem(x)))


def _branch(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


WORDS, TAGS, LABELS = 18, 18, 12
"""How many features of each kind there are, in this order."""


EMBEDDING_STD = 0.01
"""Far below torch's 1: a word of a few occurrences must be able to leave its random beginning behind."""


class FeatureEmbedding(nn.Embedding):
    """torch's embedding, begun near zero."""

    def reset_parameters(self) -> None:
        """Draw the first weights anew, in place."""
        nn.init.normal_(self.weight, std=EMBEDDING_STD)


class FeatureMLP(nn.Module):
    r"""Embeddings of all features beside each other, two hidden layers, logits: three layers of weights.

    .. math:: h^{l+1} = \mathrm{relu}(N(W^l h^l + b^l))

    The ReLU is left out after a norm that ``brings_activation`` of its own. Dropout acts on the hidden
    layers, behind the ReLU.

    Args:
        words: Size of the vocabulary of words, symbols included.
        tags: Size of the vocabulary of tags.
        labels: Size of the vocabulary of labels.
        transitions: Number of logits.
        width: Width of every embedding.
        hidden: Width of both hidden layers.
        norm: Makes the norm of a hidden layer from its width; it stands on the summed inputs.
        dropout: Share of hidden units that are zeroed in training.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013: "MLP-based
            parser", 3 layers.
        Chen & Manning (2014). A fast and accurate dependency parser using neural networks, section 3.1.
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, eq. (5), for the place of the norm.
        Departs from them in: the first prints no sizes, so that what counts as a layer is our choice (a matrix of
        weights, the embeddings aside), as are the sizes; the second has one hidden layer, cubes in place of the ReLU,
        and pretrained embeddings; the third has no bias but the norm's, while here the linear maps keep theirs, so that
        every norm has the same weights.
    """

    def __init__(
        self,
        *,
        words: int,
        tags: int,
        labels: int,
        transitions: int,
        width: int = 50,
        hidden: int = 200,
        norm: Callable[[int], nn.Module],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.words = FeatureEmbedding(words, width)
        self.tags = FeatureEmbedding(tags, width)
        self.labels = FeatureEmbedding(labels, width)
        self.hidden = nn.ModuleList(
            nn.Linear(a, b) for a, b in pairwise([(WORDS + TAGS + LABELS) * width, hidden, hidden])
        )
        self.norms = nn.ModuleList(norm(hidden) for _ in self.hidden)
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(hidden, transitions)

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``[B, 48]``, any integer dtype, to logits ``[B, transitions]``.

        Raises:
            ValueError: If there are not 48 features.
        """
        if features.dim() != 2 or features.shape[1] != WORDS + TAGS + LABELS:
            raise ValueError(f"features must be [B, {WORDS + TAGS + LABELS}], got {list(features.shape)}")
        words, tags, labels = features.int().split([WORDS, TAGS, LABELS], dim=1)
        x = torch.cat([self.words(words), self.tags(tags), self.labels(labels)], dim=1).flatten(1)
        for linear, norm in zip(self.hidden, self.norms, strict=True):
            x = norm(linear(x))
            x = self.dropout(x if getattr(norm, "brings_activation", False) else x.relu())
        return self.logits(x)
