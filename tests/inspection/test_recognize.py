"""torch's norms and ours by their class; what stands in the way has words."""

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from normscope.inspection.find import recognize
from normscope.inspection.norm_in_model import NormInModel
from normscope.norms import NORMS, ChannelsFirst
from support.foreign import FrozenBatchNormAct, GroupNormAgain, GroupNormAndMore, MaskedGroupNorm, PlainRMSNorm

TORCHS = {
    "layer_norm": nn.LayerNorm(6),
    "rms_norm": nn.RMSNorm(6),
    "batch_norm": nn.BatchNorm2d(6),
    "group_norm": nn.GroupNorm(2, 6),
    "instance_norm": nn.InstanceNorm2d(6, affine=True),
}


def known(module: nn.Module) -> NormInModel:
    norm = recognize(("there",), module)
    assert isinstance(norm, NormInModel), norm
    return norm


@pytest.mark.parametrize("kind", TORCHS)
def test_torchs(kind: str) -> None:
    norm = known(TORCHS[kind])
    assert (norm.kind, norm.shape, norm.weight_name) == (kind, (6,), "weight")
    assert norm.channels_first == (kind not in {"layer_norm", "rms_norm"})


@pytest.mark.parametrize("key", NORMS)
def test_every_key(key: str) -> None:
    norm = known(NORMS[key](6))
    assert (norm.kind, norm.shape, norm.channels_first) == (key, (6,), False)
    within = known(ChannelsFirst(NORMS[key](6)))
    assert (within.kind, within.channels_first) == (key, True)


def test_a_subclass_that_changes_nothing_is_its_base() -> None:
    class Mine(nn.LayerNorm):
        pass

    assert known(Mine(6)).kind == "layer_norm"


def test_a_subclass_with_a_forward_of_its_own_is_looked_at() -> None:
    assert known(GroupNormAgain(2, 6)).kind == "group_norm"
    assert recognize(("x",), MaskedGroupNorm(2, 6)) == "its forward takes more than one input: x, mask"
    assert "running moments and no parameters" in str(recognize(("x",), FrozenBatchNormAct(6)))
    assert (
        recognize(("x",), GroupNormAndMore(2, 6))
        == "a GroupNorm whose forward does something else, too (in evaluation)"
    )


def test_other_modules_are_nothing() -> None:
    assert recognize(("x",), nn.Linear(3, 3)) is None
    assert recognize(("x",), nn.Sequential(nn.LayerNorm(3))) is None


def parametrized() -> nn.Module:
    return parametrizations.weight_norm(nn.LayerNorm((4, 6)))


def patched() -> nn.Module:
    norm = PlainRMSNorm(6)
    norm.forward = lambda x: x
    return norm


def pruned() -> nn.Module:
    return prune.random_unstructured(nn.LayerNorm(6), "weight", amount=0.5)


def quantized() -> nn.Module:
    return torch.ao.nn.quantized.LayerNorm((6,), nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6)), 1.0, 0)


def observed() -> nn.Module:
    norm = nn.LayerNorm(6)
    norm.qconfig = torch.ao.quantization.default_qconfig  # pyright: ignore
    return torch.ao.quantization.prepare(nn.Sequential(norm))[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (observed, "observed for quantization .*: swap first, prepare afterwards"),
        (parametrized, r"parametrized \(weight\): torch.nn.utils.parametrize.remove_parametrizations comes first"),
        (pruned, "made by a hook"),
        (patched, "put on the instance by another library"),
        (quantized, "quantized: swap first"),
        (lambda: nn.LazyBatchNorm1d(), "lazy: run a batch first"),
        (lambda: nn.LocalResponseNorm(2), "neighbouring channels"),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
def test_out_of_reach(make, words: str) -> None:
    assert re.search(words, str(recognize(("x",), make())))


class GraphBatchNorm(nn.BatchNorm1d):
    """Takes nodes without positions, and a single one in training, as in a library for graphs."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.dim() != 2:
            raise ValueError("expected [nodes, features]")
        if len(input) == 1:
            return nn.functional.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias)
        return super().forward(input)


class OfPositions(GraphBatchNorm):
    """Runs on neither of the inputs that are tried."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.dim() != 7:
            raise ValueError("expected seven axes")
        return super().forward(input)


def test_a_batch_norm_of_nodes_is_a_batch_norm() -> None:
    assert known(GraphBatchNorm(6)).kind == "batch_norm"


def test_a_forward_that_did_not_run_is_not_said_to_do_something_else() -> None:
    why = str(recognize(("x",), OfPositions(6)))
    assert why.startswith(
        "a BatchNorm1d whose forward could not be compared with that of its base: on an input [4, 6, 40]"
    )
    assert "expected seven axes" in why
