"""The residual multi-layer perceptron."""

import torch
from torch import nn

from normscope.models import ResidualMLP
from normscope.placement import PreNorm


def build(depth: int, *, stem: bool, final: bool) -> ResidualMLP:
    return ResidualMLP(
        inputs=5,
        width=6,
        depth=depth,
        classes=3,
        norm=nn.LayerNorm,
        block=PreNorm,
        normalize_stem=stem,
        normalize_final=final,
    )


def test_blocks_add_to_the_stream() -> None:
    model = build(2, stem=False, final=True)
    for block in model.blocks:
        nn.init.zeros_(block.branch[2].weight)
        nn.init.zeros_(block.branch[2].bias)
    x = torch.randn(4, 5)
    assert torch.equal(model(x), model.head(model.final_norm(model.stem(x))))


def test_stem_and_final_norms_exist_exactly_when_asked_for() -> None:
    for stem in (False, True):
        for final in (False, True):
            model = build(3, stem=stem, final=final)
            assert isinstance(model.stem_norm, nn.LayerNorm) is stem
            assert isinstance(model.final_norm, nn.LayerNorm) is final
            assert sum(isinstance(module, nn.LayerNorm) for module in model.modules()) == 3 + stem + final
