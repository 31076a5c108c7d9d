"""Every norm of a real architecture is found, and counted by hand."""

import pytest
import torch
from torch import nn

from normscope.inspection.find import find_norms
from support.architectures import ARCHITECTURES
from support.foreign import GatedRMSNorm, PlainRMSNorm


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture(name: str) -> None:
    architecture = ARCHITECTURES[name]
    found, unreached = find_norms(architecture.build())
    assert [norm.kind for norm in found] == [architecture.kind] * architecture.norms
    assert sorted({type(norm.module).__name__ for norm in found}) == sorted(architecture.classes)
    assert unreached == []


def test_conventions_of_real_classes() -> None:
    eps = {}
    for name in ("llama", "gemma3", "t5", "mamba", "convnext"):
        found, _ = find_norms(ARCHITECTURES[name].build())
        eps[name] = {(norm.eps, norm.unit_offset, norm.channels_first) for norm in found}
    assert eps["llama"] == eps["t5"] == {(1e-6, False, False)}
    assert eps["gemma3"] == {(1e-6, True, False)}
    assert eps["mamba"] == {(1e-5, False, False)}
    assert eps["convnext"] == {(1e-6, False, True), (1e-6, False, False), (1e-12, False, False)}


def test_tied_norms_are_one() -> None:
    norm = PlainRMSNorm(4)
    found, _ = find_norms(nn.ModuleDict({"a": norm, "b": nn.Sequential(norm, nn.LayerNorm(4))}))
    assert [one.names for one in found] == [("a", "b.0"), ("b.1",)]


def test_fused_and_gated_ones_are_named() -> None:
    class LayerNormLinear(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.layer_norm_weight = nn.Parameter(self.weight.new_ones(4))

    found, unreached = find_norms(nn.Sequential(LayerNormLinear(), GatedRMSNorm(4)))
    assert found == []
    assert [(one.name, one.what) for one in unreached] == [("0", "LayerNormLinear"), ("1", "GatedRMSNorm")]
    assert unreached[0].why == "fused: it has the norm's parameters itself (layer_norm_weight)"


def test_a_gated_norm_with_an_activation_is_named_and_an_activation_with_an_eps_is_not() -> None:
    class Gated(GatedRMSNorm):
        def __init__(self) -> None:
            super().__init__(4)
            self.act = nn.SiLU()

    class Slopes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.eps = nn.Parameter(torch.ones(1)), 1e-6

    found, unreached = find_norms(nn.Sequential(Gated(), Slopes(), nn.LazyLinear(3)))
    assert found == []
    assert [(one.name, one.why) for one in unreached] == [("0", "its forward takes more than one input: x, gate")]
