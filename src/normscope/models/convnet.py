"""A small convolutional network for images, with the norm over the channels of its feature maps."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn


class ConvNet(nn.Module):
    """Convolutions of 3 x 3, each with a norm and a ReLU; pooling by two after all but the last; a linear head.

    The ReLU is left out after a norm that ``brings_activation`` of its own.

    A norm sees feature maps channels-last, ``[B, H, W, C]``: layer norms act on the channels of one position, batch
    normalization takes its statistics over batch and positions, filter response normalization over positions.

    Args:
        channels: Channels of the input and of every convolution.
        size: Height and width of the input, divisible by two as often as it is pooled.
        classes: Number of logits.
        norm: Makes a norm from its number of channels.

    Raises:
        ValueError: If the image cannot be halved that often.
    """

    def __init__(self, channels: Sequence[int], *, size: int, classes: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        halvings = len(channels) - 2
        if size % 2**halvings:
            raise ValueError(f"an image of {size} x {size} cannot be halved {halvings} times")
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))
        self.norms = nn.ModuleList(norm(width) for width in channels[1:])
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
