"""The modules of a user's file: whose they are, and that every run has its custom."""

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import zipfile
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


def test_looking_for_a_module_is_not_importing_it(tmp_path: Path) -> None:
    custom = modules(tmp_path, theirs_t="", theirs_u="")
    with custom.present():
        assert importlib.util.find_spec("theirs_t") is not None
        importlib.import_module("theirs_u")
    assert list(custom.imported.values()) == ["theirs_u.py"]
    with custom.anew().present():
        found = importlib.util.find_spec("theirs_t")
        assert found is not None
        assert found.origin == str(tmp_path / "theirs_t.py")
        with pytest.raises(LateImport, match=r"theirs_t.py is imported only now"):
            importlib.import_module("theirs_t")


def test_a_lazily_loaded_module_is_taken_away_too(tmp_path: Path) -> None:
    custom = modules(tmp_path, theirs_v="state = 1")
    with custom.present():
        found = importlib.util.find_spec("theirs_v")
        assert found is not None
        assert found.loader is not None
        found.loader = importlib.util.LazyLoader(found.loader)
        module = sys.modules["theirs_v"] = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        assert module.state == 1
    assert "theirs_v" not in sys.modules


def test_data_of_a_package_are_not_its_text(tmp_path: Path) -> None:
    (tmp_path / "theirs_w").mkdir()
    (tmp_path / "theirs_w" / "__init__.py").write_text("text = 1")
    (tmp_path / "theirs_w" / "words.txt").write_text("a b")
    custom = modules(tmp_path)
    with custom.present():
        importlib.import_module("theirs_w")
    with custom.anew().present():
        assert pkgutil.get_data("theirs_w", "words.txt") == b"a b"
        assert inspect.getsource(importlib.import_module("theirs_w")).rstrip() == "text = 1"


def test_a_module_in_an_archive_is_no_text_of_the_users(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as archive:
        archive.writestr("theirs_z.py", "state = 1")
    sys.path.insert(0, str(tmp_path / "lib.zip"))
    try:
        with modules(tmp_path).anew().present():
            assert importlib.import_module("theirs_z").state == 1
    finally:
        sys.modules.pop("theirs_z", None)


RECORD = "away/__init__.py,sha256=x,1\naway/part.py,,\nshared/inner/tool.py,,\nalone.py,,\nodd-1.0.dist-info/RECORD,,\n"
EDITABLE = '{"url": "file:///src", "dir_info": {"editable": true}}'


@pytest.mark.parametrize(
    ("metadata", "installed"),
    [
        ({"odd-1.0.dist-info/RECORD": RECORD}, {"away", "away.part", "away.made", "shared.inner.tool", "alone"}),
        ({"away-1.0.dist-info/METADATA": "Name: Away\n"}, set()),
        ({"away-1.0.dist-info/METADATA": "Name: away\n"}, {"away", "away.part", "away.made"}),
        ({"odd-1.0.dist-info/METADATA": "Name: odd\n", "odd-1.0.dist-info/top_level.txt": "alone\n"}, {"alone"}),
        ({"alone-1.0-py3.11.egg-info/PKG-INFO": "Name: alone\n"}, {"alone"}),
        ({"alone-1.0-py3.11.egg-info": "Name: alone\n"}, {"alone"}),
        ({"EGG-INFO/PKG-INFO": "Name: odd\n", "EGG-INFO/top_level.txt": "away\n"}, {"away", "away.part", "away.made"}),
        ({"alone.egg-info/PKG-INFO": "Name: alone\n"}, {"alone"}),
        ({"alone.egg-info/PKG-INFO": "Name: alone\n", "pyproject.toml": ""}, set()),
        ({"alone.egg-info/PKG-INFO": "Name: alone\n", "../setup.py": ""}, set()),
        ({"odd-1.0.dist-info/RECORD": RECORD, "odd-1.0.dist-info/direct_url.json": EDITABLE}, set()),
        ({"odd-1.0.dist-info/WHEEL": ""}, set()),
    ],
)
def test_what_has_a_distribution_is_installed_wherever_it_lies(
    metadata: dict[str, str], installed: set[str], tmp_path: Path
) -> None:
    place = tmp_path / "lib"
    files = {
        "away/__init__.py": "def use():\n    from away import part\n    return part",
        **dict.fromkeys(("away/part.py", "away/made.py", "shared/inner/tool.py", "alone.py"), ""),
        **dict.fromkeys(("shared/inner/mine.py", "beside.py"), ""),
        **metadata,
    }
    for name, text in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    sys.path.insert(0, str(place))
    names = ["away", "away.part", "away.made", "shared.inner.tool", "shared.inner.mine", "alone", "beside"]
    custom = modules(tmp_path)
    with custom.present():
        for name in names:
            importlib.import_module(name)
    try:
        assert {*custom.imported.values()} == {
            f"lib/{name.replace('.', '/')}.py".replace("away.py", "away/__init__.py") for name in {*names} - installed
        }
        if "away" in installed:
            for name in ("away.part", "away"):
                del sys.modules[name]
            with custom.anew().present():
                assert importlib.import_module("away").use().__name__ == "away.part"
    finally:
        for name in ("shared", "shared.inner", *names):
            sys.modules.pop(name, None)


def test_a_package_that_brings_a_norm_may_import_its_parts_late(tmp_path: Path) -> None:
    made = {
        "theirs_plug/__init__.py": "",
        "theirs_plug/late.py": "",
        "plug-1.0.dist-info/METADATA": "Name: plug\n",
        "plug-1.0.dist-info/entry_points.txt": "[normscope.norms]\nplugged = theirs_plug:Norm\n",
    }
    for name, text in made.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    try:
        importlib.import_module("theirs_plug")
        with modules(tmp_path).anew().present():
            importlib.import_module("theirs_plug.late")
    finally:
        for name in ("theirs_plug", "theirs_plug.late"):
            sys.modules.pop(name, None)


def test_what_lies_elsewhere_has_its_modules_name(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "theirs_e.py").write_text("")
    (tmp_path / "here").mkdir()
    sys.path.insert(0, str(tmp_path / "here" / ".." / "lib"))
    custom = UserModules(tmp_path / "here" / "file.py", {})
    with custom.present():
        importlib.import_module("theirs_e")
    assert custom.imported == {tmp_path / "lib" / "theirs_e.py": "theirs_e"}
