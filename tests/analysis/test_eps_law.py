"""The law of eps against measured changes of the output."""

import pytest
import torch
from torch import nn

from normscope import norms
from normscope.analysis.eps_law import ObservedCall, eps_law, observe_norm
from normscope.norms import NORMS
from support.made_norms import MIXES_POSITIONS


def call(module: nn.Module, x: torch.Tensor) -> ObservedCall:
    with torch.no_grad(), observe_norm(module) as seen:
        seen.result = module(x)
    return seen


def tiny(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (6, 4, 8) if name in MIXES_POSITIONS else (6, 8)
    return 3e-3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", [name for name in NORMS if name not in {"none", "dyt", "derf"}])
def test_the_predicted_change_is_the_change(name: str) -> None:
    norm = NORMS[name](8).double()
    x = tiny(name)
    predicted = eps_law(call(norm, x), call(norm, 3 * x))
    assert predicted is not None
    # Float64 rounding of outputs of order one.
    torch.testing.assert_close(predicted, norm(3 * x) - norm(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "norm",
    [
        norms.AdaNorm(8, convention="released", scale=2.0, eps=1e-3),
        norms.BatchNorm(8, unbiased=True).double(),
        norms.RMSNorm(8, eps=1e-5, dtype=torch.float64),
        norms.ScaleNorm(8, eps=1e-2, dtype=torch.float64),
        nn.BatchNorm1d(8, dtype=torch.float64),
    ],
    ids=repr,
)
def test_conventions_have_laws_of_their_own(norm: nn.Module) -> None:
    x = tiny("")
    predicted = eps_law(call(norm, x), call(norm, 3 * x))
    assert predicted is not None
    assert predicted.abs().max() > 0.05
    torch.testing.assert_close(predicted, norm(3 * x) - norm(x), rtol=0, atol=1e-12)


def test_the_bias_does_not_shrink() -> None:
    norm = nn.LayerNorm(8, dtype=torch.float64)
    nn.init.constant_(norm.bias, 5.0)
    x = tiny("")
    predicted = eps_law(call(norm, x), call(norm, 3 * x))
    torch.testing.assert_close(predicted, (norm(3 * x) - norm(x)).detach(), rtol=0, atol=1e-12)


def test_there_is_no_law_where_it_does_not_apply() -> None:
    x = tiny("")
    twice = norms.LayerNormSimple(8)
    for module in (
        nn.Linear(8, 8, dtype=torch.float64),
        nn.Sequential(norms.LayerNormSimple(8), norms.RMSNorm(8, dtype=torch.float64)),
        nn.Sequential(twice, twice),
        nn.Sequential(norms.LayerNormSimple(8), nn.Tanh()),
        norms.BatchNorm(8).double().eval(),
    ):
        assert eps_law(call(module, x), call(module, 3 * x)) is None


def test_the_hook_goes_with_the_block() -> None:
    norm = norms.LayerNormSimple(8)
    with pytest.raises(ValueError, match="expects"), observe_norm(norm):
        norm(torch.ones(3, 4))
    assert not norm._forward_hooks
