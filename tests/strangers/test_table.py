"""What a run leaves on disk, what is run again, and the table of it."""

import json
import re
from pathlib import Path

import pytest

from strangers import __main__ as command
from strangers import table

ABOUT = {"commit": "abc1234", "date": "2026-11-29", "versions": {"torch": "2.14.1", "timm": "1.0.31"}}


def record(name: str, *cells: tuple[str, str, str], **more: object) -> dict:
    listed = [{"cell": cell, "status": status, "error": error} for cell, status, error in cells]
    about = {"library": "timm", "name": name, "backend": "aot_eager", "seconds": 1.0, **ABOUT}
    return about | {"cells": listed} | (more or {"built": name, "norms": ["layer_norm"]})


RECORDS = [
    record(
        "beit", ("own/repeat", "ok", ""), ("dyt/swap", "failed", "RuntimeError: shape '[2, 8]' of size 17 in float64")
    ),
    record(
        "cait", ("own/repeat", "ok", ""), ("dyt/swap", "failed", "RuntimeError: shape '[4, 4]' of size 3 in float64")
    ),
    record("deit", ("own/repeat", "theirs", "CheckFailed: not the same"), ("none/swap", "refused", "ValueError: no")),
    record("eva", not_built="build: TimeoutError: more than 2 s of processor time"),
    record("pit", ("none/swap", "timeout", "over the time limit of 9 s")),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for each in RECORDS:
        table.write(tmp_path / "timm" / f"{each['name']}.json", json.dumps(each) + "\n")
    return tmp_path


def test_failures_that_differ_in_numbers_and_shapes_have_one_cause(folder: Path) -> None:
    records = table.read(folder)
    assert records == RECORDS
    failed = [(r["name"], cell) for r in records for cell in r["cells"] if cell["status"] == "failed"]
    assert table.grouped(failed) == [
        ("RuntimeError: shape … of size N in float64", "", ["beit dyt/swap", "cait dyt/swap"])
    ]


def test_the_page_counts_every_status_once(folder: Path) -> None:
    table.write(folder / "listed.json", '{"timm": 98}')
    page = table.page(table.read(folder), table.read_listed(folder))
    assert "| timm | 1.0.31 | 98 | 5 | 4 | 4 | 1 |" in page
    assert "| `dyt` | swap | 0 | 0 | 2 | 0 |" in page
    assert "| `none` | swap | 0 | 1 | 1 | 0 |" in page
    assert "| as it is | repeat | 2 | 0 | 0 | 1 |" in page
    assert re.findall(r"^## .*\((\d+) ", page, re.MULTILINE) == ["3", "1", "1", "1"]
    assert "torch 2.14.1" in page
    assert "normscope at abc1234 (5);" in page


def test_a_finished_architecture_is_left_alone_and_a_failed_one_is_run_again_when_asked(folder: Path) -> None:
    def open_ones(*arguments: str) -> list[str]:
        chosen = command.parse(["--out", str(folder), *arguments])
        return [name for name in ("beit", "deit", "eva", "pit", "vit") if command._is_open(chosen, "timm", name)]

    assert open_ones() == ["vit"]
    assert open_ones("--again", "failed") == ["beit", "pit", "vit"]
    assert open_ones("--again", "unbuilt") == ["eva", "vit"]
    assert open_ones("--again", "all") == ["beit", "deit", "eva", "pit", "vit"]


def test_the_status_of_the_command_is_that_of_the_chosen_cells(folder: Path, capsys: pytest.CaptureFixture) -> None:
    given = ["--out", str(folder), "--no-run"]
    assert command.main([*given, "--only", "deit"]) == 0
    assert command.main([*given, "--only", "beit"]) == 1
    assert "failed, 1 cells: RuntimeError: shape … of size N in float64" in capsys.readouterr().out
    assert command.main([*given, "--only", "nothing"]) == 1
    assert "no architecture in" in capsys.readouterr().out
    assert command.main([*given, "--table", str(folder / "page.md")]) == 1
    assert (folder / "page.md").read_text(encoding="utf-8") == table.page(RECORDS, {})


def test_a_line_of_progress_names_what_failed() -> None:
    assert command.in_short(RECORDS[0]) == "1 ok, failed: dyt/swap, 1 s"
    assert command.in_short(RECORDS[3]).startswith("not built: build: TimeoutError")


def test_limits_of_nothing_are_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        command.parse(["--workers", "0"])
    assert "--workers must be more than 0, got 0" in capsys.readouterr().err


def test_which_architectures_are_compiled_depends_on_their_names_alone() -> None:
    chosen = command.parse(["--compile-every", "3"])
    pairs = [("timm", f"model{number}") for number in range(60)]
    compiled = {order.name for order in command.orders(chosen, pairs) if order.compiled}
    assert 10 <= len(compiled) <= 30
    assert compiled == {order.name for order in command.orders(chosen, pairs[::-1]) if order.compiled}
    assert not any(order.compiled for order in command.orders(command.parse(["--compile-every", "0"]), pairs))
