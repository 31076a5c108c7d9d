"""Checks of the installation: versions, backends, settings, data and disk space; works without torch."""

import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import normscope
from normscope import data
from normscope.files import CacheUnusable, cache_folder, is_writable, nearest_existing

MALLOC = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
"""Settings with which glibc keeps large blocks instead of returning them to the system; both are required."""

SMALL_DISK = 2_000_000_000
"""Free bytes below which the checkpoints of a study may not fit."""

_OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, kw_only=True)
class Check:
    """The state of one part of the installation."""

    name: str
    state: Literal["ok", "missing", "warning"]
    found: str
    """Description of the installed part."""
    advice: str = ""
    """Consequence of the problem, and its remedy; empty if the state is ``"ok"``."""


def diagnose_installation() -> list[Check]:
    """Check everything that normscope needs on this machine; nothing is changed or downloaded."""
    torch_check, torch_threads = _torch()
    return [
        _normscope(),
        _skill(),
        _python(),
        torch_check,
        *[_dependency(requirement) for requirement in _requirements()],
        *_backends(torch_check),
        _compiler(torch_check),
        _cores(torch_threads, os.environ),
        _allocator(os.environ),
        *[_dataset(dataset) for dataset in data.SETS.values()],
        *_folders(),
    ]


def _normscope() -> Check:
    """Return the version, and the commit if the package runs from a checkout."""
    root = _checkout()
    version = normscope.__version__
    git = shutil.which("git")
    if root is None or git is None or not (root / ".git").exists():
        return Check(name="normscope", state="ok", found=f"{version} in {Path(normscope.__file__).parent}")
    described = subprocess.run(
        [git, "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    commit = f"commit {described.stdout.strip()}" if described.returncode == 0 else "no commit yet"
    return Check(name="normscope", state="ok", found=f"{version}, {commit}, in {root}")


def _skill() -> Check:
    """Return where the file is that tells a coding agent how to use the package."""
    return Check(name="skill for agents", state="ok", found=str(Path(normscope.__file__).parent / "SKILL.md"))


def _python() -> Check:
    version = platform.python_version()
    found = f"{version} on {platform.system()} {platform.machine()}"
    if _numbers(version) < _OLDEST_PYTHON:
        oldest = ".".join(map(str, _OLDEST_PYTHON))
        return Check(name="python", state="warning", found=found, advice=f"normscope is tested with {oldest} and newer")
    return Check(name="python", state="ok", found=found)


def _torch() -> tuple[Check, int | None]:
    """Import torch; return its check and its number of threads."""
    try:
        import torch
    except ModuleNotFoundError:
        advice = (
            "only data sets and finished studies can be read; see https://pytorch.org/get-started, or pip install torch"
        )
        return Check(name="torch", state="missing", found="not installed", advice=advice), None
    except (ImportError, OSError) as error:
        advice = "torch is installed but cannot be imported: reinstall it for this machine"
        return Check(name="torch", state="missing", found=str(error).splitlines()[0], advice=advice), None
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    devices = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())) or "cpu"
    found = f"{torch.__version__}, {built}; devices: {devices}"
    oldest = _least("torch", _all_requirements())
    if _numbers(torch.__version__) < _numbers(oldest):
        advice = f"normscope requires torch {oldest} or newer: upgrade torch"
        return Check(name="torch", state="warning", found=found, advice=advice), torch.get_num_threads()
    if torch.version.cuda and not torch.cuda.is_available():
        advice = "this CUDA build finds no GPU, so everything runs on the CPU; check the output of `nvidia-smi`"
        return Check(name="torch", state="warning", found=found, advice=advice), torch.get_num_threads()
    return Check(name="torch", state="ok", found=found), torch.get_num_threads()


def _dependency(requirement: str) -> Check:
    """Compare an installed version with a requirement such as ``numpy>=2``."""
    name, oldest = re.split(r"\s*>=\s*", requirement, maxsplit=1)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name=name, state="missing", found="not installed", advice=f"pip install '{requirement}'")
    if _numbers(version) < _numbers(oldest):
        return Check(
            name=name, state="warning", found=version, advice=f"{oldest} or newer: pip install '{requirement}'"
        )
    return Check(name=name, state="ok", found=version)


def _backends(torch_check: Check) -> list[Check]:
    """Check the backends of the norms."""
    if torch_check.state == "missing":
        eager = Check(name="backend eager", state="missing", found="no torch", advice="nothing can be trained")
    else:
        eager = Check(name="backend eager", state="ok", found="PyTorch operations, on every device")
    return [eager, _cpu_backend(torch_check), _triton_backend(torch_check)]


def _cpu_backend(torch_check: Check) -> Check:
    """Check whether the CPU kernels are built or can be built; nothing is built."""
    name = "backend cpu"
    if torch_check.state == "missing":
        return Check(name=name, state="missing", found="no torch", advice="nothing can be trained")
    from normscope.kernels.backends import build, cpu

    try:
        missing = build.missing()
        if missing:
            found = f"not built yet: the first norm on a CPU builds {' and '.join(missing)} in a few seconds"
            return Check(name=name, state="ok", found=f"{found}, into {build.folder()}")
        library = cpu.load()
    except (build.CannotBuild, ValueError) as error:
        cost = "norms run on PyTorch operations, which take one and a half to ten times as long"
        return Check(name=name, state="missing", found=str(error), advice=cost)
    if library.shim is None:
        return Check(
            name=name,
            state="warning",
            found=library.description,
            advice="install a C++ compiler to reduce the overhead of small calls",
        )
    return Check(name=name, state="ok", found=f"{library.description}, {library.path}")


