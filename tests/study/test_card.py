"""The question: names, labels, and what is refused."""

import dataclasses
from typing import Any

import pytest

from normscope.study import Arm, Card, make_card
from normscope.study.card import PAPER_NORMS, parse_norm


def test_defaults_are_the_main_job() -> None:
    card = make_card("digits")
    assert [arm.norm for arm in card.arms] == list(PAPER_NORMS)
    assert card.seeds == tuple(range(10))
    assert card.labels()[card.baseline] == "layer_norm"
    assert {arm.placement for arm in card.arms} == {"pre"}


def test_labels_are_as_brief_as_keeps_arms_apart() -> None:
    card = make_card("digits", norms=["ada_norm", "ada_norm(scale=2.0)"], placements=["pre", "post"])
    assert card.labels() == ("ada_norm@pre", "ada_norm(scale=2.0)@pre", "ada_norm@post", "ada_norm(scale=2.0)@post")
    assert make_card("digits", norms=["dyt"]).labels() == ("dyt",)


def test_equal_content_is_one_study() -> None:
    assert make_card("digits").id == make_card("digits").id
    base = make_card("digits")
    others = [
        make_card("digits", seeds=range(9)),
        make_card("digits", steps=7),
        make_card("digits", margin=0.3),
        make_card("digits", norms=PAPER_NORMS[:-1]),
        make_card("digits", placements=["post"]),
        make_card("digits", precision="bfloat16"),
        make_card("digits", tune=True),
        make_card("digits", baseline="none"),
    ]
    assert len({base.id, *(card.id for card in others)}) == 1 + len(others)


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
        ("ada_norm(**{})", "written as name=value"),
    ],
)
def test_other_forms_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_norm(text)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"norms": ["adanorm"]}, LookupError, "did you mean 'ada_norm'"),
        ({"placements": ["prenorm"]}, LookupError, "did you mean 'pre'"),
        ({"placements": ["preactivation"]}, ValueError, "takes the placements pre, post, output, peri, got 'preactiv"),
        ({"norms": ["ada_norm(scale=-1.0)"]}, ValueError, "scale"),
        ({"norms": ["ada_norm(skale=1.0)"]}, TypeError, "skale"),
        ({"norms": ["dyt", "dyt"]}, ValueError, "every arm must differ from the others, got dyt, dyt"),
        ({"norms": []}, ValueError, "at least one arm"),
        ({"seeds": [1, 1]}, ValueError, r"different whole numbers from 0 up, got \[1, 1\]"),
        ({"seeds": []}, ValueError, "seeds must be different"),
        ({"margin": 0.0}, ValueError, "margin must be positive, in % of test error, got 0.0"),
        ({"steps": 0}, ValueError, "steps must be a whole number of at least 1, got 0"),
        ({"baseline": "frn"}, ValueError, "baseline must be one of the arms none, layer_norm"),
        ({"tune": True, "seeds": [1000]}, ValueError, "are tuning's own"),
        ({"norms": ["weight_norm(dim=1)"]}, ValueError, "weight_norm takes no arguments"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make_card("digits", **options)


def test_an_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(LookupError, match="did you mean 'mnist_mlp'"):
        make_card("mnistmlp")


def test_alpha_must_be_a_probability() -> None:
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 1, got 1\.5"):
        dataclasses.replace(make_card("digits"), alpha=1.5)


def test_learning_rates_reach_the_recipe() -> None:
    card = make_card("digits", norms=["none", "dyt"])
    tuned = card.with_learning_rates({"none": 0.5, "dyt": 0.25})
    assert [tuned.recipe(arm).learning_rate for arm in tuned.arms] == [0.5, 0.25]
    assert isinstance(tuned, Card)
    assert isinstance(tuned.arms[0], Arm)
