"""From words or a function to a module."""

import pytest
import torch
from torch import nn

from normscope.inspection.find import recognize
from normscope.inspection.norm_in_model import NormInModel
from normscope.norms import AdaNorm, LayerNorm
from normscope.surgery.replacement import read_target


def norm_of(module: nn.Module) -> NormInModel:
    norm = recognize(("x",), module)
    assert isinstance(norm, NormInModel)
    return norm


def built(to, module: nn.Module) -> nn.Module:
    return read_target(to).build(norm_of(module), torch.device("cpu"), torch.float64)


def test_arguments_and_the_old_eps() -> None:
    made = built("ada_norm(scale=2.0)", nn.LayerNorm(6, eps=0.25))
    assert isinstance(made, AdaNorm)
    assert (made.scale, made.eps) == (2.0, 0.25)
    assert built("ada_norm(eps=0.5)", nn.LayerNorm(6, eps=0.25)).eps == 0.5


def test_eps_of_another_meaning_is_not_kept() -> None:
    assert built("scale_norm", nn.LayerNorm(6, eps=0.25)).eps == 1e-5
    assert built("ada_norm(convention='released')", nn.LayerNorm(6, eps=0.25)).eps == 1e-5
    assert built("layer_norm", nn.RMSNorm(6)).eps == torch.finfo(torch.float64).eps


def test_what_was_switched_off_stays_off() -> None:
    made = built("layer_norm", nn.LayerNorm(6, bias=False))
    assert isinstance(made, LayerNorm)
    assert made.bias is None
    assert list(built("rms_norm", nn.LayerNorm(6, elementwise_affine=False)).parameters()) == []
    assert list(built("batch_norm", nn.LayerNorm(6, elementwise_affine=False)).parameters()) == []
    assert built("layer_norm", nn.RMSNorm(6)).bias is not None


def test_functions_get_the_width_or_the_sizes() -> None:
    given = []

    def make(width):
        given.append(width)
        return nn.LayerNorm(width)

    assert built(make, nn.LayerNorm(6)).weight.dtype == torch.float64
    built(make, nn.LayerNorm((4, 6)))
    assert given == [6, (4, 6)]
    assert read_target(make).label == "make"


@pytest.mark.parametrize(
    ("to", "error", "words"),
    [
        ("adanorm", LookupError, "did you mean 'ada_norm'"),
        ("ada_norm(2)", ValueError, "written as name=value"),
        ("ada_norm(speed=2)", TypeError, "ada_norm.*speed"),
        ("ada_norm(k=-1)", ValueError, "k must be"),
        ("ada_norm(device='cpu')", ValueError, "the model decides device"),
        (nn.LayerNorm(4), TypeError, "a function from a width to a module"),
        (3, TypeError, "a function from a width to a module"),
    ],
)
def test_wrong_targets(to, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read_target(to)


def test_a_function_must_give_a_module() -> None:
    with pytest.raises(TypeError, match=r"must give a torch.nn.Module, got 12 for the width 6"):
        built(lambda width: 2 * width, nn.LayerNorm(6))
