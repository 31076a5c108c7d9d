"""``normscope judge``: exit codes that a script can act on, the answer in JSON, the page, and no torch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from normscope.cli.gate import EXIT_CODES, decision, gate
from normscope.results.foreign import judge
from support.command_line import CommandLine


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line in this process."""
    return CommandLine(capfd)


@pytest.fixture
def results(tmp_path: Path) -> Callable[..., Path]:
    """Write a table of ten seeds whose arms have these differences from the baseline; None is a run of NaN."""

    def write(**arms: float | None) -> Path:
        rows = ["arm,seed,test_loss"]
        for arm, add in {"baseline": 0.0, **arms}.items():
            for seed in range(10):
                wiggle = 0.001 * (-1) ** seed * (1 + seed) * {"baseline": 0, "undecided": 3}.get(arm, 1)
                value = 0.3 + seed / 50 + (add or 0.0) + wiggle
                rows.append(f"{arm},{seed},{'nan' if add is None and seed == 4 else value}")
        path = tmp_path / "results.csv"
        path.write_text("\n".join(rows))
        return path

    return write


ARMS = {"better": -0.1, "equivalent": 0.0, "worse": 0.1, "undecided": 0.009, "fails": None}


@pytest.mark.parametrize("wanted", ARMS)
def test_every_decision_has_its_exit_code(wanted: str, results: Callable[..., Path], here: CommandLine) -> None:
    path = str(results(**{wanted: ARMS[wanted]}))
    assert here("judge", path, "--margin", "0.01").returncode == 0
    told = here("judge", path, "--margin", "0.01", "--gate", "--json")
    assert told.returncode == {"better": 0, "equivalent": 10, "worse": 11, "undecided": 12, "fails": 13}[wanted]
    content = json.loads(told.stdout)
    assert (content["decision"], content["exit_code"]) == (wanted, told.returncode)
    assert content["studies"][0]["decisions"] == {wanted: wanted}


@pytest.mark.parametrize("cell", ["nan", "", "crashed"])
def test_a_baseline_that_fails_decides_as_an_arm_that_fails(
    cell: str, results: Callable[..., Path], here: CommandLine
) -> None:
    path = results(better=-0.1)
    lines = path.read_text().splitlines()
    assert lines[3].startswith("baseline,2,")
    path.write_text("\n".join([*lines[:3], f"baseline,2,{cell}", *lines[4:]]))
    told = here("judge", str(path), "--margin", "0.01", "--gate", "--json")
    assert told.returncode == EXIT_CODES["fails"]
    assert json.loads(told.stdout)["studies"][0]["decisions"] == {"better": "fails"}


def test_an_exploratory_claim_decides_nothing(results: Callable[..., Path], here: CommandLine, tmp_path: Path) -> None:
    path = results(better=-0.1)
    words = ["judge", str(path), "--margin", "0.01", "--gate", "--out", str(tmp_path / "study")]
    assert here(*words).returncode == 0
    path.write_text(path.read_text() + "\nbaseline,10,0.3\nbetter,10,0.2")
    assert here(*words).returncode == EXIT_CODES["undecided"]
    assert judge(path, margin=0.01).arms[1].verdict == "better"


def test_the_most_pessimistic_arm_decides_unless_one_is_named(results: Callable[..., Path], here: CommandLine) -> None:
    path = results(**ARMS)
    summary = judge(path, margin=0.01)
    assert {arm.label: decision(arm) for arm in summary.arms[1:]} == {arm: arm for arm in ARMS}
    order = ["worse", "fails", "undecided", "equivalent", "better"]
    for place, arm in enumerate(order):
        assert gate([summary], arm) == arm
        kept = judge(results(**{name: ARMS[name] for name in reversed(order[place:])}), margin=0.01)
        assert gate([kept]) == arm
    path = str(results(**ARMS))
    assert here("judge", path, "--margin", "0.01", "--gate").returncode == 11
    assert here("judge", path, "--margin", "0.01", "--gate", "--gate-arm", "better").returncode == 0
    told = here("judge", path, "--margin", "0.01", "--gate", "--gate-arm", "baseline")
    assert told.returncode == 2
    assert "no arm 'baseline' for --gate-arm to compare; there are better, equivalent, worse" in told.stderr


@pytest.mark.parametrize("command", ["judge", "compare"])
def test_help_has_every_exit_code(command: str, here: CommandLine) -> None:
    told = " ".join(here(command, "--help", COLUMNS="200").stdout.split())
    for name, code in EXIT_CODES.items():
        assert f"{code} {'runs fail' if name == 'fails' else name}" in told or f"{code} every arm is {name}" in told


