"""card.json: what a reader of results needs, without the catalogue."""

import json
from pathlib import Path
from typing import Any

import pytest

from normscope.results.schema import CARD, check
from normscope.studies.plan import plan, record
from normscope.studies.spec import make_study
from normscope.tasks import TASKS, Metric, Published


def test_fields_are_those_of_the_documents() -> None:
    documents = (Path(__file__).parents[2] / "docs" / "guides" / "studies.md").read_text()
    content = record(make_study("mnist_cnn"), command="x", tuned=None, tuning=None)
    for name in content:
        assert f'"{name}"' in documents, f"docs/guides/studies.md does not tell of card.json's {name}"
    json.dumps(content, allow_nan=False)


def test_every_run_is_named() -> None:
    study_spec = make_study("digits", seeds=[2, 5])
    content = record(study_spec, command="x", tuned=None, tuning=None)
    named = {identity for arm in content["arms"] for identity in arm["runs"].values()}
    assert named == {spec.id for spec in plan(study_spec)}


def test_tuned_arms_stand_before_the_untuned() -> None:
    study_spec = make_study("digits", norms=["none", "layer_norm"], tune=True)
    tuned = study_spec.with_learning_rates({"none": 0.006, "layer_norm": 0.002})
    arms = record(study_spec, command="x", tuned=tuned, tuning={"grid": []})["arms"]
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
    content = record(make_study("mnist_cnn"), command="x", tuned=None, tuning=None)
    (table,) = content["published"]
    assert {"norm": "ada_norm", "arguments": {}, "value": 99.35} in table["rows"]


def test_warm_ups_and_the_preset_travel_with_the_card() -> None:
    study_spec = make_study("digits", norms=["layer_norm"], warmups=[0, 50], preset="full", steps=200)
    content = record(study_spec, command="x", tuned=None, tuning=None)
    assert content["preset"] == "full"
    assert [(arm["label"], arm["warmup"]) for arm in content["arms"]] == [
        ("layer_norm, warm-up 0", 0),
        ("layer_norm, warm-up 50", 50),
    ]
    plain = record(make_study("digits", norms=["layer_norm"]), command="x", tuned=None, tuning=None)
    assert [arm["warmup"] for arm in plain["arms"]] == [0]


def test_both_metrics_and_the_unit_of_a_batch_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["digits"]
    bleu = Metric(name="BLEU", unit="BLEU", higher_is_better=True, aggregate="bleu", signature="nrefs:1")
    loss = Metric(name="loss a word", unit="nats", higher_is_better=False, aggregate="ratio")
    row = Published(
        source="Table 1", rows={"layer_norm": 27.3, "ada_norm(scale=2.0)": 28.0}, note="one run", signature=""
    )

    class Translation:
        metric, valid_metric, batch_unit, published = bleu, loss, "padded tokens", (row,)

        def __getattr__(self, name: str) -> Any:
            return getattr(task, name)

    monkeypatch.setitem(TASKS, "digits", Translation())
    content = record(make_study("digits"), command="x", tuned=None, tuning=None)
    assert content["metric"] == {
        "name": "BLEU",
        "unit": "BLEU",
        "higher_is_better": True,
        "aggregate": "bleu",
        "signature": "nrefs:1",
    }
    assert (content["valid_metric"]["name"], content["valid_metric"]["aggregate"]) == ("loss a word", "ratio")
    assert content["regime"].endswith("1,000 updates of 32 padded tokens, float32")
    (table,) = content["published"]
    assert table["signature"] == ""
    assert table["rows"][1] == {"norm": "ada_norm", "arguments": {"scale": 2.0}, "value": 28.0}
    check(content, CARD, "card.json")


@pytest.mark.parametrize(
    "options", [{}, {"warmups": [0, 9]}, {"norms": ["layer_norm+ada_norm:final"], "placements": ["pre+post:1"]}]
)
def test_what_is_recorded_has_the_shape_of_a_card(options: dict[str, Any]) -> None:
    check(record(make_study("digits", **options), command="x", tuned=None, tuning=None), CARD, "card.json")
