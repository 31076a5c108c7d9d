"""The command line as a person uses it: its words and its exit status, in a real process where that matters."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import normscope
from normscope.cli.parsing import as_typed
from support.command_line import CommandLine


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line in this process."""
    return CommandLine(capfd)


ALONE = ["--workers", "1"]
"""A worker costs two seconds of imports."""


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    if "PYTHONPATH" in environment:
        # Before what these tests were started with.
        environment["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
    return subprocess.run(
        [sys.executable, "-m", "normscope.cli.main", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        env={**os.environ, "COLUMNS": "100", **environment},
    )


def path_with(folder: Path) -> str:
    """Put a folder before what PYTHONPATH has, which may be where normscope itself comes from."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def test_help_teaches_without_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    for words in (["--help"], ["compare", "--help"], ["data", "--help"], ["report", "--help"]):
        told = run(*words, PYTHONPATH=path_with(tmp_path))
        assert told.returncode == 0, told.stderr
        assert "Usage" in told.stdout
    assert "normscope compare digits" in run("compare", "--help").stdout


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["bench", "--norms", "layernorm"], 2, "did you mean 'layer_norm'?"),
        (["bench", "--shapes", "64"], 2, "shapes must have the form 4096x512,64x1000, got '64'"),
        (["bench", "--dtypes", "float31"], 2, "did you mean 'float32'?"),
        (["bench", "--cell", "lstm"], 2, "--cell is for recurrent layers: give --recurrent, too"),
        (["bench", "--recurrent", "--shapes", "8x8"], 2, "give --batch, --hidden and --steps"),
        (["bench", "--recurrent", "--cell", "lstn"], 2, "did you mean 'lstm'?"),
        (["bench", "--recurrent", "--batch", "8,0"], 2, "batch must be a number above zero, or several such as 8,64"),
        (["bench", "--recurrent", "--norms", "frn"], 2, "normalizes each row by itself"),
        (["compare", "digts"], 2, "there is no task 'digts': did you mean 'digits'?"),
        (["compare", "digits", "--norms", "layernorm"], 2, "did you mean 'layer_norm'?"),
        (["compare", "digits", "--placement", "prenorm"], 2, "did you mean 'pre'?"),
        (["compare", "digits", "--seeds", "a-b"], 2, "seeds must have the form 0-9 or 3,5,8, got 'a-b'"),
        (["compare", "digits", "--seeds", "9-0"], 2, "seeds must have the form 0-9 or 3,5,8, got '9-0'"),
        (["compare", "digits", "--seeds", "0-99999999"], 2, "a study may have at most 10000 seeds"),
        (["compare", "digits", "--workers", "0"], 2, "workers must be at least 1, got 0"),
        (["compare", "digits", "--margin", "inf"], 2, "margin must be positive and finite"),
        (["compare", "digits", "--steps", "0"], 2, "steps must be a whole number of at least 1, got 0"),
        (["compare", "digits", "--norms", "frn"], 2, "arm frn cannot be trained on digits: "),
        (["compare", "digits", "--device", "toaster"], 2, "toaster"),
        (["compare", "digits", "--warmup", "few"], 2, "numbers must have the form 0,500,4000, got 'few'"),
        (["compare", "digits", "--placement", "pre+post:9-1"], 2, "expected layers such as '2' or '1-3'"),
        (["compare", "digits", "--norms", "layer_norm+adanorm:final"], 2, "did you mean 'ada_norm'?"),
        (["report", "nowhere"], 1, "nowhere holds no study"),
        (["data", "fetch", "mnst"], 2, "Did you mean 'mnist'?"),
    ],
)
def test_mistakes_are_one_sentence_and_no_traceback(
    words: list[str], status: int, told: str, here: CommandLine, tmp_path: Path
) -> None:
    result = here(*words, cwd=tmp_path)
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert result.returncode == status
    assert not list(tmp_path.iterdir())


def test_a_mistake_ends_a_real_process_with_its_status() -> None:
    told = run("compare", "digts")
    assert (told.returncode, told.stdout) == (2, "")
    assert "there is no task 'digts': did you mean 'digits'?" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.slow
def test_a_study_is_printed_written_and_drawn_again(here: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "study"
    options = ["--norms", "layer_norm,ada_norm(scale=2.0,k=0.2)", "--seeds", "0-1", "--steps", "20", "--out", str(out)]
    options += ALONE
    told = run("compare", "digits", *options, COLUMNS="140")
    assert told.returncode == 0, told.stderr
    for words in ("layer_norm", "ada_norm(scale=2.0, k=0.2)", "baseline", "not enough evidence", "Report:"):
        assert words in told.stdout
    as_json = here("compare", "digits", *options, "--json")
    assert json.loads(as_json.stdout) == json.loads((out / "summary.json").read_text())
    (out / "report.html").unlink()
    (out / "summary.json").unlink()
    again = here("report", str(out))
    assert again.returncode == 0, again.stderr
    assert (out / "report.html").exists()
    assert json.loads((out / "summary.json").read_text()) == json.loads(as_json.stdout)


@pytest.mark.slow
def test_a_terminal_that_lacks_letters_ends_no_study(tmp_path: Path) -> None:
    out = tmp_path / "it's mine"
    options = ["--norms", "layer_norm,ada_norm(convention='released')", "--seeds", "0", "--steps", "10"]
    options += ALONE
    told = run("compare", "digits", *options, "--out", str(out), PYTHONIOENCODING="ascii")
    assert told.returncode == 0, told.stderr
    command = json.loads((out / "card.json").read_text())["command"]
    assert shlex.split(command) == ["normscope", "compare", "digits", *options, "--out", str(out)]


def test_a_command_is_told_as_it_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NORMSCOPE_STARTED_AS", raising=False)
    assert as_typed("report", "it's mine") == """normscope report 'it'"'"'s mine'"""
    monkeypatch.setenv("NORMSCOPE_STARTED_AS", "./run")
    assert as_typed("compare", "digits") == "./run compare digits"


@pytest.mark.slow
def test_a_report_needs_no_torch(here: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "study"
    here("compare", "digits", "--norms", "none,layer_norm", "--seeds", "0", "--steps", "10", *ALONE, "--out", str(out))
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    told = run("report", str(out), PYTHONPATH=path_with(tmp_path))
    assert told.returncode == 0, told.stderr


def test_bench_measures_norms_beside_torch(here: CommandLine) -> None:
    words = ["bench", "--norms", "ada_norm,rms_norm", "--shapes", "8x32", "--dtypes", "float32", "--seconds", "0.05"]
    told = here(*words)
    assert told.returncode == 0, told.stderr
    for word in ("8 rows of 32 in float32", "ada_norm", "nn.LayerNorm", "nn.RMSNorm", "1 thread", "backend"):
        assert word in told.stdout
    costs = json.loads(here(*words, "--json").stdout)
    assert [cost["norm"] for cost in costs["costs"]] == ["ada_norm", "rms_norm"]
    assert all(cost["ratio"] > 0 and cost["forward_us"] > 0 for cost in costs["costs"])


def test_bench_measures_recurrent_layers_beside_torch(here: CommandLine) -> None:
    words = [
        "bench",
        "--recurrent",
        "--cell",
        "gru",
        "--norms",
        "rms_norm",
        "--batch",
        "2,3",
        "--hidden",
        "8",
        "--steps",
        "5",
        "--seconds",
        "0.01",
    ]
    told = here(*words)
    assert told.returncode == 0, told.stderr
    for word in ("gru, 5 steps, batch 2, 8 units, float32", "batch 3", "nn.GRU", "rms_norm", "saved MB", "1 thread"):
        assert word in told.stdout
    costs = json.loads(here(*words, "--json").stdout)["costs"]
    assert [(cost["batch"], cost["norm"]) for cost in costs] == [(2, None), (2, "rms_norm"), (3, None), (3, "rms_norm")]


def test_lists_name_everything(here: CommandLine) -> None:
    from normscope.norms import NORMS, PARAMETRIZATIONS
    from normscope.placement import PLACEMENTS
    from normscope.tasks import TASKS

    told = here("list", COLUMNS="200").stdout
    for name in (*NORMS, *PARAMETRIZATIONS, *PLACEMENTS, *TASKS):
        assert name in told
    assert "gradient_shares" in told
    norms = here("list", "norms").stdout
    assert "scale_norm" in norms
    assert "digits" not in norms


def test_data_tells_state_licence_and_home_page(here: CommandLine) -> None:
    told = here("data", COLUMNS="200")
    assert told.returncode == 0, told.stderr
    for words in ("digits", "mnist", "CC BY", "yann.lecun.com"):
        assert words in told.stdout


def test_a_damaged_set_is_named(here: CommandLine, tmp_path: Path) -> None:
    from normscope.data import SETS

    (tmp_path / "mnist").mkdir()
    for file in SETS["mnist"].files:
        (tmp_path / "mnist" / file.name).write_bytes(b"short")
    told = here("data", "verify", "mnist", NORMSCOPE_DATA=str(tmp_path))
    assert told.returncode != 0
    assert "train-images-idx3-ubyte.gz" in told.stderr
    assert "Traceback" not in told.stderr


def test_doctor_works_where_torch_is_broken(here: CommandLine, tmp_path: Path) -> None:
    told = here("doctor", COLUMNS="200")
    assert told.returncode == 0, told.stderr
    assert "torch" in told.stdout
    (tmp_path / "torch.py").write_text("raise ImportError('this torch is broken')")
    broken = run("doctor", COLUMNS="200", PYTHONPATH=path_with(tmp_path))
    assert broken.returncode == 0, broken.stderr


@pytest.mark.slow
def test_warm_ups_and_norms_by_place_are_compared(here: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "study"
    options = ["--norms", "layer_norm,layer_norm+ada_norm(scale=2.0):final", "--placement", "pre+post:1-2"]
    options += ["--warmup", "0,5", "--seeds", "0", "--steps", "10", *ALONE, "--out", str(out), "--json"]
    told = here("compare", "digits", *options)
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


@pytest.mark.slow
def test_a_new_file_runs_as_it_is_told(here: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "my file.py"
    told = here("new", str(path), NORMSCOPE_STARTED_AS="./run")
    assert told.returncode == 0, told.stderr
    command = told.stdout.strip().split("It runs without changes:  ")[1]
    starts, *words = shlex.split(command)
    assert starts == "./run"
    options = ["--norms", "none,layer_norm", "--seeds", "0", "--steps", "10", *ALONE, "--out", str(tmp_path / "study")]
    assert here(*words, *options).returncode == 0
    assert (tmp_path / "study" / "report.html").exists()


def test_a_new_file_never_takes_the_place_of_another(here: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "my_file.py"
    path.write_text("mine = True\n")
    told = here("new", str(path))
    assert told.returncode == 2
    assert "already exists and was not changed" in told.stderr
    assert path.read_text() == "mine = True\n"
    link = tmp_path / "link.py"
    link.symlink_to(tmp_path / "nowhere.py")
    assert here("new", str(link)).returncode == 2
    assert not (tmp_path / "nowhere.py").exists()
    assert "expected the name of a Python file, such as my_file.py" in here("new", str(tmp_path / "my_file.txt")).stderr
    gone = here("new", str(tmp_path / "no_folder" / "my_file.py"))
    assert gone.returncode == 1
    assert "no_folder" in gone.stderr
    assert "Traceback" not in gone.stderr


SMALL = ["--norms", "none,layer_norm", "--seeds", "0-1", *ALONE]


@pytest.mark.parametrize(
    ("change", "function", "status", "told"),
    [
        (None, "mak", 2, "my_file.py has no function 'mak': did you mean 'make'? it defines make"),
        (("placement, seed)", "placement)"), "make", 2, "my_file.py:make must take norm, placement and seed"),
        (("    y = ", "    return 3\n    y = "), "make", 2, "my_file.py:make must return a normscope.Trial, got int"),
        (("    y = ", "    x.nonsense()\n    y = "), "make", 1, "my_file.py:make failed:"),
        (("\n\n\ndef make", "\n\nraise SystemExit(0)\n\n\ndef make"), "make", 1, "SystemExit: 0"),
        (("    x = ", "    x y = "), "make", 1, "SyntaxError: invalid syntax"),
    ],
)
def test_mistakes_in_a_users_file_are_theirs(
    change: tuple[str, str] | None,
    function: str,
    status: int,
    told: str,
    here: CommandLine,
    user_file: Callable[..., str],
    tmp_path: Path,
) -> None:
    name = user_file(*([change] if change else [])).removesuffix("make") + function
    result = here("compare", name, *SMALL, "--out", str(tmp_path / "study"))
    assert result.returncode == status
    assert told in result.stderr
    assert str(Path(normscope.__file__).parent) not in result.stderr
    if "nonsense" in str(change):
        assert "x.nonsense()" in result.stderr
        assert 'my_file.py", line 12, in make' in result.stderr
    assert not (tmp_path / "study").exists()


def test_a_file_that_is_not_there_and_one_without_its_function(here: CommandLine) -> None:
    gone = here("compare", "gone.py:make")
    assert gone.returncode == 2
    assert "there is no file" in gone.stderr
    half = here("compare", "gone.py")
    assert half.returncode == 2
    assert "expected a file and a function in it, such as my_file.py:make, got 'gone.py'" in half.stderr


def test_tuning_a_file_without_a_split_is_refused_before_anything_is_written(
    here: CommandLine, user_file: Callable[..., str], tmp_path: Path
) -> None:
    told = here("compare", user_file(), *SMALL, "--tune", "--out", str(tmp_path / "study"))
    assert told.returncode == 2
    assert "my_file.py:make cannot be tuned: give the function a fourth parameter, split" in told.stderr
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_a_study_of_a_file_goes_on_from_another_folder_and_not_after_an_edit(
    here: CommandLine, user_file: Callable[..., str], tmp_path: Path
) -> None:
    """The file prints at import, has a neighbour, asks for input in a run, and lies in a folder with a space."""
    folder = tmp_path / "my own"
    (folder).mkdir()
    (folder / "neighbour_of_a_cli_test.py").write_text("print('hello from beside')\nWIDTH = 8\n")
    top = (
        "from torch import nn\n",
        "from torch import nn\nfrom neighbour_of_a_cli_test import WIDTH\nprint('{\"event\": 1}')\n",
    )
    asks = ("    y = ", "    try:\n        input()\n    except EOFError:\n        pass\n    y = ")
    width = ("norm(8)", "norm(WIDTH)")
    out = str(tmp_path / "study")
    name = user_file(top, width, asks, path=folder / "my file.py")
    told = run("compare", name, *SMALL, "--out", out, "--json")
    assert told.returncode == 0, told.stderr
    summary = json.loads(told.stdout)
    assert summary["task"] == "my file.py:make"
    assert all(one["state"] == "done" for arm in summary["arms"] for one in arm["runs"])
    assert "hello from beside" in told.stderr
    assert "hello from beside" in (tmp_path / "study" / "workers.log").read_text()
    words = ["compare", "./my file.py:make", *SMALL, "--out", out]
    again = here(*words, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "4 of 4 runs are already finished" in again.stdout
    (folder / "neighbour_of_a_cli_test.py").write_text("WIDTH = 4 + 4\n")
    refused = here(*words, cwd=folder)
    assert refused.returncode == 2
    assert "because my file.py:make has changed since: choose another folder with --out" in refused.stderr


@pytest.mark.slow
def test_an_error_in_one_run_leaves_the_others_their_verdict(
    here: CommandLine, user_file: Callable[..., str], tmp_path: Path
) -> None:
    change = (
        "        return F.cross",
        "        if seed == 1 and model.training:\n            batch.nonsense()\n        return F.cross",
    )
    told = here("compare", user_file(change), *SMALL, "--out", str(tmp_path / "study"), "--json")
    assert told.returncode == 0, told.stderr
    states = {(one["seed"], one["state"]) for arm in json.loads(told.stdout)["arms"] for one in arm["runs"]}
    assert states == {(0, "done"), (1, "failed")}
    errors = [path.read_text() for path in (tmp_path / "study").glob("runs/*/error.txt")]
    assert len(errors) == 2
    assert all("batch.nonsense()" in error and "normscope/" not in error for error in errors)
    assert "has no attribute &#39;nonsense&#39; (my_file.py" in (tmp_path / "study" / "report.html").read_text()


@pytest.mark.slow
def test_a_study_none_of_whose_runs_could_be_computed_has_no_answer(
    here: CommandLine, user_file: Callable[..., str], tmp_path: Path
) -> None:
    # Behind what is tried before the first run.
    top = ("\n\n\ndef make", "\n\nSEEN = []\n\n\ndef make")
    change = (
        "        return F.cross",
        "        SEEN.append(1)\n        if len(SEEN) > 5:\n            batch.nonsense()\n        return F.cross",
    )
    name = user_file(top, change)
    for words in ([], ["--json"]):
        told = here("compare", name, *SMALL, "--out", str(tmp_path / "study"), *words)
        assert told.returncode == 1
        assert "4 of 4 runs could not be computed; the reasons are in" in told.stderr
        assert "Traceback" not in told.stderr
    assert not json.loads(told.stdout)["arms"][0]["mean"]
    assert (tmp_path / "study" / "report.html").exists()
    assert here("report", str(tmp_path / "study")).returncode == 0


@pytest.mark.parametrize("name", ["summary.csv", "summary.json", "report.html", "workers.log", "lease"])
def test_files_of_somebody_elses_are_not_written_over(name: str, here: CommandLine, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    told = here("compare", "digits", "--out", str(tmp_path))
    assert told.returncode == 2
    assert f"{name} exists, but no card.json that identifies its study" in told.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_folder_that_is_none_is_told(here: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("mine")
    for out in ("a.py", "a.py/study"):
        told = here("compare", "digits", "--out", str(tmp_path / out))
        assert told.returncode == 2
        assert "a.py is a file; a study needs a folder" in told.stderr
    (tmp_path / "card.json").write_text('{"a": 1}')
    told = here("compare", "digits", "--out", str(tmp_path))
    assert told.returncode == 2
    assert "card.json was not written by normscope" in told.stderr


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("nofolder/a.py", 1, "there is no folder nofolder: create it first"),
        ("torch.py", 2, "torch.py would shadow the module 'torch' for itself and for every file beside it"),
        ("random.py", 2, "random.py would shadow the module 'random'"),
        ("-x.py", 2, "a name that begins with a dash would be read as an option"),
    ],
)
def test_a_new_file_with_a_name_that_cannot_be_used(
    path: str, status: int, told: str, here: CommandLine, tmp_path: Path
) -> None:
    result = here("new", "--", path, cwd=tmp_path)
    assert result.returncode == status
    assert told in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_neighbour_hides_no_name(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "mine_of_a_cli_test.py").touch()
    words = [sys.executable, "-m", "normscope.cli.main", "new", "sub/mine_of_a_cli_test.py"]
    result = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
