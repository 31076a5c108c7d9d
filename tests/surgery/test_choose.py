"""Which norms a call means, and what is said when it means none."""

import re

import pytest
from torch import nn

from normscope.inspection.find import find_norms
from normscope.surgery.swap import choose
from support.foreign import GatedRMSNorm


def model() -> nn.Module:
    return nn.ModuleDict(
        {"encoder": nn.Sequential(nn.LayerNorm(4), nn.RMSNorm(4)), "decoder": nn.LayerNorm(4), "gate": GatedRMSNorm(4)}
    )


def chosen(what, where=None) -> tuple[list[str], list[str]]:
    built = model()
    right, left = choose(built, *find_norms(built, for_replacement=True), what, where)
    return [norm.name for norm in right], [norm.name for norm in left]


def test_kinds_and_classes() -> None:
    assert chosen("layer_norm") == (["encoder.0", "decoder"], [])
    assert chosen(["layer_norm", "rms_norm"]) == (["encoder.0", "encoder.1", "decoder"], [])
    assert chosen(nn.RMSNorm) == (["encoder.1"], [])


def test_places() -> None:
    assert chosen("layer_norm", "encoder.*") == (["encoder.0"], ["decoder"])
    assert chosen("layer_norm", lambda name, module: name == "decoder" and module.eps == 1e-5) == (
        ["decoder"],
        ["encoder.0"],
    )


def test_nothing_of_the_kind_lists_what_there_is() -> None:
    words = (
        r"ModuleDict has no batch_norm to replace; it has 2 layer_norm \(LayerNorm: encoder.0, \.\.\.\); 1 rms_norm "
        r"\(RMSNorm: encoder.1\); gate \(GatedRMSNorm\), out of reach: its forward takes more than one input: x, gate"
    )
    with pytest.raises(ValueError, match=words):
        chosen("batch_norm")


def test_nothing_at_the_place() -> None:
    with pytest.raises(ValueError, match=r"where='tail' leaves none of the 2 layer_norm: encoder.0, decoder"):
        chosen("layer_norm", "tail")


def test_no_norm_at_all() -> None:
    with pytest.raises(ValueError, match="it has no norm at all that is a module"):
        choose(nn.Linear(2, 2), [], [], "layer_norm", None)


def test_the_model_itself() -> None:
    norm = nn.LayerNorm(4)
    with pytest.raises(ValueError, match="the model itself is the norm, a LayerNorm"):
        choose(norm, *find_norms(norm, for_replacement=True), "layer_norm", None)


def test_wrong_words() -> None:
    with pytest.raises(
        ValueError, match=r"one of none, layer_norm, .*instance_norm, frn, rnn, lstm, .*, got 'LayerNorm'"
    ):
        chosen("LayerNorm")
    with pytest.raises(TypeError, match="a class of modules, got 3"):
        chosen([3])


@pytest.mark.parametrize("where", [["1"], re.compile("1"), 1, nn.LayerNorm(4)])
def test_where_is_neither_a_pattern_nor_a_function(where) -> None:
    with pytest.raises(TypeError, match=r"where must be a pattern of names such as 'encoder\.\*' or a function"):
        chosen("layer_norm", where)


@pytest.mark.parametrize("what", [None, 3, nn.LayerNorm(4), nn.Sequential(nn.LayerNorm(4)), [nn.LayerNorm(4)]])
def test_what_is_neither_a_key_nor_a_class(what) -> None:
    with pytest.raises(TypeError, match="what must be a key of NORMS or a class of modules"):
        chosen(what)


def test_what_is_nothing() -> None:
    with pytest.raises(ValueError, match=r"or several of these, got an empty sequence: \[\]"):
        chosen([])
