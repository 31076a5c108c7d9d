"""Norm parameters, counted by hand, and groups that decay or do not."""

import pytest
import torch
from architectures import ARCHITECTURES
from torch import nn

import normscope

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
