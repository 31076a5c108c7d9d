"""Layers of transformers: linear maps, embeddings, positions and feed-forward branches."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    """A linear map with Xavier-uniform initial weights times ``gain``, and zero initial bias.

    Args:
        inputs: Width of the input.
        outputs: Width of the output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        # torch's constructor calls reset_parameters, which needs the factor.
        self.gain = 1.0
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        """Initialize the parameters in place."""
        nn.init.xavier_uniform_(self.weight, gain=self.gain)
        nn.init.zeros_(self.bias)


class Projection(nn.Linear):
    """Several square linear maps of the same input in a single matrix product, as for queries, keys and values.

    Each part is initialized as a square Xavier-uniform matrix, U(+-sqrt(6 / 2D)), not as a slice of one tall matrix,
    whose variance would be half as large for three parts. ``gain`` multiplies the part ``value`` only; without such a
    part there is no ``gain``.

    Args:
        width: Width of the input and of every part.
        parts: Names of the parts in order, such as ``("query", "key", "value")``.
        bias: Whether there is a bias, initialized to zero.
    """

    def __init__(self, width: int, parts: tuple[str, ...], *, bias: bool = True) -> None:
        self.parts = parts
        if "value" in parts:
            self.gain = 1.0
        super().__init__(width, len(parts) * width, bias=bias)

    def reset_parameters(self) -> None:
        """Initialize the parameters in place, part by part."""
        for part, weight in zip(self.parts, self.weight.chunk(len(self.parts)), strict=True):
            nn.init.xavier_uniform_(weight, gain=self.gain if part == "value" else 1.0)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


PAD = 0
"""Id of the padding."""


class Embedding(nn.Module):
    r"""Embeddings scaled by the square root of the width, plus positions.

    .. math:: y_t = \sqrt{D}\, E_{w_t} + p_t, \qquad E_{ij} \sim \mathcal{N}(0, 1 / D)

    The initial weights are multiplied by ``gain``, 1 unless a placement asks for another factor.

    Args:
        vocabulary: Number of words.
        width: Features per word.
        padding: Id of the padding: its row is initialized to zero and receives no gradient.

    References:
        Vaswani et al. (2017). Attention is all you need. arXiv:1706.03762, section 3.4.
        Departs from it in: nothing; the initialization, which it does not specify, is that of fairseq.
    """

    def __init__(self, vocabulary: int, width: int, *, padding: int | None = None) -> None:
        super().__init__()
        self.padding = padding
        self.scale = math.sqrt(width)
        self.gain = 1.0
        self.weight = nn.Parameter(torch.empty(vocabulary, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the parameters in place."""
        nn.init.normal_(self.weight, std=self.gain / self.scale)
        if self.padding is not None:
            nn.init.zeros_(self.weight[self.padding])

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Map words ``[B, T]`` int64 and positions ``[T, D]`` to ``[B, T, D]``."""
        words = functional.embedding(tokens, self.weight, self.padding)
        return words * self.scale if positions is None else torch.add(positions, words, alpha=self.scale)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    r"""Encode positions or distances by sines and cosines with geometrically spaced wavelengths.

    .. math::
        p_{t, 2i} = \sin(t / 10000^{2i / D}), \qquad p_{t, 2i + 1} = \cos(t / 10000^{2i / D})

    Args:
        positions: ``[T]``, any dtype; the angles are computed in float64 for precision in long texts.
        width: D, an even number.

    Returns:
        ``[T, D]`` in torch's default dtype.

    Raises:
        ValueError: If the width is odd.

    References:
        Vaswani et al. (2017). Attention is all you need. arXiv:1706.03762, section 3.5.
        Departs from it in: nothing.
    """
    if width % 2:
        raise ValueError(f"sinusoids need an even width, got {width}")
    exponents = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) / width
    angles = positions.double()[:, None] * 10000.0**-exponents  # [T, D / 2]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(torch.get_default_dtype())


def relative_shift(scores: Tensor) -> Tensor:
    r"""Convert scores by distance to scores by key, without a copy.

    The T queries are the last of K positions, so query t has the distance :math:`d = t + K - T - k` from key k:

    .. math:: y_{t, k} = x_{t, K - d} \qquad (d \ge 0)

    Args:
        scores: ``[..., T, K + 1]``, contiguous; column 0 is arbitrary, column ``K - d`` is the score at distance d.

    Returns:
        ``[..., T, K]``, a view. Entries of keys after the query (d < 0) are meaningless and must be masked.

    References:
        Dai et al. (2019). Transformer-XL: attentive language models beyond a fixed-length context. arXiv:1901.02860,
        appendix B. Departs from it in: the padding column is part of the matrix product before it, which saves a copy.
    """
    length, columns = scores.shape[-2:]
    return scores.flatten(-2)[..., length:].unflatten(-1, (length, columns - 1))


ACTIVATIONS = {"relu": functional.relu, "gelu": functional.gelu}
"""Activations of :class:`FeedForward`."""


class FeedForward(nn.Module):
    r"""Two linear maps with an activation between them.

    .. math:: f(x) = W_2\, \phi(W_1 x + b_1) + b_2

    Args:
        width: Width of the residual stream.
        hidden: Width between the two maps.
        activation: ``"relu"`` or ``"gelu"``.
        activation_dropout: Dropout rate after the activation.
        dropout: Dropout rate of the output.

    Raises:
        ValueError: If the activation is unknown or a rate is not in [0, 1].

    References:
        Vaswani et al. (2017). Attention is all you need. arXiv:1706.03762, eq. (2).
        Departs from it in: optional dropout after the activation.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: Literal["relu", "gelu"] = "relu",
        activation_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.activation = activation
        self.inner = Linear(width, hidden)
        self.activation_dropout = nn.Dropout(activation_dropout)
        self.outer = Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *context: object) -> Tensor:
        """Map ``[..., D]`` to ``[..., D]``, independently for every position; the context is ignored."""
        hidden = self.activation_dropout(ACTIVATIONS[self.activation](self.inner(x)))
        return self.dropout(self.outer(hidden))
