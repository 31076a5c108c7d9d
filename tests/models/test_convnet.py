"""The convolutional network."""

import pytest
import torch
from torch import nn

from normscope.models import ConvNet
from normscope.norms import FRN


class SeeShape(nn.Module):
    """Keeps the shape that a norm was given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = list(x.shape)
        return x


def test_norms_see_channels_last() -> None:
    model = ConvNet([1, 4, 6, 8], size=28, classes=10, norm=SeeShape)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert [norm.seen for norm in model.norms] == [[2, 28, 28, 4], [2, 14, 14, 6], [2, 7, 7, 8]]


def test_equals_batch_norm_2d_channels_first() -> None:
    class Last(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    model = ConvNet([1, 4, 6], size=8, classes=3, norm=Last)
    x = torch.randn(5, 1, 8, 8)
    y = model.pool(nn.functional.batch_norm(model.convolutions[0](x), None, None, training=True).relu())
    y = nn.functional.batch_norm(model.convolutions[1](y), None, None, training=True).relu()
    # Two float32 computations of one formula in another memory order.
    torch.testing.assert_close(model(x), model.head(y.flatten(1)), rtol=1e-4, atol=1e-5)


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="an image of 30 x 30 cannot be halved 2 times"):
        ConvNet([1, 4, 6, 8], size=30, classes=10, norm=nn.LayerNorm)


def test_a_norm_that_brings_its_activation_gets_no_relu() -> None:
    model = ConvNet((1, 4, 8), size=8, classes=3, norm=FRN)
    x, g = torch.randn(5, 1, 8, 8), torch.randn(5, 3)
    (model(x) * g).sum().backward()
    for norm in model.norms:
        assert norm.threshold.grad is not None
        assert norm.threshold.grad.abs().max() > 0
    assert FRN.brings_activation
