"""Norm parameters, counted by hand, and groups that decay or do not."""

import re

import pytest
import torch
from torch import nn

import normscope
from support.architectures import ARCHITECTURES

# Gain and bias of 32 features for every norm, or a gain alone.
NUMBERS = {"bert": 6 * 64, "gpt2": 5 * 64, "llama": 5 * 32, "t5": 12 * 32, "vit": 5 * 64, "torch": 12 * 64, "mamba": 96}


@pytest.mark.parametrize("name", NUMBERS)
def test_every_norm_parameter_is_listed(name: str) -> None:
    listed = normscope.norm_parameters(ARCHITECTURES[name].build())
    assert sum(p.numel() for p in listed.values()) == NUMBERS[name]
    assert all("norm" in key.lower() or "ln_" in key for key in listed)


@pytest.mark.parametrize("key", ["ada_norm", "dyt", "frn", "scale_norm", "batch_norm"])
def test_ours_after_a_swap(key: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6))
    report = normscope.swap(model, "batch_norm", key)
    inside = {id(p) for p in report.replaced[0].module.parameters()}
    assert {id(p) for p in normscope.norm_parameters(model).values()} == inside


def test_gated_and_fused_norms_count() -> None:
    class GatedRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x, gate):
            return x * gate * self.weight

    class LayerNormLinear(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.layer_norm_weight = nn.Parameter(torch.ones(4))

    model = nn.Sequential(GatedRMSNorm(), LayerNormLinear())
    assert list(normscope.norm_parameters(model)) == ["0.weight", "1.layer_norm_weight"]


def test_groups() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 1, bias=False), nn.LayerNorm(1))
    model[3].requires_grad_(False)
    first, second = normscope.norm_parameter_groups(model, 0.1)
    assert (first["names"], first["weight_decay"]) == (["0.weight", "2.weight"], 0.1)
    assert (second["names"], second["weight_decay"]) == (["0.bias", "1.weight", "1.bias"], 0.0)
    first, second = normscope.norm_parameter_groups(model, 0.1, decay_norms=True)
    assert second["names"] == ["0.bias"]
    (only,) = normscope.norm_parameter_groups(model, 0.1, decay_norms=True, decay_biases=True)
    assert only["names"] == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight"]


def test_only_what_is_in_the_first_group_decays() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(normscope.norm_parameter_groups(model, 0.5), lr=0.1).step()
    torch.testing.assert_close(model[0].weight, before["0.weight"] * 0.95)
    assert torch.equal(model[1].weight, before["1.weight"])
    assert torch.equal(model[0].bias, before["0.bias"])


def test_wrong_numbers() -> None:
    with pytest.raises(ValueError, match="weight_decay must be at least 0, got -1"):
        normscope.norm_parameter_groups(nn.Linear(2, 2), -1)
    with pytest.raises(ValueError, match="Linear has no parameter that is trained"):
        normscope.norm_parameter_groups(nn.Linear(2, 2).requires_grad_(False), 0.1)


class Gated(nn.Module):
    """An RMS norm with a gate and an activation in it; neither is its class called a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps, self.act = nn.Parameter(torch.ones(4)), 1e-6, nn.SiLU()

    def forward(self, x, gate):
        x = x * self.act(gate)
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class OuterLayerNorm(nn.Module):
    """A gain around a norm without one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gamma = nn.LayerNorm(4, elementwise_affine=False), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.inner(x) * (self.gamma + 1)


class AdaptiveNorm(OuterLayerNorm):
    """With a matrix in a child."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.slope = nn.Linear(4, 4), nn.PReLU()


class NormedLinear(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(outputs, 4)), nn.Parameter(torch.ones(outputs))

    def forward(self, x):
        return nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight), self.bias)


class NormEmbedding(nn.Embedding):
    """No norm."""


class Slopes(nn.Module):
    """An activation with an eps and single numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.eps = nn.Parameter(torch.ones(1)), 1e-6

    def forward(self, x):
        return torch.where(x > 0, self.up * x, x.clamp(max=-self.eps).expm1())


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (Gated(), ["weight"]),
        (OuterLayerNorm(), ["gamma"]),
        (AdaptiveNorm(), ["gamma"]),
        (NormedLinear(3), []),
        (NormedLinear(1), []),
        (NormEmbedding(9, 4), []),
        (Slopes(), []),
        (nn.PReLU(4), []),
        (nn.LazyBatchNorm1d(), ["weight", "bias"]),
        (nn.utils.parametrizations.weight_norm(nn.LayerNorm((4, 6))), ["bias", *(f"original{i}" for i in (0, 1))]),
    ],
)
def test_what_only_looks_like_a_norm(module: nn.Module, names: list[str]) -> None:
    listed = normscope.norm_parameters(nn.Sequential(nn.Linear(4, 4), module))
    assert [name.rpartition(".")[2] for name in listed] == names
    assert all(name.startswith("1.") for name in listed)


def test_a_gain_with_an_earlier_name_elsewhere_is_listed_under_it() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.norm = nn.Parameter(torch.ones(4)), nn.LayerNorm(4)
            self.norm.weight = self.scale

    assert list(normscope.norm_parameters(Model())) == ["scale", "norm.bias"]
    (only,) = normscope.norm_parameter_groups(Model(), 0.1)
    assert (only["names"], only["weight_decay"]) == (["scale", "norm.bias"], 0.0)


def test_biases_by_any_of_their_names() -> None:
    model = nn.ModuleDict(
        {
            "lstm": nn.LSTM(4, 4, bidirectional=True),
            "attention": nn.MultiheadAttention(4, 2, add_bias_kv=True),
            "bias": nn.Linear(4, 4),
            "linear": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4), "bias", dim=0),
        }
    )
    decaying, resting = normscope.norm_parameter_groups(model, 0.1)
    assert resting["names"] == [
        *(f"lstm.bias_{kind}_l0{way}" for way in ("", "_reverse") for kind in ("ih", "hh")),
        *("attention.in_proj_bias", "attention.bias_k", "attention.bias_v", "attention.out_proj.bias", "bias.bias"),
        *(f"linear.parametrizations.bias.original{place}" for place in (0, 1)),
    ]
    assert "bias.weight" in decaying["names"]
    assert all("weight" in name for name in decaying["names"])


@pytest.mark.parametrize("weight_decay", [None, "0.1", True, [0.1]])
def test_weight_decay_must_be_a_number(weight_decay) -> None:
    with pytest.raises(TypeError, match=re.escape(f"weight_decay must be a number, got {weight_decay!r}")):
        normscope.norm_parameter_groups(nn.Linear(2, 2), weight_decay)


def test_what_cannot_be_grouped() -> None:
    with pytest.raises(ValueError, match="weight_decay must be finite, got inf"):
        normscope.norm_parameter_groups(nn.Linear(2, 2), float("inf"))
    with pytest.raises(ValueError, match="weight_decay must be at least 0, got nan"):
        normscope.norm_parameter_groups(nn.Linear(2, 2), float("nan"))
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got \[1\] of type list"):
        normscope.norm_parameter_groups([1], 0.1)  # pyright: ignore
    lazy = nn.Sequential(nn.LazyLinear(8), nn.LayerNorm(8))
    assert list(normscope.norm_parameters(lazy)) == ["1.weight", "1.bias"]
    with pytest.raises(ValueError, match=r"0\.weight, 0\.bias of Sequential has no shape yet \(lazy\): run a batch"):
        normscope.norm_parameter_groups(lazy, 0.1)
    lazy(torch.ones(2, 3))
    assert len(normscope.norm_parameter_groups(lazy, 0.1)) == 2
