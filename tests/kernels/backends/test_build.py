"""Kernels are built once, by the first process, and an interrupted build leaves no file that could be loaded."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    assert "no C or C++ compiler on PATH" in err


@pytest.mark.slow
def test_without_a_cxx_compiler_python_calls_the_kernels_and_it_is_said_once(tmp_path: Path):
    with start(tmp_path, CXX="/no/such/compiler") as process:
        out, err = process.communicate(timeout=1800)
    assert WANT in out
    assert err.count("the CPU kernels run without their C++ function") == 1
    assert built(tmp_path) == ["cpu"]


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "sh -c 'echo kernels.c:1: error: no such flag >&2; exit 1' --")
    with pytest.raises(build.CannotBuild, match=r"sh failed: kernels.c:1: error: no such flag"):
        build.kernels(print)
    assert not list(tmp_path.rglob("building-*"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "normscope").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(build.CannotBuild, match=str(tmp_path)):
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


def test_a_file_that_the_package_carries_is_taken_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(build, "PREBUILT", tmp_path)
    (tmp_path / build._kernels_name()).write_bytes(b"")
    assert build.kernels(print) == tmp_path / build._kernels_name()
