"""What surrounds a command: streams that are closed or end, folders and files whose names are not UTF-8, C locales."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
PROGRAM = [sys.executable, "-m", "normscope"]
SMALL = ["--norms", "none,layer_norm", "--seeds", "0", "--steps", "5", "--workers", "1"]
BYTES = os.fsdecode(b"\xff")


def normscope(*words: str, cwd: Path, stdout: int = subprocess.PIPE, **variables: str) -> subprocess.CompletedProcess:
    command = [*PROGRAM, *words]
    pipes = {"stdout": stdout, "stderr": subprocess.PIPE}
    return subprocess.run(command, cwd=cwd, env={**os.environ, **variables}, check=False, **pipes)


def in_shell(command: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run a line of a shell, with the command line as $N."""
    variables = {**os.environ, "N": " ".join(PROGRAM)}
    return subprocess.run(["sh", "-c", command], cwd=cwd, env=variables, capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "list",
        "doctor",
        "--help",
        "bench --norms none --shapes 8x32 --dtypes float32 --seconds 0.01 --json",
        "diagnose digits --out page.html --json",
    ],
)
def test_a_reader_that_ends_and_a_closed_stream_are_no_errors(words: str, tmp_path: Path) -> None:
    piped = in_shell(f"{{ $N {words}; echo $? >&2; }} | true", tmp_path)
    assert piped.stderr.split()[-1] == b"1"
    assert b"Broken pipe" not in piped.stderr
    assert b"Traceback" not in piped.stderr
    closed = in_shell(f"$N {words} >&-", tmp_path)
    assert closed.returncode == 0, closed.stderr
    assert closed.stdout == b""


def test_an_error_without_a_stream_to_say_it_on_keeps_its_status(tmp_path: Path) -> None:
    assert in_shell("$N list nonsense >&- 2>&- <&-", tmp_path).returncode != 0
    assert in_shell("$N report nowhere >&- 2>&- <&-", tmp_path).returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_sentence(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = normscope("list", cwd=tmp_path, stdout=full.fileno())
    assert (done.returncode, done.stderr) == (1, b"normscope: [Errno 28] No space left on device\n")


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
@pytest.mark.slow
@pytest.mark.parametrize("variables", [{}, ASCII], ids=["utf8", "ascii"])
def test_folders_whose_names_are_not_utf8(
    variables: dict[str, str], tmp_path: Path, user_file: Callable[..., str]
) -> None:
    folder = tmp_path / f"in {BYTES}"
    folder.mkdir()
    user_file(path=folder / "my_file.py")
    study = f"s{BYTES}"
    for words in (
        ("compare", "my_file.py:make", *SMALL, "--out", study),
        ("report", study),
        ("diagnose", "my_file.py:make", "--out", f"d{BYTES}.html"),
        ("new", f"f{BYTES}.py"),
        ("doctor",),
    ):
        done = normscope(*words, cwd=folder, **variables)
        assert done.returncode == 0, (words, done.stderr)
    assert (folder / study / "report.html").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("compare", f"f{BYTES}.py:make"), 2, b"the name of a file must be UTF-8 text, got 'f\\udcff.py': rename it"),
        (("compare", f"digits{BYTES}"), 2, b"did you mean 'digits'?"),
        (("report", BYTES), 1, b"holds no study"),
        (("compare", "digits", "--norms", BYTES), 2, b"expected a norm such as 'ada_norm'"),
    ],
)
def test_names_that_are_not_utf8_get_a_sentence(
    words: tuple[str, ...], status: int, said: bytes, tmp_path: Path
) -> None:
    done = normscope(*words, cwd=tmp_path)
    assert done.returncode == status
    assert said in done.stderr
    assert done.stderr.count(b"\n") == 1
