"""card.json: what a reader of results needs, without the catalogue."""

import json
from pathlib import Path

from normscope.study import make_card
from normscope.study.plan import plan
from normscope.study.record import record


def test_fields_are_those_of_the_documents() -> None:
    documents = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    content = record(make_card("mnist_cnn"), command="x", tuned=None, tuning=None)
    for name in content:
        assert f'"{name}"' in documents, f"docs/studies.md does not tell of card.json's {name}"
    json.dumps(content, allow_nan=False)


def test_every_run_is_named() -> None:
    card = make_card("digits", seeds=[2, 5])
    content = record(card, command="x", tuned=None, tuning=None)
    named = {identity for arm in content["arms"] for identity in arm["runs"].values()}
    assert named == {spec.id for spec in plan(card)}


def test_tuned_arms_stand_before_the_untuned() -> None:
    card = make_card("digits", norms=["none", "layer_norm"], tune=True)
    tuned = card.with_learning_rates({"none": 0.006, "layer_norm": 0.002})
    arms = record(card, command="x", tuned=tuned, tuning={"grid": []})["arms"]
    assert [(arm["label"], arm["tuned"], arm["learning_rate"]) for arm in arms] == [
        ("none", True, 0.006),
        ("layer_norm", True, 0.002),
        ("none", False, 0.002),
        ("layer_norm", False, 0.002),
    ]
    # An arm whose tuned rate is the task's own is one run, not two.
    assert arms[1]["runs"] == arms[3]["runs"]
    assert arms[0]["runs"] != arms[2]["runs"]


def test_published_figures_travel_with_the_card() -> None:
    content = record(make_card("mnist_cnn"), command="x", tuned=None, tuning=None)
    (table,) = content["published"]
    assert {"norm": "ada_norm", "arguments": {}, "value": 99.35} in table["rows"]
