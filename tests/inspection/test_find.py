"""Every norm of a real architecture is found, counted by hand; norms are described by their class or behaviour."""

import pytest
import torch
from torch import nn

from normscope import norms
from normscope.inspection import NormInModel, Unreachable, find_norms, traits_of
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


def test_every_kind_by_its_class() -> None:
    made = {
        "layer_norm": [nn.LayerNorm(8), norms.LayerNorm(8)],
        "rms_norm": [nn.RMSNorm(8), norms.RMSNorm(8), PlainRMSNorm(8)],
        "batch_norm": [nn.BatchNorm1d(8), nn.BatchNorm2d(8), norms.BatchNorm(8), nn.SyncBatchNorm(8)],
        "group_norm": [nn.GroupNorm(2, 8), norms.GroupNorm(8)],
        "instance_norm": [nn.InstanceNorm2d(8, affine=True), norms.InstanceNorm(8)],
        "ada_norm": [norms.AdaNorm(8)],
        "detach_norm": [norms.DetachNorm(8)],
        "layer_norm_simple": [norms.LayerNormSimple(8)],
        "scale_norm": [norms.ScaleNorm(8)],
        "dyt": [norms.DyT(8)],
        "derf": [norms.Derf(8)],
        "frn": [norms.FRN(8)],
    }
    for kind, modules in made.items():
        found, unreached = find_norms(nn.ModuleList(modules))
        assert [norm.kind for norm in found] == [kind] * len(modules)
        assert unreached == []


def test_what_is_no_norm_is_not_found() -> None:
    model = nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(), nn.Dropout(), norms.NoNorm(8), nn.PReLU(), nn.LocalResponseNorm(2)
    )
    found, unreachable = find_norms(model)
    assert found == []
    assert [(one.name, one.what) for one in unreachable] == [("5", "LocalResponseNorm")]
    assert [norm.kind for norm in find_norms(model, for_replacement=True)[0]] == ["none"]


def test_names_of_a_tied_norm_are_told_once() -> None:
    shared = nn.LayerNorm(8)
    found, _ = find_norms(nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)}))
    assert [norm.names for norm in found] == [("a", "b.0")]


def test_gain_and_bias() -> None:
    layer = nn.LayerNorm(4)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    norm = find_norms(layer)[0][0]
    gain, bias = norm.effective_weight(), norm.effective_bias()
    assert gain is not None
    assert bias is not None
    assert torch.equal(gain, layer.weight.double())
    assert torch.equal(bias, layer.bias.double())
    bare = find_norms(nn.LayerNorm(4, elementwise_affine=False))[0][0]
    assert bare.effective_weight() is None
    assert bare.effective_bias() is None


def test_a_lazy_norm_is_out_of_reach_and_says_why() -> None:
    found, unreached = find_norms(nn.Sequential(nn.LazyBatchNorm1d(), nn.LazyLinear(3)))
    assert found == []
    assert [(one.name, one.why.split(":")[0]) for one in unreached] == [("0", "lazy")]


def test_a_norm_that_is_none_by_behaviour_is_out_of_reach() -> None:
    class StrangeNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight * x.sin()

    found, unreached = find_norms(StrangeNorm())
    assert found == []
    assert "computes no layer norm" in unreached[0].why


def test_an_rms_norm_without_eps_has_the_machine_epsilon() -> None:
    x = torch.full((1, 8), 3e-4)
    for module in (nn.RMSNorm(8), norms.RMSNorm(8)):
        norm = find_norms(module)[0][0]
        added = float((x.square().mean() / module(x).detach().square().mean()) - x.square().mean())
        assert norm.eps is None
        assert abs(norm.eps_at(torch.float32) / added - 1) < 1e-3  # pyright: ignore
        assert norm.eps_at(torch.bfloat16) == norm.eps_at(torch.float32)
        assert norm.eps_at(torch.float64) == torch.finfo(torch.float64).eps
    assert find_norms(norms.DyT(8))[0][0].eps_at(torch.float32) is None
    assert find_norms(nn.LayerNorm(8))[0][0].eps_at(torch.float64) == 1e-5


def test_a_norm_in_evaluation_only_is_out_of_reach() -> None:
    class Dropping(PlainRMSNorm):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(super().forward(hidden), 0.5, self.training)

    found, unreached = find_norms(Dropping(8).eval())
    assert found == []
    assert "something else in training" in unreached[0].why


def test_traits_are_declared_or_those_of_torch() -> None:
    assert traits_of(norms.ScaleNorm(8)) is norms.ScaleNorm.traits
    grouped = traits_of(nn.GroupNorm(2, 8))
    assert grouped is not None
    assert (grouped.statistics, grouped.eps_place) == ("channels", "variance")
    assert traits_of(nn.Linear(8, 8)) is None


def test_records_are_exported() -> None:
    (found,), _ = find_norms(nn.LayerNorm(4))
    _, (lazy,) = find_norms(nn.LazyBatchNorm1d())
    assert isinstance(found, NormInModel)
    assert isinstance(lazy, Unreachable)
