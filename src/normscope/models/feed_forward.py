"""The position-wise feed-forward branch of a transformer."""

from torch import Tensor, nn
from torch.nn import functional

from normscope.models.linear import Linear

ACTIVATIONS = {"relu": functional.relu, "gelu": functional.gelu}
"""What may stand between the two linear maps."""


class FeedForward(nn.Module):
    r"""Two linear maps with an activation between them.

    .. math:: f(x) = W_2\, \phi(W_1 x + b_1) + b_2

    Args:
        width: Of the residual stream.
        hidden: Width between the two maps.
        activation: ``"relu"`` or ``"gelu"``.
        activation_dropout: Rate after the activation.
        dropout: Rate on the output.

    Raises:
        ValueError: If the activation is unknown or a rate is not from 0 to 1.

    References:
        Vaswani et al. (2017). Attention is all you need. arXiv:1706.03762, eq. (2).
        Departs from it in: dropout after the activation, where asked for.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: str = "relu",
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
        """Map ``[..., D]`` to ``[..., D]``; every position by itself, so the context is not looked at."""
        hidden = self.activation_dropout(ACTIVATIONS[self.activation](self.inner(x)))
        return self.dropout(self.outer(hidden))
