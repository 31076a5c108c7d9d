"""Shapes: what is wrong is said with its place, what was wanted and what was got."""

import json
import math
import re

import pytest

from normscope.results.schema import CARD, FINAL_STATES, RESULT, ROW, RUN, Between, check
from support.study_folders import Study, read

GOOD = [
    (str, "a"),
    (bool, True),
    (int, 3),
    (float, 3),
    (float, -0.5),
    (None, None),
    ((float, None), None),
    (("a", "b"), "b"),
    (Between(0, 1), 0.5),
    ({}, {"x": [1]}),
    ({"a": int, "b?": str}, {"a": 1, "c": None}),
    ({"a": int, "b?": str}, {"a": 1, "b": None}),
    ({str: int}, {"x": 1}),
    ({int: str}, {"12": "x"}),
    ([int], []),
    ([int, ...], [1, 2]),
    ([int, str], [1, "a"]),
    ((None, [int]), [1]),
]
BAD = [
    (str, 1, "f is 1, expected text"),
    (str, "\ud800", r"f is '\\ud800', expected text"),
    (bool, 1, "f is 1, expected true or false"),
    (int, True, "f is True, expected a whole number"),
    (int, 1.0, r"f is 1\.0, expected a whole number"),
    (int, 2**63, "expected a whole number"),
    (float, "0.5", r"f is '0\.5', expected a number"),
    (float, math.inf, "f is inf, expected a number"),
    (float, math.nan, "f is nan, expected a number"),
    (float, 10**400, "expected a number"),
    (None, 0, "f is 0, expected null"),
    ((float, None), "x", "f is 'x', expected a number or null"),
    (("a", "b", "c"), "d", "f is 'd', expected a, b or c"),
    (Between(0, 1), 1.0, r"f is 1\.0, expected a number above 0 and below 1"),
    ({}, [1], r"f is \[1\], expected an object"),
    ({"a": int, "b": int, "c?": int}, {}, r"f lacks a, b; see docs/guides/studies\.md"),
    ({"a": {"b": [{"c": int}]}}, {"a": {"b": [{"c": 1}, {}]}}, r"f lacks c in a\.b\[1\]; see docs"),
    ({"a?": {"b?": int}}, {"a": {"b": "x"}}, r"f has a\.b 'x', expected a whole number"),
    ({str: int}, {"x\x1b": "y"}, r"f has \['x\\x1b'\] 'y', expected a whole number"),
    ({int: str}, {"x": "y"}, "f is 'x', expected a whole number for a name"),
    ([int], {}, "f is {}, expected a list"),
    ([int, ...], [], r"f is \[\], expected one or more"),
    ([int, int], [1], r"f is \[1\], expected 2 of them"),
    ((None, [int]), [1, "a"], r"f has \[1\] 'a', expected a whole number"),
    ((None, {"a": int}), "x", "f is 'x', expected null or an object"),
]


@pytest.mark.parametrize(("shape", "content"), GOOD)
def test_what_fits_passes(shape, content):
    check(content, shape, "f")


@pytest.mark.parametrize(("shape", "content", "words"), BAD)
def test_what_does_not_fit_is_told(shape, content, words):
    with pytest.raises(ValueError, match=words):
        check(content, shape, "f")


def test_a_long_content_is_told_briefly():
    with pytest.raises(ValueError, match=r"^f is \['xxx") as told:
        check(["x" * 10**6] * 10**6, {}, "f")
    assert len(str(told.value)) < 400


def test_the_final_states_are_the_stores():
    assert RESULT["state"] == FINAL_STATES


def test_what_the_runner_writes_fits(study):
    check(json.loads(study.folder.card.read_text()), CARD, "card.json")
    run = study.folder.run("ada_norm-0-0.1")
    check(json.loads(run.description.read_text()), RUN, "run.json")
    check(json.loads(run.result.read_text()), RESULT, "result.json")
    check({"step": 1, "train_loss": 0.5, "valid_loss": None, "valid_value": 1, "seconds": 0.1}, ROW, "metrics.jsonl")


def test_an_old_card_fits(study):
    rows = [{"norm": "none", "value": 1.5}]
    study.card["published"] = [{"label": "a", "source": "b", "rows": rows, "note": None}]
    study.save()
    assert read(study).arms[1].verdict == "better"


def _change(path, keys, value):
    content = json.loads(path.read_text())
    *most, last = keys
    inner = content
    for key in most:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (["arms"], ["a"], "has arms[0] 'a', expected an object"),
        (["arms"], [], "has arms [], expected one or more"),
        (["arms", 1, "runs"], [1], "has arms[1].runs [1], expected an object"),
        (["arms", 0, "runs"], {"x": "y"}, "has arms[0].runs 'x', expected a whole number for a name"),
        (["arms", 0], {"label": "a"}, "lacks norm, placement, arguments, learning_rate, tuned in arms[0]"),
        (["tuning"], [1], "has tuning [1], expected an object"),
        (["tuning"], {"grid": [], "seeds": [], "arms": {"a": {"chosen": 0, "curve": []}}}, "has tuning.arms['a']"),
        (["margin"], "0.5", "has margin '0.5', expected a number above 0"),
        (["margin"], 0, "has margin 0, expected a number above 0"),
        (["alpha"], 1, "has alpha 1, expected a number above 0 and below 0.5"),
        (["metric"], "error", "has metric 'error', expected an object"),
        (["seeds", 0], "0", "has seeds[0] '0', expected a whole number"),
    ],
)
def test_a_card_of_another_shape_is_refused(study, keys, value, words):
    _change(study.folder.card, keys, value)
    with pytest.raises(ValueError, match=rf"card\.json {re.escape(words)}"):
        read(study)


def test_a_card_of_nothing_is_refused(tmp_path):
    study = Study(tmp_path)
    study.folder.card.write_text('{"schema": 1}')
    with pytest.raises(
        ValueError, match=r"card\.json lacks question, task, metric, margin, .*; see docs/guides/studies\.md"
    ):
        read(study)


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("run.json", "data", "x", "has data 'x', expected an object"),
        ("run.json", "versions", [1], "has versions [1], expected an object"),
        ("run.json", "seed", "0", "has seed '0', expected a whole number"),
        ("run.json", "device", ["cpu"], "has device ['cpu'], expected text"),
        ("result.json", "state", "banana", "has state 'banana', expected done, diverged, unscored or failed"),
        ("result.json", "step_ms", "x", "has step_ms 'x', expected a number"),
        ("result.json", "value", True, "has value True, expected a number or null"),
    ],
)
def test_a_run_of_another_shape_is_refused(study, name, key, value, words):
    _change(study.folder.run("ada_norm-3-0.1").path / name, [key], value)
    with pytest.raises(ValueError, match=rf"ada_norm-3-0\.1/{re.escape(name)} {re.escape(words)}"):
        read(study)


def test_a_result_of_nothing_is_refused(study):
    study.folder.run("ada_norm-3-0.1").result.write_text('{"schema": 1}')
    with pytest.raises(ValueError, match=r"result\.json lacks state, value; see docs/guides/studies\.md"):
        read(study)
