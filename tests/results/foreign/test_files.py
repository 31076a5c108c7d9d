"""Files in every dialect and every state of disrepair: read, or refused in a sentence."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normscope.results.foreign import TableUnusable, judge
from normscope.results.foreign import table as table_module
from normscope.results.foreign.detect import read_table

Write = Callable[..., Path]


@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_dialects_are_one_table(delimiter: str, mark: str, table: Write) -> None:
    path = table()
    expected = judge(path, margin=0.01)
    text = path.read_text().replace(",", delimiter).replace("rms_norm", '"rms_norm"').replace("\n", "\r\n")
    data = text.encode(mark)
    path.write_bytes(b"\xfe\xff" + data if mark == "utf-16-be" else data)
    found = judge(path, margin=0.01)
    assert found.arms == expected.arms


def test_excels_line_on_the_delimiter_and_empty_lines_are_skipped(table: Write) -> None:
    path = table()
    expected = judge(path, margin=0.01)
    path.write_text("sep=;\n" + path.read_text().replace(",", ";").replace("\n", "\n\n"))
    assert judge(path, margin=0.01).arms == expected.arms


def test_places_are_lines_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('name,loss\n"two\nlines",1\n\nplain,2\n')
    assert [row.place for row in read_table(path).rows] == ["line 2", "line 5"]


@pytest.mark.parametrize(
    "content",
    [
        lambda rows: json.dumps(rows),
        lambda rows: "\n".join(map(json.dumps, rows)),
        lambda rows: json.dumps({"about": "x", "runs": rows}),
        lambda rows: json.dumps({name: [row[name] for row in rows] for name in rows[0]}),
        lambda rows: json.dumps({name: {str(at): row[name] for at, row in enumerate(rows)} for name in rows[0]}),
        lambda rows: json.dumps(
            [{"config": {"norm": row["norm"], "seed": row["seed"]}, "loss": row["loss"]} for row in rows]
        ),
    ],
    ids=["list", "lines", "inside", "columns", "pandas", "nested"],
)
def test_every_shape_of_json(content: Callable[[list], str], tmp_path: Path) -> None:
    rows = [
        {"norm": arm, "seed": seed, "loss": float("nan") if (arm, seed) == ("rms_norm", 1) else seed / 10}
        for arm in ("layer_norm", "rms_norm")
        for seed in range(6)
    ]
    path = tmp_path / "t.json"
    path.write_text(content(rows))
    summary = judge(path, margin=0.01)
    assert [run.value for run in summary.arms[0].runs] == [seed / 10 for seed in range(6)]
    assert summary.arms[1].verdict.startswith("fails to train in 1 of 6 seeds")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "results is empty"),
        (b"norm,seed,loss\n", "has no row"),
        (b"one column\n1\n2\n", "is not a table: its first line has no comma"),
        (b"\x1f\x8b\x08rest", "is packed as gzip: unpack it"),
        (b"PK\x03\x04rest", "is packed as a ZIP archive"),
        (b"\xfd7zXZ\x00", "is packed as xz"),
        (b"norm,seed\nl\xe9,1\n", "line 2, has the byte 0xe9, which is not utf-8: save the table as UTF-8"),
        (b"a,b\n1,\x002\n", "has null bytes"),
        (b'a,b\n"1,2\n', "cannot be read: unexpected end of data"),
        (b"a,b\n" + b"x" * 140_000 + b",1\n", "field larger than field limit"),
        (b"SQLite format 3\0 and then nothing", "is not a readable SQLite database"),
        (b"[1, 2]", "JSON must be a list of objects"),
        (b'[{"a": 1, "a": 2}]', "the key 'a' is there twice"),
        (b"[" * 100_000, "nested too deep|not valid JSON"),
        (b'[{"a":' * 3000 + b"1" + b"}]" * 3000, "nested|not a table"),
        (b'{"a":' * 60 + b"1" + b"}" * 60, "nested deeper than 50 levels"),
        (b'{"a": 1', "is not valid JSON"),
        (b'{"a": 1}\n{"a": 2}\n{"a":', r"results, line 3, is not valid JSON: Expecting value"),
        (b'{"a": 1}\n[2]', r"results, line 2, is not an object"),
        (b'{"a": [{"x": 1}], "b": [{"x": 1}]}', "has 2 lists of objects, a, b"),
    ],
)
def test_what_is_no_table_is_a_sentence(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.write_bytes(data)
    with pytest.raises(TableUnusable, match=words):
        read_table(path)


def test_code_in_a_cell_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("config,loss\n\"{'a': __import__('os').system('touch /tmp/owned')}\",1\n")
    with pytest.raises(TableUnusable, match="line 2 has a config that is not a dictionary: it has"):
        read_table(path)


def test_limits_are_sentences(table: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table()
    monkeypatch.setattr(table_module, "MAX_BYTES", 100)
    with pytest.raises(TableUnusable, match=r"has \d+ bytes; at most 100 are read"):
        judge(path, margin=0.01)
    monkeypatch.undo()
    monkeypatch.setattr(table_module, "MAX_ROWS", 10)
    with pytest.raises(TableUnusable, match="has more than 10 rows"):
        judge(path, margin=0.01)


def test_folders_without_runs_and_with_two_programs(exports: Path, tmp_path: Path) -> None:
    with pytest.raises(TableUnusable, match="holds no runs: expected mlruns, wandb or TensorBoard's log folder"):
        read_table(tmp_path)
    with pytest.raises(TableUnusable, match="holds runs of W&B and MLflow and TensorBoard: name one of their folders"):
        read_table(exports)
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        read_table(tmp_path / "gone")


def test_another_programs_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE people (name TEXT)")
    with pytest.raises(TableUnusable, match="a database of neither MLflow nor Trackio; its tables are people"):
        read_table(path)


def test_nested_parquet_is_refused(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"norm": ["a"], "config": [{"x": 1}]}), path)
    with pytest.raises(TableUnusable, match="has the nested column 'config'"):
        read_table(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TableUnusable, match="is not a readable Parquet file"):
        read_table(path)


def test_names_with_odd_bytes(table: Write, tmp_path: Path) -> None:
    path = table()
    odd = os.fsencode(tmp_path) + b"/caf\xe9\x1b[31m.csv"
    os.rename(path, odd)
    summary = judge(Path(os.fsdecode(odd)), margin=0.01, out=tmp_path / "study")
    assert summary.task == r"caf\xe9\x1b[31m.csv"
    assert judge(Path(os.fsdecode(odd)), margin=0.01, out=tmp_path / "study") == summary


def test_a_hostile_label_is_text_on_the_page(table: Write, tmp_path: Path) -> None:
    from normscope.report import write_report

    path = table()
    path.write_text(path.read_text().replace("rms_norm", "<script>alert(1)</script>\x1b[31m"))
    judge(path, margin=0.01, out=tmp_path / "study")
    page = write_report(tmp_path / "study").read_text()
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "results"
    for start in (b"", b"[", b"norm,seed,loss\n", b":W&B\xe1\xbe\x00", b"SQLite format 3\0"):
        path.write_bytes(start + data)
        for name in ("results", "run-1.wandb", "events.out.tfevents.1"):
            target = path.rename(path.with_name(name))
            # Four bytes make a file Parquet, which wants pyarrow.
            with contextlib.suppress(TableUnusable, ModuleNotFoundError):
                read_table(target)
            path = target.rename(path.with_name("results"))
