"""Classifiers: plain and residual MLPs, a convolutional network, a text encoder, and the classifier of a parser."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from normscope.models.attention import Attention, Context, padding_mask
from normscope.models.layers import PAD, Embedding, FeedForward, Linear, sinusoids


class MLP(nn.Module):
    r"""Linear maps with a norm and a ReLU on every hidden layer, and none on the logits.

    .. math:: h^{l+1} = \mathrm{relu}(N(W^l h^l + b^l))

    Args:
        widths: Input, hidden and output widths, at least two.
        norm: Factory of the norms of the hidden layers, from the width.

    Raises:
        ValueError: If fewer than two widths are given.

    References:
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, eq. (5) and section 6.6.
        Departs from it in: the linear maps keep their biases, so that they have the same parameters with every norm.
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
    """A linear stem, residual blocks of two-layer branches, and a linear head.

    Args:
        inputs: Width of the input.
        width: Width of the residual stream.
        depth: Number of blocks.
        classes: Number of logits.
        stack: Builds the residual stream, with its norms, from (kind, branch) pairs and the width.
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


class ConvNet(nn.Module):
    """Convolutions of 3 x 3, each with norm and ReLU; max pooling by two after all but the last; a linear head.

    The ReLU is omitted after norms that include an activation (``brings_activation``).

    Norms act on channels-last feature maps, ``[B, H, W, C]``: layer norms over the channels of a position or, with
    ``whole_layers``, over all units of the layer, batch normalization over batch and positions, filter response
    normalization over positions.

    Args:
        channels: Channels of the input and of every convolution.
        size: Height and width of the input, divisible by ``2 ** (number of poolings)``.
        classes: Number of logits.
        norm: Factory of the norms, from the number of channels or, with ``whole_layers``, from ``(H, W, C)``.
        whole_layers: Whether norms whose statistics are over features are over all units of a layer, each of which
            has a weight and a bias of its own.

    Raises:
        ValueError: If the size is not divisible.

    References:
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, sections 3 and 6.7, for ``whole_layers``.
        Departs from it in: the architecture, which the paper does not print.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        size: int,
        classes: int,
        norm: Callable[[Any], nn.Module],
        whole_layers: bool = False,
    ) -> None:
        super().__init__()
        halvings = len(channels) - 2
        if size % 2**halvings:
            raise ValueError(f"an image of {size} x {size} cannot be halved {halvings} times")
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))
        self.norms = nn.ModuleList(norm(width) for width in channels[1:])
        for number, made in enumerate(self.norms if whole_layers else ()):
            if getattr(getattr(made, "traits", None), "statistics", None) == "features":
                side = size // 2**number
                self.norms[number] = norm((side, side, channels[number + 1]))
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(channels[-1] * (size // 2**halvings) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[B, C, H, W]`` to logits ``[B, classes]``."""
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True), start=1):
            maps = convolution(x).permute(0, 2, 3, 1)  # [B, H, W, C]
            maps = norm(maps) if getattr(norm, "brings_activation", False) else norm(maps).relu()
            x = maps.permute(0, 3, 1, 2)  # [B, C, H, W]
            if number < len(self.norms):
                x = self.pool(x)
        return self.head(x.flatten(1))


class TextClassifier(nn.Module):
    """A text encoder: embeddings with sinusoidal positions, an encoder stack, the mean over words, a linear head.

    Args:
        vocabulary: Number of words, padding included.
        width: Width of the residual stream.
        heads: Number of attention heads.
        feed_forward: Hidden width of the feed-forward branches.
        layers: Number of encoder layers.
        classes: Number of logits.
        dropout: Dropout rate of embeddings, attention weights, activations and outputs of branches.
        max_length: Maximum number of words.
        stack: Builds the residual stream, with its norms, from (kind, branch) pairs and the width.

    Raises:
        ValueError: If the heads do not divide the width, the width is odd, or the rate is not in [0, 1].

    References:
        Vaswani et al. (2017). Attention is all you need. arXiv:1706.03762, the encoder of section 3.
        Departs from it in: the mean over words, and the head.
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
        self.embedding.gain = getattr(self.encoder, "embedding_gain", 1.0)
        self.head = Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map word ids ``[B, T]`` int64, with padding 0, to logits ``[B, classes]``.

        For a text without words, the logits are the head's bias.

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


WORDS, TAGS, LABELS = 18, 18, 12
"""Numbers of features of each kind, in this order."""

EMBEDDING_STD = 0.01
"""Standard deviation of initial embeddings, far below torch's 1, so that rare words can be learned."""


class FeatureEmbedding(nn.Embedding):
    """An embedding with small initial weights."""

    def reset_parameters(self) -> None:
        """Initialize the parameters in place."""
        nn.init.normal_(self.weight, std=EMBEDDING_STD)


class FeatureMLP(nn.Module):
    r"""The classifier of a parser: concatenated embeddings of all features, two hidden layers, logits.

    .. math:: h^{l+1} = \mathrm{relu}(N(W^l h^l + b^l))

    The ReLU is omitted after norms that include an activation (``brings_activation``). Dropout follows the ReLU.

    Args:
        words: Number of words, special symbols included.
        tags: Number of tags, special symbols included.
        labels: Number of labels, special symbols included.
        transitions: Number of logits.
        width: Width of the embeddings.
        hidden: Width of both hidden layers.
        norm: Factory of the norms of the hidden layers, from the width; they act on the pre-activations.
        dropout: Dropout rate of the hidden layers.

    References:
        Xu et al. (2019). Understanding and improving layer normalization. arXiv:1911.07013: "MLP-based
            parser", 3 layers.
        Chen & Manning (2014). A fast and accurate dependency parser using neural networks, section 3.1.
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450, eq. (5), for the place of the norm.
        Departs from them in: the first gives no sizes and does not define a layer (here: a weight matrix, embeddings
        excluded); the second has one hidden layer, a cube activation and pretrained embeddings; the third has no bias
        except the norm's, while the linear maps here keep theirs, so that all norms see equal parameters.
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
