"""JSON files: what is written comes back, and what is damaged is refused."""

import json
import os

import pytest

from normscope.results.store import SCHEMA, read_json, write_json


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
    with pytest.raises(ValueError, match=rf"file\.json is not valid JSON \({constant} is not a JSON number\)"):
        read_json(path)


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
    with pytest.raises(ValueError, match=r"card\.json was not written by normscope: it has no schema"):
        read_json(tmp_path / "card.json")


@pytest.mark.parametrize("text", ['{"a": 1}', '{"schema": null}'])
def test_a_file_of_somebody_else_is_called_so(tmp_path, text):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ValueError, match=r"card\.json was not written by normscope: it has no schema"):
        read_json(tmp_path / "card.json")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema": 1, "x": ' + "[" * 200 + "]" * 200 + "}"])
def test_nesting_without_end_is_refused(tmp_path, text):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ValueError, match=r"card\.json is nested too deep to be a file of a study"):
        read_json(tmp_path / "card.json")
