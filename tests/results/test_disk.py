"""Atomic writes and suspicious reads."""

import json
import os
from pathlib import Path

import pytest

from normscope.results.store import SCHEMA, read_json, write_bytes, write_json


def test_json_comes_back_as_it_was_written(tmp_path):
    content = {"schema": SCHEMA, "value": 0.1 + 0.2, "none": None, "list": [1, 2.5, "ü"]}
    write_json(tmp_path / "deep" / "er" / "file.json", content)
    assert read_json(tmp_path / "deep" / "er" / "file.json") == content


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_never_written(tmp_path, value):
    path = tmp_path / "file.json"
    write_json(path, {"schema": SCHEMA, "value": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"schema": SCHEMA, "value": value})
    assert read_json(path)["value"] == 1.0
    assert os.listdir(tmp_path) == ["file.json"]


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_not_finite_is_never_read(tmp_path, constant):
    path = tmp_path / "file.json"
    path.write_text(f'{{"schema": 1, "value": {constant}}}')
    with pytest.raises(ValueError, match=rf"file\.json is not valid JSON \({constant} is no JSON number\)"):
        read_json(path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def no_space(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    seen, replace = [], os.replace

    def look_then_replace(source: str, target: Path) -> None:
        seen.extend([path.read_bytes(), Path(source).read_bytes()])
        replace(source, target)

    monkeypatch.setattr(os, "replace", look_then_replace)
    write_bytes(path, b"new and longer")
    assert seen == [b"old", b"new and longer"]
    assert path.read_bytes() == b"new and longer"


def test_others_may_read_what_was_written(tmp_path):
    write_bytes(tmp_path / "file", b"")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("text", ['{"schema": 1', "", "\xff"])
def test_a_broken_file_is_named(tmp_path, text):
    path = tmp_path / "card.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"card\.json is not valid JSON .* was it edited or cut short\?"):
        read_json(path)


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, "1", True])
def test_another_schema_is_refused(tmp_path, schema):
    path = tmp_path / "card.json"
    path.write_text(json.dumps({"schema": schema}))
    with pytest.raises(ValueError, match=rf"card\.json has schema {schema!r}; this normscope reads 1 to {SCHEMA}"):
        read_json(path)


def test_a_list_is_no_record(tmp_path):
    (tmp_path / "card.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"card\.json is no file of normscope's: it has no schema"):
        read_json(tmp_path / "card.json")


@pytest.mark.parametrize("text", ['{"a": 1}', '{"schema": null}'])
def test_a_file_of_somebody_else_is_called_so(tmp_path, text):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ValueError, match=r"card\.json is no file of normscope's: it has no schema"):
        read_json(tmp_path / "card.json")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema": 1, "x": ' + "[" * 200 + "]" * 200 + "}"])
def test_nesting_without_end_is_refused(tmp_path, text):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ValueError, match=r"card\.json is nested too deep to be a file of a study"):
        read_json(tmp_path / "card.json")
