"""Linear maps that begin Xavier-uniform with zero biases, and whose first weights a placement may scale."""

from torch import nn


class Linear(nn.Linear):
    """torch's linear map with Xavier-uniform first weights times ``gain``, and a zero bias.

    Args:
        inputs: Width of the input.
        outputs: Width of the output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        # torch's constructor resets the parameters, so the factor must be there before.
        self.gain = 1.0
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        """Draw the first weights anew, in place."""
        nn.init.xavier_uniform_(self.weight, gain=self.gain)
        nn.init.zeros_(self.bias)


class Projection(nn.Linear):
    """Several square maps of one input in a single matrix product: what attention makes queries, keys and values with.

    Every part is drawn as a square Xavier-uniform matrix of its own, U(+-sqrt(6 / 2D)), not as a slice of one tall
    matrix, which would start smaller by half for three parts. ``gain`` multiplies the part ``value`` alone; without
    such a part there is no ``gain``.

    Args:
        width: Of the input and of every part.
        parts: Names of the parts in order, such as ``("query", "key", "value")``.
        bias: Whether a zero bias is learned.
    """

    def __init__(self, width: int, parts: tuple[str, ...], *, bias: bool = True) -> None:
        self.parts = parts
        if "value" in parts:
            self.gain = 1.0
        super().__init__(width, len(parts) * width, bias=bias)

    def reset_parameters(self) -> None:
        """Draw the first weights anew, in place, part after part."""
        for part, weight in zip(self.parts, self.weight.chunk(len(self.parts)), strict=True):
            nn.init.xavier_uniform_(weight, gain=self.gain if part == "value" else 1.0)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
