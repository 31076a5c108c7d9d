"""Compilation of the CPU kernels, and the cache of compiled files.

A compiled file is named by the hash of its sources, flags and versions, so that no stale file is loaded, and renamed to
that name when it is complete. A lock, released by the system if its process dies, makes concurrent builds wait.

``python -m normscope.kernels.backends.build`` builds into the package, for wheels.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from normscope.errors import NormscopeError

HERE = Path(__file__).resolve().parent
PREBUILT = HERE / "prebuilt"
"""Folder of compiled files in a wheel."""

KERNELS = ("cpu.c", "cpu.h", "cpu_rows.h", "cpu_vector.h")
SHIM = ("shim.cpp", "cpu.h")

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {"base": (), "avx2": _AVX2, "avx512": _AVX512, "avx512bf16": (*_AVX512, "-mavx512bf16")},
    "aarch64": {"base": ()},
}
"""Instruction sets by processor, with their compiler flags; one of them is selected when the kernels are loaded."""
VARIANTS["amd64"] = VARIANTS["x86_64"]
VARIANTS["arm64"] = VARIANTS["aarch64"]

C_FLAGS = ("-O2", "-fPIC", "-std=gnu11", "-fno-math-errno", "-ffp-contract=off", "-Wno-psabi")
# at::parallel_for is a template over OpenMP: without this flag it compiles, but runs in one thread.
CXX_FLAGS = ("-O1", "-fPIC", "-std=c++20", "-fvisibility=hidden", "-fopenmp")


class CannotBuild(NormscopeError, RuntimeError):
    """Raised if there is no compiled file and none can be built; the message gives the reason."""


def kernels(report: Callable[[str], None]) -> Path:
    """Return the library of kernels, and build it on first use, which takes a few seconds.

    Args:
        report: Called with a line about the file that was built and the time it took.

    Returns:
        Path of a shared library with ``normscope_forward``, ``normscope_backward`` and ``normscope_reduce``.

    Raises:
        CannotBuild: If there is no C compiler, it fails, or the folder cannot be written.
    """
    name, variants = _kernels_name(), _variants()
    compiler = _compiler("CC", ("cc", "gcc", "clang"))

    def build(folder: Path) -> Path:
        def compile_one(isa: str, flags: tuple[str, ...]) -> Path:
            output = folder / f"{isa}.o"
            define = "-DTABLE=1" if isa == "table" else f"-DISA={isa}"
            _call([*_needed(compiler), *C_FLAGS, *flags, define, "-c", str(HERE / "cpu.c"), "-o", str(output)])
            return output

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(compile_one, ["table", *variants], [(), *variants.values()]))
        _call([*_needed(compiler), "-shared", *map(str, parts), "-o", str(folder / name), "-lm"])
        return folder / name

    return _cached(name, build, "the CPU kernels", report)


def shim(report: Callable[[str], None]) -> Path:
    """Return the C++ autograd function over the kernels for this torch and this Python, and build it on first use.

    Args:
        report: Called with a line about the file that was built and the time it took.

    Returns:
        Path of an extension module named ``_shim``.

    Raises:
        CannotBuild: If there is no C++ compiler, it fails, or the folder cannot be written.
    """
    import torch

    name, abi = _shim_name(), _abi()
    compiler = _compiler("CXX", ("c++", "g++", "clang++"))

    def build(folder: Path) -> Path:
        home = Path(torch.__file__).parent
        headers = home / "include"
        include = [headers, headers / "torch/csrc/api/include", sysconfig.get_paths()["include"], HERE]
        links = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        command = [*_needed(compiler), *CXX_FLAGS, abi, "-shared", *(f"-isystem{path}" for path in include)]
        command += [str(HERE / "shim.cpp"), "-o", str(folder / name), *links, f"-L{home / 'lib'}"]
        _call([*command, "-ltorch_python", "-ltorch", "-ltorch_cpu", "-lc10"])
        return folder / name

    return _cached(name, build, f"the C++ function over them for torch {torch.__version__}", report)


def missing() -> list[str]:
    """List the files that the first use will build.

    Raises:
        CannotBuild: If the processor is not supported or there is no compiler.
    """
    absent = []
    for name, what, compiler in (
        (_kernels_name(), "the kernels", _compiler("CC", ("cc", "gcc", "clang"))),
        (_shim_name(), "the C++ function over them", _compiler("CXX", ("c++", "g++", "clang++"))),
    ):
        if _built(name) is None:
            _needed(compiler)
            absent.append(what)
    return absent


def folder() -> Path:
    """Return the folder of the cache, which depends on XDG_CACHE_HOME."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / (
        "Library/Caches" if sys.platform == "darwin" else ".cache"
    )
    return Path(home) / "normscope" / "kernels"


