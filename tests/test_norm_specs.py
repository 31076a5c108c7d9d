"""What is compared: names, arguments, and what is refused."""

from typing import Any

import pytest
from torch import nn

from normscope.norms import NORMS
from normscope.specs import NormSpec, PlacementSpec
from normscope.studies.spec import Arm, make_study


def test_an_argument_that_equals_the_default_makes_no_other_arm() -> None:
    assert NormSpec("ada_norm", {"scale": 1, "k": 0.1}).arguments == {}
    assert NormSpec("ada_norm", {"scale": 2}) == NormSpec("ada_norm", {"scale": 2.0})
    with pytest.raises(ValueError, match="every arm must differ from the others, got ada_norm, ada_norm"):
        make_study("digits", norms=["ada_norm", "ada_norm(scale=1.0)"])


@pytest.mark.parametrize(
    ("norm", "arguments", "error", "words"),
    [
        ("batch_norm", {"unbiased": "no"}, TypeError, "batch_norm: unbiased must be True or False, got 'no'"),
        ("batch_norm", {"affine": 1}, TypeError, "batch_norm: affine must be True or False, got 1"),
        ("ada_norm", {"scale": "2"}, TypeError, "ada_norm: scale must be a number, got '2'"),
        ("ada_norm", {"scale": True}, TypeError, "ada_norm: scale must be a number, got True"),
        ("ada_norm", {"scale": -1.0}, ValueError, r"ada_norm: scale must be finite and above 0, got -1\.0"),
        ("ada_norm", {"convention": 1}, TypeError, "ada_norm: convention must be a string, got 1"),
        ("ada_norm", {"backend": 1}, TypeError, "ada_norm: backend must be a string, got 1"),
        ("ada_norm", {"backend": "gpu"}, ValueError, "ada_norm: backend must be one of eager, cpu, triton"),
        ("ada_norm", {"gain": 2.0}, ValueError, r"ada_norm has no argument 'gain'; it takes eps=1e-05, scale=1\.0"),
        ("layer_norm", {"device": "meta"}, ValueError, "layer_norm has no argument 'device'; it takes eps="),
        ("none", {"eps": 1.0}, ValueError, "none has no eps in its equation: an arm with eps=1.0 would not differ"),
        ("dyt", {"eps": 1e-5}, ValueError, "dyt has no eps in its equation"),
        ("none", {"gain": 1.0}, ValueError, "none has no argument 'gain'; it takes eps=1e-05"),
        ("weight_norm", {"eps": 1.0}, ValueError, "weight_norm takes no arguments"),
    ],
)
def test_arguments_are_checked_in_words(
    norm: str, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        NormSpec(norm, arguments)


def test_none_is_a_value_where_the_norm_has_one() -> None:
    assert NormSpec("rms_norm", {"eps": 1e-6}).arguments == {"eps": 1e-6}
    assert NormSpec("rms_norm", {"eps": None}).arguments == {}
    assert NormSpec("batch_norm", {"momentum": None}).arguments == {"momentum": None}


@pytest.mark.parametrize(
    ("norm", "error", "words"),
    [
        ("layer_norm+ada_norm(scale='2'):final", TypeError, "ada_norm: scale must be a number, got '2'"),
        ("layer_norm+ada_norm(scale=-1.0):final", ValueError, r"ada_norm: scale must be finite and above 0, got -1\.0"),
        ("layer_norm(gains=1)+ada_norm:final", ValueError, "layer_norm has no argument 'gains'; it takes eps="),
        ("layer_norm+dyt(eps=1e-5):2", ValueError, "dyt has no eps in its equation"),
        ("layer_norm+ada_norm:last", ValueError, "expected layers such as '2' or '1-3'"),
    ],
)
def test_the_arguments_of_norms_by_place_are_checked(norm: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        NormSpec.parse(norm)


def test_norms_by_place_take_no_arguments_beside_their_own() -> None:
    norm = "layer_norm+ada_norm(scale=2.0):final"
    assert NormSpec.parse(norm).arguments == {}
    with pytest.raises(
        ValueError, match=r"layer_norm\+ada_norm\(scale=2\.0\):final takes no arguments, got {'k': 0\.2}"
    ):
        NormSpec(norm, {"k": 0.2})


@pytest.mark.parametrize(
    ("placement", "error", "words"),
    [
        ("prep", LookupError, "there is no placement 'prep': did you mean 'pre'"),
        ("pre+post", ValueError, "'post' does not say where it stands"),
        ("mix(share=True)", TypeError, "share must be a number, got True"),
    ],
)
def test_placements_are_checked_when_the_arm_is_made(placement: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        PlacementSpec(placement)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"placement": "mix"}, {"placement": "mix(share=0.25)"}),
        ({"placement": "mix(share=0.5)"}, {"placement": " mix( share = 0.50 )"}),
        ({"norm": "layer_norm+ada_norm:final"}, {"norm": "layer_norm+ada_norm(scale=1.0):final"}),
    ],
)
def test_one_arm_written_in_two_ways_is_one_arm(one: dict[str, Any], other: dict[str, Any]) -> None:
    made = [Arm.parse(**{"norm": "layer_norm", "placement": "pre", **each}) for each in (one, other)]
    assert made[0] == made[1]


def grouped(width: int, groups: int = 1, *, strength: float = 1) -> nn.Module:
    """Somebody else's: its width has another name than ours, and one argument is a whole number."""
    return nn.GroupNorm(groups, width)


def test_a_norm_of_another_package_keeps_whole_numbers_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NORMS, "grouped", grouped)
    spec = NormSpec("grouped", {"groups": 2})
    assert spec.arguments == {"groups": 2}
    assert type(spec.arguments["groups"]) is int
    assert NormSpec("grouped", {"groups": 1}).arguments == {}
    with pytest.raises(TypeError, match=r"grouped: groups must be a whole number, got 2.0"):
        NormSpec("grouped", {"groups": 2.0})
    with pytest.raises(ValueError, match="grouped has no argument 'width'; it takes groups=1, strength=1"):
        NormSpec("grouped", {"width": 2})
