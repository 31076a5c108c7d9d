"""What is compared: names, arguments, and what is refused."""

from typing import Any

import pytest

from normscope.study import Arm, make_card
from normscope.study.arm import parse_norm


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("ada_norm", ("ada_norm", {})),
        (" ada_norm(scale=2.0, k=0.2) ", ("ada_norm", {"scale": 2.0, "k": 0.2})),
        ("ada_norm(convention='released')", ("ada_norm", {"convention": "released"})),
        ("detach_norm(std=False)", ("detach_norm", {"std": False})),
    ],
)
def test_norms_are_read_as_the_command_line_writes_them(text: str, want: tuple[str, dict[str, Any]]) -> None:
    assert parse_norm(text) == want


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ada norm", "expected a norm such as"),
        ("ada_norm(2.0)", "written as name=value"),
        ("ada_norm(scale=", "expected a norm such as"),
        ("ada_norm(scale=open('x'))", "expected a norm such as"),
        ("ada_norm(scale=1.0)(k=0.2)", "written as name=value"),
        ("ada_norm(scale=1.0).x(k=0.2)", "written as name=value"),
        ("ada_norm(**{})", "written as name=value"),
        ("ada_norm(scale=1, scale=2)", "expected a norm such as|every argument may be given once"),
    ],
)
def test_other_forms_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_norm(text)


def test_an_argument_that_equals_the_default_makes_no_other_arm() -> None:
    assert Arm(norm="ada_norm", placement="pre", arguments={"scale": 1, "k": 0.1}).arguments == {}
    assert Arm(norm="ada_norm", placement="pre", arguments={"scale": 2}) == Arm(
        norm="ada_norm", placement="pre", arguments={"scale": 2.0}
    )
    with pytest.raises(ValueError, match="every arm must differ from the others, got ada_norm, ada_norm"):
        make_card("digits", norms=["ada_norm", "ada_norm(scale=1.0)"])


@pytest.mark.parametrize(
    ("norm", "arguments", "error", "words"),
    [
        ("batch_norm", {"unbiased": "no"}, TypeError, "batch_norm: unbiased must be True or False, got 'no'"),
        ("batch_norm", {"affine": 1}, TypeError, "batch_norm: affine must be True or False, got 1"),
        ("ada_norm", {"scale": "2"}, TypeError, "ada_norm: scale must be a number, got '2'"),
        ("ada_norm", {"scale": True}, TypeError, "ada_norm: scale must be a number, got True"),
        ("ada_norm", {"scale": -1.0}, ValueError, r"ada_norm: scale must be finite and above 0, got -1\.0"),
        ("ada_norm", {"convention": 1}, TypeError, "ada_norm: convention must be a word, got 1"),
        ("ada_norm", {"backend": 1}, TypeError, "ada_norm: backend must be a word, got 1"),
        ("ada_norm", {"backend": "gpu"}, ValueError, "ada_norm: backend must be one of eager, cpu, triton"),
        ("ada_norm", {"gain": 2.0}, ValueError, r"ada_norm has no argument 'gain'; it takes eps=1e-05, scale=1\.0"),
        ("layer_norm", {"device": "meta"}, ValueError, "layer_norm has no argument 'device'; it takes eps="),
        ("none", {"eps": 1.0}, ValueError, "none has no eps in its equation: an arm with eps=1.0 would be no other"),
        ("dyt", {"eps": 1e-5}, ValueError, "dyt has no eps in its equation"),
        ("none", {"gain": 1.0}, ValueError, "none has no argument 'gain'; it takes eps=1e-05"),
        ("weight_norm", {"eps": 1.0}, ValueError, "weight_norm takes no arguments"),
    ],
)
def test_arguments_are_checked_in_words(
    norm: str, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Arm(norm=norm, placement="preactivation", arguments=arguments)


def test_none_is_a_value_where_the_norm_has_one() -> None:
    assert Arm(norm="rms_norm", placement="pre", arguments={"eps": 1e-6}).arguments == {"eps": 1e-6}
    assert Arm(norm="rms_norm", placement="pre", arguments={"eps": None}).arguments == {}
    assert Arm(norm="batch_norm", placement="pre", arguments={"momentum": None}).arguments == {"momentum": None}
