"""Files of a study: whole or not at all, never NaN, and errors that name the file."""

import io
import pickle
import re

import numpy as np
import pytest

from normscope.results.store import SCHEMA, RunFolder, StudyFolder, write_json


def test_the_layout_is_the_documented_one(tmp_path):
    study = StudyFolder(tmp_path)
    run = study.run("abc")
    names = [study.card, study.summary, study.table, study.report, run.description, run.metrics, run.checkpoint]
    assert [path.relative_to(tmp_path).as_posix() for path in [*names, run.examples, run.result, run.lease]] == [
        "card.json",
        "summary.json",
        "summary.csv",
        "report.html",
        "runs/abc/run.json",
        "runs/abc/metrics.jsonl",
        "runs/abc/checkpoint.pt",
        "runs/abc/examples.npy",
        "runs/abc/result.json",
        "runs/abc/lease",
    ]


def test_a_run_is_finished_once_it_has_a_result(tmp_path):
    run = RunFolder(tmp_path)
    assert not run.finished()
    write_json(run.result, {"schema": SCHEMA})
    assert run.finished()


def test_a_last_line_cut_short_is_left_out(tmp_path):
    run = RunFolder(tmp_path)
    assert run.read_metrics() == []
    run.metrics.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{}", "lacks step; see docs/guides/studies.md"),
        (b"5", "is 5, expected an object"),
        (b"\xff", "is not valid JSON"),
        (b'{"st', "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b'{"step": NaN}', "is not valid JSON (NaN is not a JSON number)"),
        (b'{"step": "1"}', "has step '1', expected a whole number"),
        (b'{"step": 1, "valid_loss": [1]}', "has valid_loss [1], expected a number"),
        (b"[" * 100_000, "is nested too deep"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, words):
    run = RunFolder(tmp_path)
    for more in (b"\n", b'\n{"step": 2}\n'):
        run.metrics.write_bytes(b'{"step": 1}\n' + line + more)
        with pytest.raises(ValueError, match=rf"metrics\.jsonl, line 2, {re.escape(words)}"):
            run.read_metrics()


@pytest.mark.parametrize("line", [b"5", b"\xff", b"{}"])
def test_a_last_line_that_no_kill_could_leave_is_named(tmp_path, line):
    run = RunFolder(tmp_path)
    run.metrics.write_bytes(b'{"step": 1}\n' + line)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2, "):
        run.read_metrics()


def test_a_whole_last_line_needs_no_end(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics.write_bytes(b'{"step": 1}\r\n{"step": 2}')
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]


def test_a_run_says_what_it_is_and_how_it_ended(tmp_path):
    run = RunFolder(tmp_path)
    write_json(run.description, {"schema": SCHEMA, "seed": 3})
    write_json(run.result, {"schema": SCHEMA, "state": "failed", "value": None})
    assert run.read_description() == {"schema": SCHEMA, "seed": 3}
    assert run.read_result() == {"schema": SCHEMA, "state": "failed", "value": None}


def test_examples_come_back(tmp_path):
    run = RunFolder(tmp_path)
    assert run.read_examples() is None
    scores = np.array([0.0, 1.0, 0.5], dtype=np.float32)
    np.save(run.examples, scores)
    read = run.read_examples()
    assert read is not None
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, scores)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_examples_of_any_floating_kind_are_read(tmp_path, dtype):
    run = RunFolder(tmp_path)
    np.save(run.examples, np.arange(5).astype(dtype))
    np.testing.assert_array_equal(run.read_examples(), np.arange(5))


def _npy(array, **arguments):
    buffer = io.BytesIO()
    np.save(buffer, array, **arguments)
    return buffer.getvalue()


def _header(shape, descr="<f4"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _npz():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3, np.float32))
    return buffer.getvalue()


WHOLE = _npy(np.ones(100, np.float32))


@pytest.mark.parametrize("order", ["C", "F"])
def test_scores_of_several_numbers_are_read_in_their_order(tmp_path, order):
    run = RunFolder(tmp_path)
    scores = np.asarray(np.arange(12, dtype=np.float32).reshape(4, 3), order=order)
    np.save(run.examples, scores)
    found = run.read_examples()
    assert found is not None
    assert np.array_equal(found, scores)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "a file that begins with b''"),
        (b"PK\x03\x04" + bytes(40), "a file that begins with b'PK"),
        (_npz(), "a file that begins with b'PK"),
        (pickle.dumps([1.0]), r"a file that begins with b'\x80"),
        (_npy(np.array([{}], dtype=object), allow_pickle=True), "'descr': '|O'"),
        (_npy(np.array(["a"])), "'descr': '<U1'"),
        (_npy(np.ones(3, np.int64)), "'descr': '<i8'"),
        (_npy(np.ones((3, 1, 1), np.float32)), "'shape': (3, 1, 1)"),
        (_npy(np.float32(1.0)), "'shape': ()"),
        (_header((10**12,)), "a header for 1000000000000 scores of 4 bytes, and 0 bytes"),
        (_header((-1,)) + bytes(4), "'shape': (-1,)"),
        (_header((10**30,)), "'shape': (1000000000000000000000000000000,)"),
        (WHOLE[:-1], "a header for 100 scores of 4 bytes, and 399 bytes"),
        (WHOLE + b"x", "a header for 100 scores of 4 bytes, and 401 bytes"),
        (WHOLE[:60], "a file that begins with b"),
        (WHOLE[:9], "a file that begins with b"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "a file that begins with b"),
        (b"\x93NUMPY\x09\x00" + bytes(99), "a file that begins with b"),
    ],
)
def test_anything_but_scores_is_refused_in_our_own_words(tmp_path, content, got):
    run = RunFolder(tmp_path)
    run.examples.write_bytes(content)
    wanted = r"examples\.npy must hold one score per test example \(\.npy, float32 \[examples\]\), got "
    with pytest.raises(ValueError, match=rf"{wanted}.*{re.escape(got)}") as told:
        run.read_examples()
    assert "allow_pickle" not in str(told.value)
    assert told.value.__cause__ is None
    assert told.value.__context__ is None
    assert len(str(told.value)) < 700


def test_a_folder_without_card_is_no_study(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no study: there is no card\.json"):
        StudyFolder(tmp_path).read_card()
