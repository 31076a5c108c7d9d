"""A plain multi-layer perceptron with the norm on the summed inputs of its hidden layers."""

from collections.abc import Callable, Sequence
from itertools import pairwise

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
