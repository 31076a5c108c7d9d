"""The command that is written down as the one that repeats a study is that command."""

import ast
import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import normscope
from normscope.cli.main import app
from normscope.cli.parsing import as_argument, as_typed, shell_words
from normscope.papers import ReproductionRequest, Setting
from normscope.studies.repeat import as_python, call_that_repeats
from normscope.studies.spec import Arm, StudySpec, make_study
from support.command_line import CommandLine

ALONE = ["--norms", "none,layer_norm", "--seeds", "0", "--steps", "4", "--workers", "1"]

ODD = [
    "it's mine",
    'a "b" c',
    "-dash",
    "tab\tbetween",
    "line\nbreak",
    ":fire:",
    "$(x) `y`",
    "é",
    "\udcff",
    "back\\slash",
    "",
]


def read_by_a_shell(line: str) -> list[str]:
    """Return the words that bash makes of a line."""
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    return printed.decode("utf-8", "surrogateescape").split("\0")[:-1]


@pytest.mark.parametrize("word", ODD)
def test_a_shell_reads_the_words_that_were_given(word: str) -> None:
    line = shell_words("normscope", "compare", word)
    assert line.isprintable()
    line.encode()
    assert read_by_a_shell(line) == ["normscope", "compare", word]


def test_a_folder_that_begins_with_a_dash_is_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NORMSCOPE_STARTED_AS", raising=False)
    for name in ("-dash", "--out", "plain", "/tmp/-x"):
        words = shlex.split(as_typed("report", as_argument(Path(name))))[1:]
        _, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
        assert Path(bound.arguments["directory"]).resolve() == Path(name).resolve()


EVERY_OPTION = [
    ["digits"],
    ["digits", "--norms", "layer_norm, ada_norm(scale=2.0,k=0.2),layer_norm+rms_norm:qk", "--seeds", "3,5,8-9"],
    ["digits", "--placement", "pre+post:1-2,mix(share=0.5)", "--warmup", "0,5", "--steps", "10"],
    ["digits", "--norms=none,layer_norm", "--baseline", "none", "--margin", "0.25", "--tune", "--preset", "full"],
    ["digits", "--precision", "bfloat16", "--device", "cpu", "--compile", "--workers", "3", "--retry-failed", "--json"],
    *(["digits", f"--out={folder}"] for folder in ODD if folder),
]


@pytest.mark.parametrize("words", EVERY_OPTION)
def test_the_command_line_reads_its_own_words_again(words: list[str]) -> None:
    again = read_by_a_shell(shell_words("normscope", "compare", *words))[1:]
    first, second = (
        app.parse_args(each, print_error=False, exit_on_error=False)[1] for each in (["compare", *words], again)
    )
    assert first.arguments == second.arguments


@pytest.mark.parametrize("folder", ["it's mine", "-dash", "tab\tbetween", ":fire:", "\udcff"])
def test_the_card_has_the_command_that_was_given(
    folder: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["compare", "digits", *ALONE, f"--out={folder}"]
    told = CommandLine(capfd)(*words, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    (card,) = tmp_path.glob("*/card.json")
    content = json.loads(card.read_text())
    assert read_by_a_shell(content["command"]) == ["normscope", *words]
    assert json.loads((card.parent / "summary.json").read_text())["command"] == content["command"]
    again = CommandLine(capfd)(*read_by_a_shell(content["command"])[1:], cwd=tmp_path)
    assert "2 of 2 runs are already finished" in again.stdout
    assert json.loads(card.read_text()) == content


def test_the_users_code_cannot_change_the_command(
    capfd: pytest.CaptureFixture[str], user_file: Callable[..., str], tmp_path: Path
) -> None:
    name = user_file(
        ("from torch import nn\n", "from torch import nn\nimport sys\nsys.argv = ['other', '--steps', '9']\n")
    )
    words = ["compare", name, *ALONE, "--out", str(tmp_path / "study")]
    told = CommandLine(capfd)(*words)
    assert told.returncode == 0, told.stderr
    assert shlex.split(json.loads((tmp_path / "study" / "card.json").read_text())["command"]) == ["normscope", *words]


def value_of(line: str, function: str, **names: Any) -> tuple[list[Any], dict[str, Any]]:
    """Evaluate the arguments of a call that is written as Python."""
    call = ast.parse(line, mode="eval").body
    assert isinstance(call, ast.Call)
    assert ast.unparse(call.func) == function

    def value(node: ast.expr) -> Any:
        return eval(compile(ast.Expression(node), "line", "eval"), {"normscope": normscope, **names})

    return [value(each) for each in call.args], {str(each.arg): value(each.value) for each in call.keywords}


OPTIONS: list[dict[str, Any]] = [
    {},
    {"norms": ["layer_norm"], "seeds": 3},
    {"norms": ["ada_norm(scale=2.0,k=0.2)", "layer_norm+ada_norm:final"], "placements": ["pre", "post"]},
    {
        "norms": ["none", "rms_norm"],
        "baseline": "rms_norm, warm-up 9",
        "warmups": [0, 9],
        "steps": 20,
        "preset": "full",
    },
    {"seeds": (4, 2, 9), "margin": 0.125, "tune": True, "precision": "bfloat16", "compile": True, "question": "it's?"},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("out", [None, Path("it's mine")])
def test_the_line_of_python_gives_the_same_study(options: dict[str, Any], out: Path | None) -> None:
    study_spec = make_study("digits", **options)
    (task,), given = value_of(call_that_repeats(study_spec, out), "normscope.compare")
    assert given.pop("out", None) == (None if out is None else str(out))
    assert make_study(task, **given) == study_spec
    assert set(given) <= {*options, "norms", "placements"}


def test_the_line_of_python_of_a_study_that_no_options_give() -> None:
    arms = (Arm.parse("none", "pre", learning_rate=1e-3), Arm.parse("ada_norm(scale=2.0)", "post"))
    study_spec = StudySpec(
        question='is "it"?', task="digits", arms=arms, baseline=1, margin=0.5, seeds=(0, 3), steps=20, alpha=0.01
    )
    (again,), given = value_of(call_that_repeats(study_spec, None), "normscope.compare")
    assert (again, again.id, given) == (study_spec, study_spec.id, {})


def test_the_line_of_python_of_a_users_file(user_file: Callable[..., str]) -> None:
    study_spec = make_study(user_file(), norms=["none", "layer_norm"], seeds=2)
    (task,), given = value_of(call_that_repeats(study_spec, None), "normscope.compare")
    assert make_study(task, **given) == study_spec


def test_the_line_of_python_of_a_reproduction() -> None:
    request = ReproductionRequest(
        paper="xu2019", only=("rt",), seeds=(0, 1), out=Path("a b"), read_only=True, gradients=Setting(layers=(1, 2))
    )
    again = eval(as_python(request, "normscope.papers"), {"normscope": normscope})
    assert again.folder == request.folder
    assert (again.only, again.seeds, again.gradients, again.read_only) == (("rt",), (0, 1), request.gradients, True)
