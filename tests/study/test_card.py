"""The question: names, labels, and what is refused."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from normscope.catalogue import TASKS
from normscope.study import Arm, Card, make_card
from normscope.study.card import GRID, PAPER_NORMS
from normscope.tasks import ImageClassification


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


def test_a_changed_task_is_another_study(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["digits"]
    assert isinstance(task, ImageClassification)
    base, tuned = make_card("digits").id, make_card("digits", tune=True).id
    for change in ({"revision": 2}, {"batch_size": 16}, {"learning_rate": 1e-3}):
        monkeypatch.setitem(TASKS, "digits", dataclasses.replace(task, **change))
        assert make_card("digits", steps=1000).id != base
    monkeypatch.setitem(TASKS, "digits", task)
    monkeypatch.setattr("normscope.study.card.GRID", (*GRID, 10.0))
    assert make_card("digits").id == base
    assert make_card("digits", tune=True).id != tuned


@pytest.mark.parametrize("seeds", [[0.5, 1.0], [True, False], ["0"]])
def test_seeds_are_whole_numbers(seeds: list[Any]) -> None:
    with pytest.raises(TypeError, match="seeds must be whole numbers, got"):
        make_card("digits", seeds=seeds)


def test_numpys_seeds_are_seeds() -> None:
    card = make_card("digits", seeds=np.arange(3))  # pyright: ignore[reportArgumentType]
    assert card == make_card("digits", seeds=range(3))
    assert card.id == make_card("digits", seeds=range(3)).id


def test_a_text_is_no_list() -> None:
    with pytest.raises(TypeError, match="norms must be a list of names, got the text 'layer_norm'"):
        make_card("digits", norms="layer_norm")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"norms": ["adanorm"]}, LookupError, "did you mean 'ada_norm'"),
        ({"placements": ["prenorm"]}, LookupError, "did you mean 'pre'"),
        ({"placements": ["preactivation"]}, ValueError, "takes the placements pre, post, output, peri, got 'preactiv"),
        ({"norms": ["ada_norm(scale=-1.0)"]}, ValueError, "scale"),
        ({"norms": ["ada_norm(skale=1.0)"]}, ValueError, "ada_norm has no argument .skale."),
        ({"norms": ["dyt", "dyt"]}, ValueError, "every arm must differ from the others, got dyt, dyt"),
        ({"norms": []}, ValueError, "at least one arm"),
        ({"seeds": [1, 1]}, ValueError, r"different whole numbers from 0 up, got \[1, 1\]"),
        ({"seeds": []}, ValueError, "seeds must be different"),
        ({"margin": 0.0}, ValueError, "margin must be positive and finite, in % of test error, got 0.0"),
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
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 0.5, got 1\.5"):
        dataclasses.replace(make_card("digits"), alpha=1.5)


def test_learning_rates_reach_the_recipe() -> None:
    card = make_card("digits", norms=["none", "dyt"])
    tuned = card.with_learning_rates({"none": 0.5, "dyt": 0.25})
    assert [tuned.recipe(arm).learning_rate for arm in tuned.arms] == [0.5, 0.25]
    assert isinstance(tuned, Card)
    assert isinstance(tuned.arms[0], Arm)
