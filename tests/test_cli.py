"""The command line as a person uses it: real processes, their words, their exit status."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from normscope.cli import _typed


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "normscope.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "COLUMNS": "100", **environment},
    )


def test_help_teaches_without_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    for words in (["--help"], ["compare", "--help"], ["data", "--help"], ["report", "--help"]):
        told = run(*words, PYTHONPATH=str(tmp_path))
        assert told.returncode == 0, told.stderr
        assert "Usage" in told.stdout
    assert "normscope compare digits" in run("compare", "--help").stdout


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["bench", "--norms", "layernorm"], 2, "did you mean 'layer_norm'?"),
        (["bench", "--shapes", "64"], 2, "shapes are written as 4096x512,64x1000, got '64'"),
        (["bench", "--dtypes", "float31"], 2, "did you mean 'float32'?"),
        (["compare", "digts"], 2, "there is no task 'digts': did you mean 'digits'?"),
        (["compare", "digits", "--norms", "layernorm"], 2, "did you mean 'layer_norm'?"),
        (["compare", "digits", "--placement", "prenorm"], 2, "did you mean 'pre'?"),
        (["compare", "digits", "--seeds", "a-b"], 2, "seeds are written as 0-9 or 3,5,8, got 'a-b'"),
        (["compare", "digits", "--seeds", "9-0"], 2, "seeds are written as 0-9 or 3,5,8, got '9-0'"),
        (["compare", "digits", "--seeds", "0-99999999"], 2, "a study may have 10000 seeds at most"),
        (["compare", "digits", "--workers", "0"], 2, "workers must be at least 1, got 0"),
        (["compare", "digits", "--margin", "inf"], 2, "margin must be positive and finite"),
        (["compare", "digits", "--steps", "0"], 2, "steps must be a whole number of at least 1, got 0"),
        (["compare", "digits", "--norms", "frn"], 2, "arm frn cannot be trained on digits: "),
        (["compare", "digits", "--device", "toaster"], 2, "toaster"),
        (["compare", "digits", "--warmup", "few"], 2, "numbers are written as 0,500,4000, got 'few'"),
        (["compare", "digits", "--placement", "pre+post:9-1"], 2, "expected layers such as '2' or '1-3'"),
        (["compare", "digits", "--norms", "layer_norm+adanorm:final"], 2, "did you mean 'ada_norm'?"),
        (["report", "nowhere"], 1, "nowhere holds no study"),
        (["data", "fetch", "mnst"], 2, "Did you mean 'mnist'?"),
    ],
)
def test_mistakes_are_one_sentence_and_no_traceback(words: list[str], status: int, told: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "normscope.cli", *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert result.returncode == status
    assert not list(tmp_path.iterdir())


def test_a_study_is_printed_written_and_drawn_again(tmp_path: Path) -> None:
    out = tmp_path / "study"
    options = ["--norms", "layer_norm,ada_norm(scale=2.0,k=0.2)", "--seeds", "0-1", "--steps", "20", "--out", str(out)]
    told = run("compare", "digits", *options, COLUMNS="140")
    assert told.returncode == 0, told.stderr
    for words in ("layer_norm", "ada_norm(scale=2.0, k=0.2)", "baseline", "not enough evidence", "Report:"):
        assert words in told.stdout
    as_json = run("compare", "digits", *options, "--json")
    assert json.loads(as_json.stdout) == json.loads((out / "summary.json").read_text())
    (out / "report.html").unlink()
    (out / "summary.json").unlink()
    again = run("report", str(out))
    assert again.returncode == 0, again.stderr
    assert (out / "report.html").exists()
    assert json.loads((out / "summary.json").read_text()) == json.loads(as_json.stdout)


def test_a_terminal_that_lacks_letters_ends_no_study(tmp_path: Path) -> None:
    out = tmp_path / "it's mine"
    options = ["--norms", "layer_norm,ada_norm(convention='released')", "--seeds", "0", "--steps", "10"]
    told = run("compare", "digits", *options, "--out", str(out), PYTHONIOENCODING="ascii")
    assert told.returncode == 0, told.stderr
    command = json.loads((out / "card.json").read_text())["command"]
    assert shlex.split(command) == ["normscope", "compare", "digits", *options, "--out", str(out)]


def test_a_command_is_told_as_it_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NORMSCOPE_STARTED_AS", raising=False)
    assert _typed("report", "it's mine") == """normscope report 'it'"'"'s mine'"""
    monkeypatch.setenv("NORMSCOPE_STARTED_AS", "./run")
    assert _typed("compare", "digits") == "./run compare digits"


def test_a_report_needs_no_torch(tmp_path: Path) -> None:
    out = tmp_path / "study"
    run("compare", "digits", "--norms", "none,layer_norm", "--seeds", "0", "--steps", "10", "--out", str(out))
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    told = run("report", str(out), PYTHONPATH=str(tmp_path))
    assert told.returncode == 0, told.stderr


def test_bench_measures_norms_beside_torch() -> None:
    words = ["bench", "--norms", "ada_norm,rms_norm", "--shapes", "8x32", "--dtypes", "float32", "--seconds", "0.05"]
    told = run(*words)
    assert told.returncode == 0, told.stderr
    for word in ("8 rows of 32 in float32", "ada_norm", "nn.LayerNorm", "nn.RMSNorm", "1 thread", "back end"):
        assert word in told.stdout
    costs = json.loads(run(*words, "--json").stdout)
    assert [cost["norm"] for cost in costs["costs"]] == ["ada_norm", "rms_norm"]
    assert all(cost["ratio"] > 0 and cost["forward_us"] > 0 for cost in costs["costs"])


def test_lists_name_everything() -> None:
    from normscope.catalogue import NORMS, PARAMETRIZATIONS, PLACEMENTS, TASKS

    told = run("list", COLUMNS="200").stdout
    for name in (*NORMS, *PARAMETRIZATIONS, *PLACEMENTS, *TASKS):
        assert name in told
    assert "gradient_shares" in told
    assert "scale_norm" in run("list", "norms").stdout
    assert "digits" not in run("list", "norms").stdout


def test_data_tells_state_licence_and_home_page() -> None:
    told = run("data", COLUMNS="200")
    assert told.returncode == 0, told.stderr
    for words in ("digits", "mnist", "CC BY", "yann.lecun.com"):
        assert words in told.stdout


def test_a_damaged_set_is_named(tmp_path: Path) -> None:
    from normscope.data import SETS

    (tmp_path / "mnist").mkdir()
    for file in SETS["mnist"].files:
        (tmp_path / "mnist" / file.name).write_bytes(b"short")
    told = run("data", "verify", "mnist", NORMSCOPE_DATA=str(tmp_path))
    assert told.returncode != 0
    assert "train-images-idx3-ubyte.gz" in told.stderr
    assert "Traceback" not in told.stderr


def test_doctor_works_where_torch_is_broken(tmp_path: Path) -> None:
    told = run("doctor", COLUMNS="200")
    assert told.returncode == 0, told.stderr
    assert "torch" in told.stdout
    (tmp_path / "torch.py").write_text("raise ImportError('this torch is broken')")
    broken = run("doctor", COLUMNS="200", PYTHONPATH=str(tmp_path))
    assert broken.returncode == 0, broken.stderr


def test_warm_ups_and_norms_by_place_are_compared(tmp_path: Path) -> None:
    out = tmp_path / "study"
    options = ["--norms", "layer_norm,layer_norm+ada_norm(scale=2.0):final", "--placement", "pre+post:1-2"]
    options += ["--warmup", "0,5", "--seeds", "0", "--steps", "10", "--out", str(out), "--json"]
    told = run("compare", "digits", *options)
    assert told.returncode == 0, told.stderr
    summary = json.loads(told.stdout)
    assert [arm["label"] for arm in summary["arms"]] == [
        "layer_norm, warm-up 0",
        "layer_norm+ada_norm(scale=2.0):final, warm-up 0",
        "layer_norm, warm-up 5",
        "layer_norm+ada_norm(scale=2.0):final, warm-up 5",
    ]
    assert summary["complete"]
    assert len({arm["mean"] for arm in summary["arms"]}) > 1
