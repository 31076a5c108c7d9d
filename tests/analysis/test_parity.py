"""Pairs of published implementations, copied as published, and their known differences."""

import copy
import json

import pytest
import torch
from torch import nn

from normscope import norms
from normscope.analysis.fit_convention import inputs
from normscope.analysis.parity import CONVENTIONS, Difference, Parity, parity

WIDTH = 64


class ReleasedLayerNorm(nn.Module):
    """The layer norm without weight and bias of the authors' AdaNorm code: ``nowb``, eps 1e-5."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        std = x.std(-1, keepdim=True)
        return (x - mean) / (std + 1e-5)


class BertPytorchLayerNorm(nn.Module):
    """The layer norm of BERT-pytorch and The Annotated Transformer."""

    def __init__(self, features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.a_2 = nn.Parameter(torch.ones(features))
        self.b_2 = nn.Parameter(torch.zeros(features))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        std = x.std(-1, keepdim=True)
        return self.a_2 * (x - mean) / (std + self.eps) + self.b_2


class LlamaLike(nn.Module):
    """Cast, then scale by w."""

    def __init__(self, features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class GemmaLike(nn.Module):
    """Scale by 1 + w, then cast."""

    def __init__(self, features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        output = output * (1.0 + self.weight.float())
        return output.type_as(x)


def compared(first: nn.Module, second: nn.Module, **settings) -> Parity:
    return parity(first, second, WIDTH, generator=torch.Generator().manual_seed(2), **settings)


def on(found: Parity, rows: str, dtype: str) -> Difference:
    [row] = [row for row in found.differences if (row.rows, row.dtype) == (rows, dtype)]
    return row


def names(found: Parity) -> list[str]:
    return [departure.convention for departure in found.departures]


def test_layer_norm_and_the_released_replacement() -> None:
    found = compared(nn.LayerNorm(WIDTH, elementwise_affine=False), ReleasedLayerNorm())
    assert names(found) == ["divisor", "place", "statistics"]
    divisor, place, _ = found.departures
    # The unbiased deviation makes outputs smaller by 1 - sqrt((H - 1) / H); the largest output here is below 5.
    share = 1 - ((WIDTH - 1) / WIDTH) ** 0.5
    assert 2.5 * share < divisor.effects["float32"] < 5 * share
    # At a deviation of 1e-3 eps inside the root is ten times the variance, and outside a hundredth of the deviation.
    assert place.worst == "tiny"
    assert place.effects["float32"] > 1
    assert found.departures[2].effects["float32"] == 0
    assert found.departures[2].effects["bfloat16"] > 0.01
    assert on(found, "tiny", "float32").difference == pytest.approx(place.effects["float32"], rel=0.05)


def test_layer_norm_and_bert_pytorch() -> None:
    found = compared(nn.LayerNorm(WIDTH), BertPytorchLayerNorm(WIDTH), names=("torch", "BERT-pytorch"))
    assert names(found) == ["divisor", "place", "eps", "statistics", "order"]
    assert (found.second.weight, found.second.bias) == ("a_2", "b_2")
    assert "torch has the root over H, BERT-pytorch has the root over H - 1" in found.reading
    # A shifted row loses the digits of its mean in bfloat16 where the arithmetic is in the input's dtype.
    shifted = on(found, "shifted", "bfloat16")
    assert shifted.first_error is not None
    assert shifted.second_error is not None
    assert shifted.second_error > 5 * shifted.first_error


def test_llama_and_gemma() -> None:
    llama, gemma = LlamaLike(WIDTH), GemmaLike(WIDTH)
    found = compared(llama, gemma)
    assert names(found) == ["scale", "order"]
    # A root and a division instead of `rsqrt`: one output in ten thousand may be rounded to the other side.
    assert min(found.first.agreement, found.second.agreement) > 0.999
    order = found.departures[1].effects
    # One rounding of a number up to 4: half of 2**-6 in bfloat16, of 2**-9 in float16; none in float32.
    assert order["float32"] == 0
    assert 2**-9 < order["bfloat16"] <= 2**-5
    assert 2**-12 < order["float16"] <= 2**-8
    # The same weights, one below and one above, differ by one rounding only.
    weights = (1 + 0.25 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))).bfloat16().float()
    with torch.no_grad():
        llama.weight.copy_(weights)
        gemma.weight.copy_(weights - 1)
    again = on(compared(llama, gemma), "normal", "float32")
    assert again.difference is not None
    assert again.difference < 1e-5


def test_layer_norm_follows_the_conventions_of_torch() -> None:
    for ours, theirs in (
        (norms.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)),
        (norms.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)),
        (norms.RMSNorm(WIDTH, eps=1e-6), nn.RMSNorm(WIDTH, eps=1e-6)),
    ):
        found = compared(ours, theirs)
        assert not found.departures
        assert "They follow the same conventions; the remaining differences are rounding." in found.reading
        row = on(found, "normal", "float32")
        assert row.difference is not None
        # Outputs below 8, whose last bit is 2**-21, and two roundings of them.
        assert row.difference <= 2**-20
        for error in (row.first_error, row.second_error):
            assert error is not None
            assert error < 1e-5


def test_a_difference_in_eps_alone() -> None:
    found = compared(nn.LayerNorm(WIDTH, eps=1e-5), nn.LayerNorm(WIDTH, eps=1e-12))
    assert names(found) == ["eps"]
    effects = found.departures[0].effects
    # At a variance v near 1e-6 the output falls to sqrt(v / (v + 1e-5)), about three tenths of its size.
    assert effects["float32"] == pytest.approx(on(found, "tiny", "float32").difference, rel=0.2)


def test_numbers_that_are_not_finite_are_counted() -> None:
    class Half(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.pow(2) * x.pow(2).mean(-1, keepdim=True).pow(-1.5)

    found = compared(nn.RMSNorm(WIDTH), Half())
    row = on(found, "large", "float16")
    assert row.second_not_finite > 0
    assert row.difference is None
    assert row.first_not_finite == 0
    assert "the second returns numbers that are not finite on" in found.reading
    assert "large rows in float16" in found.reading


def test_a_norm_outside_the_family() -> None:
    found = compared(norms.AdaNorm(WIDTH), norms.LayerNorm(WIDTH), names=("AdaNorm", "LayerNorm"))
    assert not found.departures
    assert "AdaNorm is outside the family" in found.reading
    assert "same conventions" not in found.reading
    row = on(found, "normal", "float32")
    assert row.first_error is not None
    assert row.first_error < 1e-5
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["first"]["misfit"] is None


def test_json_holds_it_all() -> None:
    found = compared(LlamaLike(WIDTH), GemmaLike(WIDTH))
    read = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert read["reading"] == found.reading
    assert read["departures"][0]["effects"] == found.departures[0].effects
    assert {row["rows"] for row in read["differences"]} == set(inputs(8, 1, generator=torch.Generator()))
    assert {departure["convention"] for departure in read["departures"]} <= set(CONVENTIONS)


def test_one_seed_gives_the_same_numbers_and_nothing_is_changed() -> None:
    llama = LlamaLike(WIDTH)
    twin = copy.deepcopy(llama)
    assert compared(llama, GemmaLike(WIDTH)) == compared(llama, GemmaLike(WIDTH))
    assert torch.equal(llama.weight, twin.weight)
    assert llama.weight.grad is None


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        compared(LlamaLike(WIDTH), GemmaLike(WIDTH), rows=0)
