"""A norm lays its output in memory as torch's norm in the same place does, so that ``.view`` keeps working."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.norms import NORMS, ChannelsFirst, RMSNorm

WIDTH = 8


def laid() -> dict[str, Tensor]:
    """Draw inputs of one shape ``[4, 3, 5, WIDTH]`` that differ in their strides."""
    return {
        "contiguous": torch.randn(4, 3, 5, WIDTH),
        "transposed": torch.randn(5, 3, 4, WIDTH).transpose(0, 2),
        "features first": torch.randn(4, WIDTH, 3, 5).permute(0, 2, 3, 1),
        "channels last": torch.randn(4, 3, 5, WIDTH).to(memory_format=torch.channels_last),
        "expanded": torch.randn(4, 1, 5, WIDTH).expand(4, 3, 5, WIDTH),
        "sliced features": torch.randn(4, 3, 5, 2 * WIDTH)[..., ::2],
        "sliced rows": torch.randn(4, 6, 5, WIDTH)[:, ::2],
    }


def with_backends() -> list[tuple[str, str | None]]:
    accepts = [name for name in NORMS if hasattr(NORMS[name](WIDTH), "backend")]
    return [*((name, None) for name in NORMS), *((name, "eager") for name in accepts)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "backend"), with_backends())
def test_a_view_of_the_output_works_for_every_input(name: str, backend: str | None, training: bool) -> None:
    module = (NORMS[name](WIDTH, backend=backend) if backend else NORMS[name](WIDTH)).train(training)
    for case, x in laid().items():
        y, plain = module(x), module(x.contiguous())
        assert y.stride() == F.layer_norm(x, (WIDTH,)).stride(), case
        # Sums in another order.
        torch.testing.assert_close(y.view(4, -1), plain.view(4, -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", [None, "eager"])
def test_a_view_works_after_the_norm_of_a_sum(backend: str | None) -> None:
    for case, x in laid().items():
        y, _ = RMSNorm(WIDTH, backend=backend)(x, x.clone())
        assert y.is_contiguous(), case


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("torchs", [nn.BatchNorm2d(WIDTH), nn.GroupNorm(2, WIDTH), nn.InstanceNorm2d(WIDTH)])
def test_feature_maps_keep_the_memory_format_that_torch_gives_them(name: str, torchs: nn.Module) -> None:
    module = ChannelsFirst(NORMS[name](WIDTH), contiguous=isinstance(torchs, nn.InstanceNorm2d))
    maps = torch.randn(4, WIDTH, 3, 5)
    given = {
        "contiguous": maps,
        "channels last": maps.to(memory_format=torch.channels_last),
        "transposed": torch.randn(4, WIDTH, 5, 3).transpose(2, 3),
        "expanded": torch.randn(4, WIDTH, 1, 5).expand(4, WIDTH, 3, 5),
        "sliced": torch.randn(4, WIDTH, 6, 5)[:, :, ::2],
    }
    for case, x in given.items():
        assert module(x).stride() == torchs(x).stride(), case