def _variants() -> dict[str, tuple[str, ...]]:
    variants = VARIANTS.get(platform.machine().lower())
    if variants is None:
        known = ", ".join(VARIANTS)
        raise CannotBuild(f"the CPU kernels are written for {known}; this is {platform.machine()}")
    return variants


def _abi() -> str:
    import torch

    return f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"


def _kernels_name() -> str:
    return _name("cpu", KERNELS, C_FLAGS, _variants())


def _shim_name() -> str:
    import torch

    versions = (torch.__version__, str(torch.version.git_version), str(sysconfig.get_config_var("SOABI")), _abi())
    return _name("shim", SHIM, CXX_FLAGS, versions)


def _built(name: str) -> Path | None:
    """Return the path of a compiled file in the package or in the cache, or None."""
    return next((place / name for place in (PREBUILT, folder()) if (place / name).exists()), None)


def _name(stem: str, sources: tuple[str, ...], *settings: object) -> str:
    """Return the name of a compiled file: the hash of machine, settings and sources."""
    machine = f"{sys.platform}-{platform.machine().lower()}"
    digest = hashlib.sha256(repr((machine, settings)).encode())
    for source in sources:
        digest.update((HERE / source).read_bytes())
    return f"{stem}-{machine}-{digest.hexdigest()[:16]}.so"


def _cached(name: str, build: Callable[[Path], Path], what: str, report: Callable[[str], None]) -> Path:
    """Return a compiled file from the package or the cache, or build it in the cache.

    Raises:
        CannotBuild: If the folder cannot be written, or ``build`` raises it.
    """
    if found := _built(name):
        return found
    path = folder() / name
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with _locked(path, what, report):
            if not path.exists():
                with tempfile.TemporaryDirectory(dir=folder(), prefix="building-") as scratch:
                    start = time.monotonic()
                    os.replace(build(Path(scratch)), path)
                report(f"normscope: built {what}, once, in {time.monotonic() - start:.1f} s ({path})")
    except OSError as error:
        raise CannotBuild(f"{folder()} cannot be written: {error}") from error
    return path


@contextmanager
def _locked(path: Path, what: str, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of one compiled file, and report if another process holds it."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        report(f"normscope: another process builds {what}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _compiler(variable: str, names: tuple[str, ...]) -> list[str] | None:
    """Return the compiler command: that of an environment variable, or the first that is installed."""
    if os.environ.get(variable):
        return shlex.split(os.environ[variable])
    return next(([path] for name in names if (path := shutil.which(name))), None)


def _needed(compiler: list[str] | None) -> list[str]:
    if compiler is None:
        raise CannotBuild("no C or C++ compiler on PATH; on Debian and Ubuntu: apt-get install g++")
    return compiler


def _call(command: list[str]) -> None:
    """Run a compiler.

    Raises:
        CannotBuild: If it fails, with the first line of its error.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        raise CannotBuild(f"{command[0]} failed: {' '.join(lines[:1])}")


def main() -> None:
    """Build the files for this Python, torch and machine into the package, for a wheel that contains them."""
    PREBUILT.mkdir(exist_ok=True)
    for make in (kernels, shim):
        built = make(print)
        if built.parent != PREBUILT:
            shutil.copy2(built, PREBUILT / built.name)
        print(PREBUILT / built.name)


if __name__ == "__main__":
    main()