def _triton_backend(torch_check: Check) -> Check:
    """Check whether the GPU kernels can run."""
    name = "backend triton"
    if torch_check.state == "missing":
        return Check(name=name, state="missing", found="no torch", advice="nothing can be trained")
    import torch

    version = next((package for package in ("triton", "pytorch-triton") if _version(package)), None)
    if version is None:
        advice = "no effect without a GPU; with a GPU, norms run on slower PyTorch operations: pip install triton"
        return Check(name=name, state="missing", found="Triton is not installed", advice=advice)
    found = f"Triton {_version(version)}"
    if not torch.cuda.is_available():
        return Check(name=name, state="ok", found=f"{found}; not used: there is no GPU")
    return Check(name=name, state="ok", found=found)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _compiler(torch_check: Check) -> Check:
    if torch_check.state == "missing":
        return Check(name="compiler", state="ok", found="not checked: without torch there is nothing to compile")
    from normscope.kernels.backends import build

    try:
        return Check(name="compiler", state="ok", found=shlex.join(build.compiler("CXX")))
    except build.CannotBuild as error:
        advice = "torch.compile does not work on the CPU; install a C++ compiler, or correct CXX"
        return Check(name="compiler", state="missing", found=str(error), advice=advice)


def _cores(torch_threads: int | None, environment: Mapping[str, str]) -> Check:
    """Compare the number of cores available to this process with the number of threads of torch."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    setting = environment.get("OMP_NUM_THREADS")
    facts = [f"{cores} available", f"OMP_NUM_THREADS={setting}" if setting else "OMP_NUM_THREADS not set"]
    if torch_threads is not None:
        facts.append(f"torch uses {torch_threads} per process")
    if torch_threads is not None and torch_threads > cores:
        advice = f"more threads than cores slow down every step: set OMP_NUM_THREADS={cores} or less"
        return Check(name="cores", state="warning", found="; ".join(facts), advice=advice)
    return Check(name="cores", state="ok", found="; ".join(facts))


def _allocator(environment: Mapping[str, str]) -> Check:
    """Check whether glibc is configured to keep large blocks."""
    if platform.libc_ver()[0] != "glibc":
        return Check(name="allocator", state="ok", found="not glibc: no settings required")
    unset = [name for name in MALLOC if not environment.get(name)]
    if not unset:
        return Check(name="allocator", state="ok", found=", ".join(f"{name}={environment[name]}" for name in MALLOC))
    setting = " ".join(f"{name}={value}" for name, value in MALLOC.items())
    advice = (
        "tensors of 32 MB and more are mapped again at every call: cloning 48 MB took 20 ms instead of 4 on one "
        f"core of a Xeon. Before training with such activations on the CPU: export {setting}"
    )
    return Check(name="allocator", state="warning", found=f"{' and '.join(unset)} not set", advice=advice)


def _dataset(dataset: data.DataSet) -> Check:
    name = f"data set {dataset.name}"
    try:
        found = data.state(dataset)
    except data.DataNotFound as error:
        return Check(name=name, state="warning", found="not checked", advice=str(error))
    except ModuleNotFoundError as error:
        return Check(name=name, state="missing", found="not checked", advice=f"pip install {error.name}")
    if found.ready:
        return Check(name=name, state="ok", found=found.description)
    if found.kind == "damaged":
        advice = "runs that need it fail: replace the file, or move it away and fetch it again"
        return Check(name=name, state="warning", found=found.description, advice=advice)
    advice = dataset.bring or f"runs that need it fetch it first; to fetch it now: normscope data fetch {dataset.name}"
    return Check(name=name, state="missing", found=found.description, advice=advice)


def _folders() -> list[Check]:
    """Check the disk space of the data cache and of the studies."""
    studies = _space("studies", Path.cwd() / "runs", "give studies another folder with --out")
    try:
        return [_space("cache", cache_folder(), "set XDG_CACHE_HOME to a folder that is"), studies]
    except CacheUnusable as error:
        advice = "set HOME, or XDG_CACHE_HOME, to a folder: kernels, data sets and corpora are kept there"
        return [Check(name="cache", state="missing", found=str(error), advice=advice), studies]


def _space(name: str, folder: Path, remedy: str) -> Check:
    free = shutil.disk_usage(nearest_existing(folder)).free
    found = f"{folder}, {free / 1e9:.1f} GB free"
    if not is_writable(folder):
        return Check(name=name, state="warning", found=found, advice=f"{folder} is not writable: {remedy}")
    if free < SMALL_DISK:
        return Check(name=name, state="warning", found=found, advice="checkpoints of a large study may not fit")
    return Check(name=name, state="ok", found=found)


def _requirements() -> list[str]:
    """List the requirements without extras, as ``name>=version``."""
    return [text for text in _all_requirements() if ";" not in text]


def _all_requirements() -> list[str]:
    """List all requirements, from the checkout's pyproject.toml or else from the metadata of the installation."""
    root = _checkout()
    if root is None:
        return importlib.metadata.requires("normscope") or []
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [f"{text}; extra" for group in project["optional-dependencies"].values() for text in group]
    return [*project["dependencies"], *extras]


def _least(name: str, requirements: list[str]) -> str:
    """Return the oldest version of a package that the requirements allow."""
    return next(text.split(">=")[1].partition(";")[0].strip() for text in requirements if text.startswith(f"{name}>="))


def _checkout() -> Path | None:
    """Return the root of the checkout that this package runs from; None if it was installed."""
    root = Path(__file__).resolve().parents[4]
    return root if (root / "pyproject.toml").is_file() and (root / "src" / "normscope").is_dir() else None


def _numbers(version: str) -> tuple[int, ...]:
    """Return the release numbers of a version: (2, 13, 0) for ``2.13.0+cpu``."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release.group().split(".")) if release else ()
