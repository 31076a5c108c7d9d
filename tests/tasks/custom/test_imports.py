"""The modules of a user's file: whose they are, and that every run has its custom."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import normscope
from normscope.tasks.custom.imports import LateImport, UserModules, is_user_file
from normscope.tasks.custom.sandbox import preserve_process_state


@pytest.fixture(autouse=True)
def _guarded(tmp_path: Path) -> Iterator[None]:
    with preserve_process_state():
        sys.path.insert(0, str(tmp_path))
        yield


def modules(folder: Path, **texts: str) -> UserModules:
    for name, text in texts.items():
        path = folder / f"{name.replace('__', os.sep)}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return UserModules(folder / "file.py", {})


def test_whose_a_file_is(tmp_path: Path) -> None:
    assert is_user_file(str(tmp_path / "a.py"))
    assert is_user_file("a.py")
    assert not is_user_file(os.__file__)
    assert not is_user_file(torch.__file__)
    assert not is_user_file(normscope.__file__ or "")
    assert not is_user_file("/nowhere/site-packages/a.py")


def test_every_run_has_its_own_and_takes_it_away(tmp_path: Path) -> None:
    custom = modules(tmp_path, theirs_a="state = []", theirs_p__inner="state = []")
    seen = []
    for one in (custom, custom.anew()):
        with one.present():
            for name in ("theirs_a", "theirs_p.inner"):
                module = importlib.import_module(name)
                assert module.state == []
                module.state.append(1)
                seen.append(module)
        assert not {"theirs_a", "theirs_p", "theirs_p.inner"} & set(sys.modules)
        with one.present():
            assert importlib.import_module("theirs_a") is seen[-2]
    assert len(set(map(id, seen))) == 4
    assert custom not in sys.meta_path
    assert {path.name for path in custom.imported} == {"theirs_a.py", "inner.py"}
    assert sorted(custom.imported.values()) == ["theirs_a.py", "theirs_p/inner.py"]


def test_what_stood_there_before_is_put_back(tmp_path: Path) -> None:
    custom = modules(tmp_path, theirs_b="name = 'before'")
    before = importlib.import_module("theirs_b")
    (tmp_path / "theirs_b.py").write_text("name = 'after'")
    try:
        with custom.present():
            assert importlib.import_module("theirs_b").name == "after"
        assert sys.modules["theirs_b"] is before
    finally:
        del sys.modules["theirs_b"]


def test_what_is_installed_is_left_alone(tmp_path: Path) -> None:
    with modules(tmp_path).present():
        assert importlib.import_module("torch") is torch
        assert importlib.import_module("json.tool").__loader__.__class__.__name__ == "SourceFileLoader"


def test_a_module_that_was_not_read_in_the_beginning_is_refused(tmp_path: Path) -> None:
    custom = modules(tmp_path, theirs_c="", theirs_d="")
    with custom.present():
        importlib.import_module("theirs_c")
    with custom.anew().present():
        importlib.import_module("theirs_c")
        with pytest.raises(
            LateImport, match=r"theirs_d.py is imported only now(?s:.*)import it at the top of the file"
        ):
            importlib.import_module("theirs_d")
    assert "theirs_d" not in sys.modules


def test_what_lies_elsewhere_has_its_modules_name(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "theirs_e.py").write_text("")
    (tmp_path / "here").mkdir()
    sys.path.insert(0, str(tmp_path / "here" / ".." / "lib"))
    custom = UserModules(tmp_path / "here" / "file.py", {})
    with custom.present():
        importlib.import_module("theirs_e")
    assert custom.imported == {tmp_path / "lib" / "theirs_e.py": "theirs_e"}
