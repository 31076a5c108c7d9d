"""Checks of a folder for studies, on what this machine has and on what refuses."""

import errno
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from normscope.cli.doctor import MALLOC, Check, diagnose_folder, folder
from support.command_line import CommandLine


def by_name(path: Path) -> dict[str, Check]:
    checks = diagnose_folder(path)
    assert not list(path.glob(".normscope*"))
    return {check.name: check for check in checks}


def test_a_folder_of_this_machine_is_safe(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert MALLOC
    checks = by_name(tmp_path)
    needed = ("exclusive create", "rename", "refresh", "hard link", "flock", "latency", "clock", "leases")
    assert [checks[name].state for name in needed] == ["ok"] * len(needed)
    assert checks["leases"].found.startswith("safe here")
    told = CommandLine(capfd)("doctor", str(tmp_path))
    assert told.returncode == 0
    assert "safe here: several machines may compute" in " ".join(told.stdout.replace("│", " ").split())


def test_what_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*: create it first"):
        diagnose_folder(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file; a study needs a folder"):
        diagnose_folder(tmp_path / "file")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc, in which nothing can be written")
def test_a_folder_in_which_nothing_can_be_written(tmp_path: Path) -> None:
    *_, writing = diagnose_folder(Path("/proc"))
    assert (writing.name, writing.state) == ("writing", "missing")
    assert "choose another one with --out" in writing.advice


def test_a_file_system_without_hard_links_is_safe_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    checks = by_name(tmp_path)
    assert checks["hard link"].state == "warning"
    assert "results are renamed" in checks["hard link"].found
    assert checks["leases"].state == "ok"


@pytest.mark.parametrize("what", ["exclusive create", "rename", "refresh", "flock"])
def test_a_second_process_that_is_not_stopped_or_sees_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    second = folder._second
    word = {"exclusive create": "create", "rename": "read", "refresh": "read", "flock": "flock"}[what]
    monkeypatch.setattr(folder, "_second", lambda each, path: "" if each == word else second(each, path))
    checks = by_name(tmp_path)
    assert checks[what].state == ("warning" if what == "flock" else "missing")
    assert checks["leases"].state == ("ok" if what == "flock" else "missing")
    assert what == "flock" or what in checks["leases"].found


def test_clocks_that_differ_are_a_warning_and_no_danger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Any = SimpleNamespace(**{**vars(folder.time), "time": lambda: folder.time.monotonic() - 1e9})
    monkeypatch.setattr(folder, "time", clock)
    checks = by_name(tmp_path)
    assert checks["clock"].state == "warning"
    assert " s after the time of this machine" in checks["clock"].found
    assert checks["leases"].state == "ok"
