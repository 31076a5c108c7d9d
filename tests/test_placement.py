"""Placements against their equations, and against torch's own encoder layer where it has the same."""

import pytest
import torch
from torch import nn

from normscope.catalogue import PLACEMENTS
from normscope.models import ResidualMLP
from normscope.placement import OutputNorm, PeriNorm, PostNorm, PreNorm

EQUATIONS = {
    PostNorm: lambda x, f, n: n(x + f(x)),
    PreNorm: lambda x, f, n: x + f(n(x)),
    OutputNorm: lambda x, f, n: x + n(f(x)),
    PeriNorm: lambda x, f, n: x + n(f(n(x))),
}


@pytest.mark.parametrize("block", EQUATIONS, ids=lambda block: block.__name__)
def test_block_is_its_equation(block: type[nn.Module]) -> None:
    branch = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    x = torch.randn(3, 6)
    want = EQUATIONS[block](x, branch, lambda t: nn.functional.layer_norm(t, (6,)))
    assert torch.equal(block(branch, 6, nn.LayerNorm)(x), want)


@pytest.mark.parametrize(("name", "first"), [("pre", True), ("post", False)])
def test_blocks_equal_torch_encoder_layer(name: str, first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=first)
    attention = layer.self_attn
    block = PLACEMENTS[name].block
    assert block is not None

    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return attention(x, x, x, need_weights=False)[0]

    ours = nn.Sequential(
        block(Attention(), 8, nn.LayerNorm),
        block(nn.Sequential(layer.linear1, nn.ReLU(), layer.linear2), 8, nn.LayerNorm),
    )
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(ours(x), layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "norms"), [("post", 3), ("pre", 3 + 1), ("output", 3 + 1), ("peri", 2 * 3 + 1 + 1)])
def test_network_holds_the_norms_of_its_placement(name: str, norms: int) -> None:
    place = PLACEMENTS[name]
    assert place.block is not None
    model = ResidualMLP(
        inputs=4,
        width=8,
        depth=3,
        classes=2,
        norm=nn.LayerNorm,
        block=place.block,
        normalize_stem=place.normalize_stem,
        normalize_final=place.normalize_final,
    )
    assert sum(isinstance(module, nn.LayerNorm) for module in model.modules()) == norms
    assert isinstance(model.final_norm, nn.LayerNorm) is (name != "post")