@pytest.mark.slow
def test_compare_ends_with_the_code_of_its_verdict(here: CommandLine, tmp_path: Path) -> None:
    words = ["compare", "digits", "--norms", "layer_norm,none", "--seeds", "0-1", "--steps", "5", "--workers", "1"]
    words += ["--out", str(tmp_path / "study")]
    told = here(*words, "--gate", "--gate-arm", "rms_norm")
    assert told.returncode == 2
    assert "there is no arm 'rms_norm' for --gate-arm to compare; there are none" in told.stderr
    assert not (tmp_path / "study").exists()
    assert here(*words).returncode == 0
    assert here(*words, "--gate").returncode == EXIT_CODES["undecided"]


def test_the_page_the_folder_and_what_was_read(results: Callable[..., Path], here: CommandLine, tmp_path: Path) -> None:
    path, page, out = str(results(worse=0.1)), tmp_path / "page.html", tmp_path / "study"
    told = here("judge", path, "--margin", "0.01", "--html", str(page), "--out", str(out))
    assert told.returncode == 0, told.stderr
    assert (
        "results.csv was read as CSV, 20 rows; arm = column arm; seed = column seed; metric = test_loss, lower"
        in told.stdout
    )
    assert f"Report: {page}" in told.stdout
    html = page.read_text()
    assert html == (out / "report.html").read_text()
    for words in ("Read from results.csv (CSV)", "is worse than baseline", "other examples are not covered"):
        assert words in html
    assert "Written before the first run" not in html
    again = here("report", str(out))
    assert again.returncode == 0, again.stderr
    assert (out / "report.html").read_text() == html


def test_several_studies_have_a_table_each_and_need_a_folder(here: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    rows = ["arm,seed,test_loss,test_accuracy"]
    rows += [
        f"{arm},{seed},{0.3 + seed / 50 + add},{0.7 - seed / 50 - add}"
        for arm, add in (("baseline", 0), ("a", 0.1))
        for seed in range(8)
    ]
    path.write_text("\n".join(rows))
    words = ["judge", str(path), "--margin", "0.01", "--metric", "test_loss,test_accuracy"]
    told = here(*words)
    assert told.stdout.count("results.csv was read as") == 2
    assert "2 studies, each at its own alpha: not corrected for their number" in told.stdout
    told = here(*words, "--html", str(tmp_path / "page.html"))
    assert told.returncode == 2
    assert "2 studies have 2 pages: keep them in a folder with --out" in told.stderr
    assert here(*words, "--out", str(tmp_path / "out")).returncode == 0
    assert len(list((tmp_path / "out").glob("*/report.html"))) == 2


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["gone.csv", "--margin", "1"], 1, "there is no file or folder gone.csv"),
        (["results.csv", "--margin", "0"], 2, "the margin must be positive and finite"),
        (
            ["results.csv", "--margin", "1", "--arm", "norm"],
            2,
            "no column 'norm' for --arm; it has arm; seed; test_loss",
        ),
        (["results.csv", "--margin", "1", "--higher-is-better", "--lower-is-better"], 2, "exclude each other"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], status: int, told: str, results: Callable[..., Path], here: CommandLine, tmp_path: Path
) -> None:
    results(worse=0.1)
    answer = here("judge", *words, cwd=tmp_path)
    assert answer.returncode == status
    assert told in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_large_and_small_numbers_leave_room_for_the_others(
    scale: float, results: Callable[..., Path], here: CommandLine
) -> None:
    path = results(worse=0.1)
    head, *rows = path.read_text().splitlines()
    cells = [row.rsplit(",", 1) for row in rows]
    path.write_text("\n".join([head, *(f"{start},{float(value) * scale!r}" for start, value in cells)]))
    told = here("judge", str(path), "--margin", str(0.01 * scale))
    assert told.returncode == 0
    assert "95 % interval" in told.stdout
    assert "adj. p" in told.stdout
    assert f"e{'+' if scale > 1 else '-'}2" in told.stdout


def test_a_margin_is_not_guessed(results: Callable[..., Path], here: CommandLine) -> None:
    told = here("judge", str(results(worse=0.1)))
    assert told.returncode != 0
    assert "margin" in (told.stdout + told.stderr).casefold()


def test_a_process_without_torch(results: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    words = ["judge", str(results(worse=0.1)), "--margin", "0.01", "--gate", "--out", str(tmp_path / "study")]
    told = subprocess.run(
        [sys.executable, "-m", "normscope.cli.main", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert told.returncode == 11, told.stderr
    assert (tmp_path / "study" / "report.html").exists()
