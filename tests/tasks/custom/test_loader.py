"""A user's file: what it consists of, and its function."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from normscope.tasks.custom.imports import UserModules
from normscope.tasks.custom.loader import UserFile, UserFileChanged, revision_of
from normscope.tasks.custom.sandbox import UserCodeError, preserve_process_state

MAKE = "def make(norm, placement, seed):\n    return {}\n"


@pytest.fixture(autouse=True)
def _guarded() -> Iterator[None]:
    with preserve_process_state():
        yield


def write(path: Path, text: str) -> UserFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return UserFile.named(f"{path}:make")


@pytest.mark.parametrize("text", ["my_file.py", "my_file.py:", "my_file.py:a b", ":make.it"])
def test_a_name_has_a_file_and_a_function(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as my_file.py:make, got"):
        UserFile.named(text)


def test_a_name_is_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "my file.py", MAKE.format("1"))
    monkeypatch.chdir(tmp_path)
    assert UserFile.named("my file.py:make") == UserFile.named("./my file.py:make") == file
    assert file.name == "my file.py:make"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert UserFile.named("~/my file.py:make") == file


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match=r"there is no file '.*gone.py'"):
        UserFile.named(f"{tmp_path}/gone.py:make").hashes()


def test_the_function_is_found(tmp_path: Path) -> None:
    assert write(tmp_path / "a.py", MAKE.format("norm, seed")).load()(1, 2, 3) == (1, 3)


def test_a_misspelt_function_suggests_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("from os.path import join\n" + MAKE.format("1").replace("make", "make_it"))
    with pytest.raises(LookupError, match=r"a.py has no function 'makeit': did you mean 'make_it'\? it defines"):
        UserFile.named(f"{path}:makeit").load()
    path.write_text("x = 1\n")
    with pytest.raises(LookupError, match=r"a.py has no function 'x': it defines no functions"):
        UserFile.named(f"{path}:x").load()


@pytest.mark.parametrize("takes", ["norm", "norm, placement, seed, more", "*, norm, placement, seed"])
def test_a_function_of_something_else_is_refused(takes: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.py", f"def make({takes}):\n    pass\n")
    with pytest.raises(TypeError, match=r"a.py:make must take norm, placement and seed: "):
        file.load()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import no_such_package_anywhere", "ModuleNotFoundError: No module named 'no_such_package_anywhere'"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(4)", "SystemExit: 4"),
        ("1 / 0", "ZeroDivisionError"),
        ("\0", "null bytes"),
    ],
)
def test_a_file_that_fails_is_reported_with_its_line(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserCodeError, match=told) as raised:
        write(tmp_path / "a.py", text).load()
    assert "importlib" not in str(raised.value)


def test_what_is_imported_from_beside_it_counts(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.py",
        "import json\nfrom parts.model import Net\nfrom parts import other\ndef make(n, p, s):\n    import late\n",
    )
    write(tmp_path / "parts" / "__init__.py", "from . import first\nfrom .first import x\n")
    write(tmp_path / "parts" / "model.py", "from ..outside import x\nimport parts.deep.deeper\nclass Net: pass\n")
    write(tmp_path / "parts" / "first.py", "x = 1")
    write(tmp_path / "parts" / "other.py", "import a")
    write(tmp_path / "parts" / "deep" / "deeper.py", "def broken(:")
    write(tmp_path / "late.py", "")
    write(tmp_path / "json_not_imported.py", "")
    assert list(file.hashes()) == [
        "a.py",
        "late.py",
        "parts/__init__.py",
        "parts/deep/deeper.py",
        "parts/first.py",
        "parts/model.py",
        "parts/other.py",
    ]
    before = revision_of(file.hashes())
    assert 0 <= before < 2**48
    file.expect(before)
    write(tmp_path / "parts" / "first.py", "x = 2")
    assert revision_of(file.hashes()) != before
    with pytest.raises(UserFileChanged, match=r"a.py, or what it imports, was changed after the study began"):
        file.expect(before)
    write(tmp_path / "parts" / "first.py", "x = 1")
    file.expect(before)


def test_what_is_installed_beside_it_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "vendored-1.0.dist-info").mkdir()
    (tmp_path / "vendored-1.0.dist-info" / "RECORD").write_text("vendored.py,,\n")
    for name in ("vendored", "mine"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "file.py").write_text("import vendored, mine")
    file = UserFile(path=tmp_path / "file.py", function="make")
    assert set(file.hashes()) == {"file.py", "mine.py"}


def test_a_revision_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    one, other = (write(tmp_path / where / "a.py", MAKE.format("1")) for where in ("x", "y"))
    assert one != other
    assert revision_of(one.hashes()) == revision_of(other.hashes())


def test_a_file_that_is_gone_has_changed(tmp_path: Path) -> None:
    with pytest.raises(UserFileChanged, match="put it back"):
        UserFile.named(f"{tmp_path}/gone.py:make").expect(1)


def test_the_package_itself_is_nobodys_neighbour() -> None:
    import normscope.registry

    source = Path(normscope.registry.__file__).parents[2]
    file = UserFile(path=source / "not_there.py", function="make")
    assert list(file._beside(file.path, b"import normscope\nfrom normscope.norms import NORMS\n")) == []


def test_files_of_one_name_in_two_folders_have_different_objects_neighbours(tmp_path: Path) -> None:
    for where in ("x", "y"):
        write(tmp_path / where / "sibling_of_a_test.py", f"name = {where!r}")
        write(tmp_path / where / "a.py", "import sibling_of_a_test\n" + MAKE.format("sibling_of_a_test.name"))
    found = [UserFile.named(f"{tmp_path}/{where}/a.py:make").load()(1, 2, 3) for where in ("x", "y", "x")]
    assert found == ["x", "y", "x"]


def test_an_edited_neighbour_is_read_again(tmp_path: Path) -> None:
    file = write(tmp_path / "a.py", "import edited_in_a_test\n" + MAKE.format("edited_in_a_test.name"))
    write(tmp_path / "edited_in_a_test.py", "name = 'before'")
    assert file.load()(1, 2, 3) == "before"
    # Of equal length, and at once.
    write(tmp_path / "edited_in_a_test.py", "name = 'behind'")
    assert file.load()(1, 2, 3) == "behind"
    assert not list(tmp_path.rglob("*.pyc"))


def test_an_edit_of_equal_length_is_seen_at_once(tmp_path: Path) -> None:
    for number in range(5):
        assert write(tmp_path / "a.py", MAKE.format(number)).load()(1, 2, 3) == number


def test_an_import_from_above_every_folder_is_reported_where_it_is_imported(tmp_path: Path) -> None:
    file = write(tmp_path / "a.py", f"from {'.' * 40}x import y\n" + MAKE.format("1"))
    assert list(file.hashes()) == ["a.py"]
    with pytest.raises(UserCodeError, match="ImportError"):
        file.load()


def version(file: UserFile) -> int:
    """Execute a file, as every process does that has not seen it, and give its revision."""
    modules = UserModules(file.path, file.texts())
    with preserve_process_state():
        file.load(modules)
    hashes, revision = file.version(modules)
    assert hashes == file.hashes()
    return revision


@pytest.mark.parametrize(
    ("imports", "where"),
    [
        (
            "import sys\nfrom pathlib import Path\nsys.path.insert(0, str(Path(__file__).parent / 'src'))\nimport far",
            "src/",
        ),
        ("import importlib\nfar = importlib.import_module('f' + 'ar')", ""),
    ],
)
def test_what_the_text_does_not_show_counts_too(
    imports: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normscope.tasks.custom.loader._IMPORTED", {})
    file = write(tmp_path / "a.py", f"{imports}\n" + MAKE.format("far.name"))
    write(tmp_path / where / "far.py", "name = 1")
    before = version(file)
    assert sorted(file.hashes()) == sorted(["a.py", f"{where}far.py"])
    file.expect(before)
    write(tmp_path / where / "far.py", "name = 2")
    with pytest.raises(UserFileChanged, match="was changed after the study began"):
        file.expect(before)
    after = version(file)
    assert after != before
    # A process that has not executed it knows by the text alone whether the file itself is the one.
    monkeypatch.setattr("normscope.tasks.custom.loader._IMPORTED", {})
    file.expect(after)
    write(tmp_path / "a.py", "1 / 0")
    with pytest.raises(UserFileChanged, match="was changed after the study began"):
        file.expect(after)


def test_a_file_that_shows_all_it_imports_keeps_its_number(tmp_path: Path) -> None:
    file = write(tmp_path / "a.py", "import json\n" + MAKE.format("1"))
    assert version(file) == revision_of(file.hashes())
