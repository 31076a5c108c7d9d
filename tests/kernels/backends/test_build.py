"""Kernels are built once, by the first process, and an interrupted build leaves no file that could be loaded."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import normscope
from normscope.kernels.backends import build

USE = "import torch, normscope; print(normscope.AdaNorm(4)(torch.arange(8.).view(2, 4)).tolist())"
WANT = "[[-1.5216"


def environment(cache: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(cache), **more}


def start(cache: Path, **more: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-c", USE], text=True, env=environment(cache, **more), start_new_session=True, **pipes
    )


def built(cache: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in cache.rglob("*.so"))


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_and_two_at_once_build_once_and_a_third_builds_nothing(tmp_path: Path):
    compiler, half = tmp_path / "cc", tmp_path / "half"
    # A compiler that stands still when half of its output is written.
    compiler.write_text(f'while [ "$1" != -o ]; do shift; done\necho half > "$2"\ntouch {half}\nexec sleep 100000\n')
    with start(tmp_path, CC=f"sh {compiler}") as process:
        while not half.exists():
            assert process.poll() is None, "it ended before it called the compiler"
            time.sleep(0.05)
        assert list(tmp_path.rglob("building-*"))
        os.killpg(process.pid, signal.SIGKILL)
    assert built(tmp_path) == []
    with start(tmp_path) as first, start(tmp_path) as second:
        told = [process.communicate(timeout=1800) for process in (first, second)]
    assert all(WANT in out for out, _ in told), told
    words = "".join(err for _, err in told)
    assert words.count("normscope: built the CPU kernels, once, in ") == 1
    assert words.count("normscope: built the C++ function over them for torch ") == 1
    assert built(tmp_path) == ["cpu", "shim"]
    with start(tmp_path) as third:
        out, err = third.communicate(timeout=1800)
    assert WANT in out
    assert "built" not in err


def test_without_any_compiler_torch_computes_and_it_is_said_once(tmp_path: Path):
    with start(tmp_path, PATH="", CC="", CXX="") as process:
        out, err = process.communicate(timeout=1800)
    assert WANT in out
    assert err.count("norms run on PyTorch's operations") == 1
    assert "no C compiler on PATH" in err


@pytest.mark.slow
def test_without_a_cxx_compiler_python_calls_the_kernels_and_it_is_said_once(tmp_path: Path):
    with start(tmp_path, CXX="/no/such/compiler") as process:
        out, err = process.communicate(timeout=1800)
    assert WANT in out
    assert err.count("the CPU kernels run without their C++ function") == 1
    assert "no C++ compiler: CXX='/no/such/compiler', and there is no program '/no/such/compiler'" in err
    assert built(tmp_path) == ["cpu"]


COMPILERS = [
    ("does not exist", "no C compiler: CC='does not exist', and there is no program 'does'"),
    ("/bin/false", "/bin/false failed: exit status 1, no message"),
    ("false with arguments", "false failed: exit status 1, no message"),
    ("'unbalanced", 'CC="\'unbalanced" is not a command: No closing quotation'),
    ("sh -c 'echo kernels.c:1: error: no such flag >&2; exit 1' --", "sh failed: kernels.c:1: error: no such flag"),
    ("sh -c 'echo a.c: fatal error: stdint.h: No such file >&2; exit 1' --", "apt-get install libc6-dev"),
    ("sh -c 'printf \"error: \\\\377\" >&2; exit 1' --", "sh failed: error: \ufffd"),
    ("sh -c 'kill -9 $$' --", "sh failed: exit status -9, no message"),
]


@pytest.mark.parametrize(("command", "reason"), COMPILERS)
def test_a_compiler_that_fails_is_quoted(command: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", command)
    with pytest.raises(build.CannotBuild) as told:
        build.kernels(print)
    assert reason in str(told.value)
    assert not list(tmp_path.rglob("building-*"))


def test_an_empty_name_of_a_compiler_stands_for_the_usual_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "  ")
    assert build.compiler("CC") in ([shutil.which("cc")], [shutil.which("gcc")], [shutil.which("clang")])
    monkeypatch.setenv("CC", "sh -c 'exit 1'")
    assert build.compiler("CC") == ["sh", "-c", "exit 1"]


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "normscope").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for call in (lambda: build.kernels(print), lambda: build.shim(print), build.missing):
        with pytest.raises(build.CannotBuild, match=f"{tmp_path}.* cannot be written: .*; set XDG_CACHE_HOME"):
            call()


@pytest.fixture
def intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the built files into a cache where no compiler could build them again; return its folder."""
    files = [build.kernels(print), build.shim(print), *build.scan(print)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.setenv(name, "/bin/false")
    build.folder().mkdir(parents=True)
    for file in files:
        shutil.copy2(file, build.folder())
        shutil.copy2(build._record(file), build.folder())
    assert build.kernels(print) == build.folder() / files[0].name
    return build.folder()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_by_one_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def remove_record(path: Path) -> None:
    build._record(path).unlink()


def empty_record(path: Path) -> None:
    build._record(path).write_bytes(b"")


def record_of_bytes(path: Path) -> None:
    build._record(path).write_bytes(b"\xff" * 80)


def folder_as_record(path: Path) -> None:
    build._record(path).unlink()
    build._record(path).mkdir()


def remove(path: Path) -> None:
    path.unlink()


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone"))


DAMAGES = [cut, cut_by_one_byte, empty, flip, lengthen, remove_record, empty_record, record_of_bytes, folder_as_record]


@pytest.mark.parametrize("damage", [*DAMAGES, remove, dangle])
@pytest.mark.parametrize("make", [build.kernels, build.shim])
def test_a_damaged_file_is_found_before_it_is_loaded(make, damage, intact: Path, capsys: pytest.CaptureFixture[str]):
    path = make(print)
    damage(path)
    with pytest.raises(build.CannotBuild, match="/bin/false failed"):
        make(print)
    altered = damage in (cut, cut_by_one_byte, empty, flip, lengthen, empty_record, record_of_bytes)
    assert (f"normscope: {path} is damaged and is not used" in capsys.readouterr().out) == altered


def test_a_folder_in_the_place_of_a_file_is_named(intact: Path):
    path = build.kernels(print)
    path.unlink()
    path.mkdir()
    with pytest.raises(build.CannotBuild, match=f"{path} is a folder, and must be a file: remove it"):
        build.kernels(print)


def test_a_damaged_file_that_the_package_carries_is_not_loaded_either(
    intact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    carried = tmp_path / "prebuilt"
    shutil.copytree(intact, carried)
    monkeypatch.setattr(build, "PREBUILT", carried)
    path = build.kernels(print)
    assert path.parent == carried
    cut(path)
    assert build.kernels(print) == intact / path.name


def another_machine(path: Path) -> None:
    """Turn an ELF file into that of a machine that is not this one, with a valid record."""
    content = bytearray(path.read_bytes())
    content[18:20] = (243).to_bytes(2, sys.byteorder)  # e_machine of RISC-V
    path.write_bytes(content)
    with path.open("rb") as file:
        build._record(path).write_bytes(build._content_of_record(file))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ELF is Linux's")
@pytest.mark.parametrize(
    ("damage", "of_kernels", "of_shim"),
    [
        (cut, "is damaged and is not used", "is damaged and is not used"),
        (another_machine, "remove this file to build it for this machine", "wrong ELF|invalid ELF|cannot open shared"),
    ],
)
def test_layers_and_doctor_outlive_a_file_that_cannot_be_loaded(
    damage, of_kernels: str, of_shim: str, intact: Path, tmp_path: Path
):
    program = f"{USE}\nfrom normscope.cli.doctor import diagnose_installation\nprint(*diagnose_installation())"
    for make, words, said in (
        (build.shim, of_shim, "the CPU kernels run without their C++ function"),
        (build.kernels, of_kernels, "norms run on PyTorch's operations"),
    ):
        damage(make(print))
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(tmp_path))
        assert done.returncode == 0, done.stderr
        assert WANT in done.stdout
        assert "name='backend cpu', state='" in done.stdout
        assert re.search(words, done.stderr), done.stderr
        assert done.stderr.count(said) == 1


@pytest.mark.slow
def test_a_damaged_cache_is_built_again(intact: Path, tmp_path: Path):
    for make in (build.kernels, build.shim):
        cut(make(print))
    with start(tmp_path, CC="", CXX="") as process:
        out, err = process.communicate(timeout=1800)
    assert WANT in out
    assert err.count("is damaged and is not used") == 2
    assert err.count("normscope: built ") == 2
    assert build.missing() == []


def test_a_read_only_cache_is_used(intact: Path):
    for path in intact.glob("*.lock"):
        path.unlink()
    before = sorted(path.name for path in intact.iterdir())
    build.kernels(print)
    build.shim(print)
    # No lock, no folder for a build: nothing was written.
    assert sorted(path.name for path in intact.iterdir()) == before


@pytest.fixture(scope="module")
def readable() -> Iterator[Path]:
    """Copy the package to where every user may read it, whoever owns the folder of this one."""
    with tempfile.TemporaryDirectory(prefix="normscope-readable-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(Path(normscope.__file__).parent, folder / "normscope", copy_function=shutil.copyfile)
        yield folder


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root may become a user without an entry")
@pytest.mark.parametrize("home", [None, "/nonexistent", "/root", ""])
def test_a_user_without_an_entry_or_a_home_computes(home: str | None, readable: Path):
    program = (
        "import os, torch, normscope\n"
        "from normscope.kernels.backends import choice, cpu\n"
        "norm = normscope.AdaNorm(4)\n"
        "os.setgroups([]); os.setgid(54321); os.setuid(54321)\n"
        "for _ in range(2): print(norm(torch.arange(8.).view(2, 4)).tolist())\n"
    )
    variables = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    if home is not None:
        variables["HOME"] = home
    variables["PYTHONPATH"] = str(readable)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(WANT) == 2
    assert done.stderr.count("norms run on PyTorch's operations") == 1
    assert "XDG_CACHE_HOME" in done.stderr


def test_sources_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(build, "HERE", tmp_path)
    with pytest.raises(build.CannotBuild, match=r"the source of the kernels cannot be read: .*cpu\.c"):
        build.kernels(print)


def test_another_source_or_flag_is_another_file(monkeypatch: pytest.MonkeyPatch):
    names = {build._kernels_name(), build._shim_name()}
    monkeypatch.setattr(build, "C_FLAGS", (*build.C_FLAGS, "-DX"))
    monkeypatch.setattr(build, "CXX_FLAGS", (*build.CXX_FLAGS, "-DX"))
    names |= {build._kernels_name(), build._shim_name()}
    assert len(names) == 4


def test_another_processor_is_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(build.platform, "machine", lambda: "riscv64")
    with pytest.raises(build.CannotBuild, match="written for x86_64, aarch64, amd64, arm64; this is riscv64"):
        build.kernels(print)


def test_a_file_that_the_package_carries_is_taken_first(intact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    carried = tmp_path / "prebuilt"
    monkeypatch.setattr(build, "PREBUILT", carried)
    build.main()
    assert sorted(path.name for path in carried.iterdir()) == sorted(
        path.name for path in intact.glob("*.so*") if path.suffix != ".lock"
    )
    assert build.kernels(print) == carried / build._kernels_name()
    assert build.shim(print) == carried / build._shim_name()
