import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from normscope import AdaNorm
from normscope.cli.doctor import Check, diagnose_installation
from normscope.kernels.backends import cpu

ROOT = Path(__file__).resolve().parents[3]


def by_name() -> dict[str, Check]:
    checks = diagnose_installation()
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def without(*modules: str) -> dict[str, dict[str, str]]:
    """Diagnose in a process of its own in which some packages cannot be imported."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\n"
        "import dataclasses, json; from normscope.cli.doctor import diagnose_installation\n"
        "print(json.dumps([dataclasses.asdict(check) for check in diagnose_installation()]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {check["name"]: check for check in json.loads(done.stdout)}


def test_this_installation_is_described_as_it_is():
    checks = by_name()
    assert checks["python"].state == "ok"
    assert checks["python"].found.startswith(platform.python_version())
    assert checks["torch"].found.startswith(f"{torch.__version__}, ")
    # A CUDA build on a machine without a GPU is worth a warning.
    idle = torch.version.cuda is not None and not torch.cuda.is_available()
    assert checks["torch"].state == ("warning" if idle else "ok")
    assert checks["backend eager"].state == "ok"
    AdaNorm(3)(torch.ones(2, 3))
    assert checks["backend cpu"].state == "ok"
    assert by_name()["backend cpu"].found.startswith(cpu.load().description)
    assert checks["backend triton"].state == ("ok" if importlib.util.find_spec("triton") else "missing")
    assert checks["data set digits"].state == "ok"


def test_every_dependency_of_the_project_has_its_line():
    checks = by_name()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        name = requirement.split(">=")[0]
        assert (checks[name].state, checks[name].found) == ("ok", importlib.metadata.version(name))


def test_whatever_is_not_well_says_what_to_do():
    for check in diagnose_installation():
        assert check.found
        assert bool(check.advice) == (check.state != "ok"), check


def test_it_works_without_torch():
    checks = without("torch")
    assert checks["torch"]["state"] == "missing"
    assert "pytorch.org/get-started" in checks["torch"]["advice"]
    assert checks["backend eager"]["state"] == "missing"
    assert "torch uses" not in checks["cores"]["found"]
    assert checks["data set digits"]["state"] == "ok"


def test_it_works_without_the_downloader():
    checks = without("torch", "pooch")
    assert checks["data set mnist"]["state"] == "missing"
    assert checks["cache"]["state"] == "ok"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the two variables are glibc's")
def test_the_allocator_wants_both_variables(monkeypatch):
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    check = by_name()["allocator"]
    assert check.state == "warning"
    assert "export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184" in check.advice
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "4294967296")
    assert by_name()["allocator"].found == "MALLOC_TRIM_THRESHOLD_ not set"
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "17179869184")
    assert by_name()["allocator"].state == "ok"


def test_more_threads_than_cores_is_a_warning():
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)) + 1)
    try:
        check = by_name()["cores"]
    finally:
        torch.set_num_threads(before)
    assert check.state == "warning"
    assert "more threads than cores" in check.advice


def test_data_that_are_damaged_absent_or_looked_for_in_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path))
    absent = by_name()["data set mnist"]
    assert (absent.state, absent.found) == ("missing", "not here (11.6 MB to fetch)")
    assert absent.advice.endswith("normscope data fetch mnist")
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"x")
    damaged = by_name()["data set mnist"]
    assert damaged.state == "warning"
    assert damaged.found.startswith(f"damaged: {tmp_path}")
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path / "typo"))
    assert "which is not a folder" in by_name()["data set mnist"].advice
    assert not (tmp_path / "cache").exists()


def test_the_cache_is_where_the_environment_puts_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    free = shutil.disk_usage(tmp_path).free / 1e9
    found = by_name()["cache"].found
    assert found.startswith(f"{tmp_path / 'normscope'}, ")
    # Other processes write to the same disk meanwhile.
    assert float(found.split()[-3]) == pytest.approx(free, abs=1.0)


def test_without_a_compiler_it_says_what_that_costs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    checks = by_name()
    assert checks["compiler"].state == "missing"
    assert "torch.compile" in checks["compiler"].advice
    # No git either: the version stands alone.
    assert "commit" not in checks["normscope"].found


def test_kernels_that_are_not_built_are_announced_and_not_built(tmp_path: Path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    program = (
        "from normscope.cli.doctor import diagnose_installation as d\n"
        "print(*(c for c in d() if c.name == 'backend cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert "not built yet: the first norm on a CPU builds the kernels and the C++ function over them" in done.stdout
    assert not list(tmp_path.rglob("*.so"))


def test_without_a_home_it_names_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_entry(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    checks = by_name()
    assert (checks["cache"].state, checks["backend cpu"].state) == ("missing", "missing")
    for check in (checks["cache"], checks["backend cpu"], checks["data set mnist"]):
        assert "set HOME, or XDG_CACHE_HOME, to a folder" in check.found + check.advice
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path))
    assert by_name()["data set mnist"].found == "not here (11.6 MB to fetch)"


def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Not even root can create a folder in a file.
    for name in ("runs", "cache"):
        (tmp_path / name).touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    checks = by_name()
    assert checks["backend cpu"].found.startswith(f"{tmp_path}/cache/normscope/kernels cannot be written: ")
    for name, remedy in (("cache", "set XDG_CACHE_HOME"), ("studies", "--out")):
        assert checks[name].state == "warning"
        assert remedy in checks[name].advice


def test_a_machine_without_a_compiler_is_told_what_that_costs(tmp_path: Path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PATH": "", "CC": "", "CXX": ""}
    program = (
        "from normscope.cli.doctor import diagnose_installation as d\n"
        "print(*(c for c in d() if c.name == 'backend cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert "missing" in done.stdout
    assert "no C compiler on PATH" in done.stdout
    assert "one and a half to ten times as long" in done.stdout
