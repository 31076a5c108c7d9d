"""Compile the CPU kernels once, and keep them.

A built file is named by the hash of everything that decides it, so that nothing stale is ever loaded, and moved to its
name when it is whole. Builders wait for each other by a lock that the system frees however its holder ends.

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

HERE = Path(__file__).resolve().parent
PREBUILT = HERE / "prebuilt"
"""Where a wheel carries built files."""

KERNELS = ("cpu.c", "cpu.h", "cpu_rows.h", "cpu_vector.h")
SHIM = ("shim.cpp", "cpu.h")

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {"base": (), "avx2": _AVX2, "avx512": _AVX512, "avx512bf16": (*_AVX512, "-mavx512bf16")},
    "aarch64": {"base": ()},
}
"""Instruction sets by processor, and the compiler's words for each; which one runs is chosen when it is loaded."""
VARIANTS["amd64"] = VARIANTS["x86_64"]
VARIANTS["arm64"] = VARIANTS["aarch64"]

C_FLAGS = ("-O2", "-fPIC", "-std=gnu11", "-fno-math-errno", "-ffp-contract=off", "-Wno-psabi")
# torch's parallel loop is a template over OpenMP: without its flag it compiles, and runs in one thread.
CXX_FLAGS = ("-O1", "-fPIC", "-std=c++20", "-fvisibility=hidden", "-fopenmp")


class CannotBuild(RuntimeError):
    """No built file is there, and none can be made: the message says why."""


def kernels(say: Callable[[str], None]) -> Path:
    """Give the library of kernels, building it if need be: a few seconds, once.

    Args:
        say: Told in a line what is built, and how long it took.

    Returns:
        The path of a shared library with ``normscope_forward``, ``normscope_backward`` and ``normscope_reduce``.

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

    return _kept(name, build, "the CPU kernels", say)


def shim(say: Callable[[str], None]) -> Path:
    """Give the C++ autograd function over the kernels for this torch and this Python, building it if need be.

    Args:
        say: Told in a line what is built, and how long it took.

    Returns:
        The path of an extension module named ``_shim``.

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

    return _kept(name, build, f"the C++ function over them for torch {torch.__version__}", say)


def missing() -> list[str]:
    """List what the first use will build here.

    Raises:
        CannotBuild: If it cannot: another kind of processor, or no compiler.
    """
    found = []
    for name, what, compiler in (
        (_kernels_name(), "the kernels", _compiler("CC", ("cc", "gcc", "clang"))),
        (_shim_name(), "the C++ function over them", _compiler("CXX", ("c++", "g++", "clang++"))),
    ):
        if _built(name) is None:
            _needed(compiler)
            found.append(what)
    return found


def folder() -> Path:
    """Give the folder that built files are kept in, which XDG_CACHE_HOME moves."""
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
    """Find a built file in the package or in the cache."""
    return next((place / name for place in (PREBUILT, folder()) if (place / name).exists()), None)


def _name(stem: str, sources: tuple[str, ...], *decides: object) -> str:
    """Name a built file by the hash of what decides it."""
    machine = f"{sys.platform}-{platform.machine().lower()}"
    digest = hashlib.sha256(repr((machine, decides)).encode())
    for source in sources:
        digest.update((HERE / source).read_bytes())
    return f"{stem}-{machine}-{digest.hexdigest()[:16]}.so"


def _kept(name: str, build: Callable[[Path], Path], what: str, say: Callable[[str], None]) -> Path:
    """Give a built file of the package or of the cache, or build it there.

    Raises:
        CannotBuild: If the folder cannot be written, or ``build`` raises it.
    """
    if found := _built(name):
        return found
    path = folder() / name
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with _alone(path, what, say):
            if not path.exists():
                with tempfile.TemporaryDirectory(dir=folder(), prefix="building-") as scratch:
                    start = time.monotonic()
                    os.replace(build(Path(scratch)), path)
                say(f"normscope: built {what}, once, in {time.monotonic() - start:.1f} s ({path})")
    except OSError as error:
        raise CannotBuild(f"{folder()} cannot be written: {error}") from error
    return path


@contextmanager
def _alone(path: Path, what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of one built file, and say when that means to wait."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(f"normscope: another process builds {what}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _compiler(variable: str, names: tuple[str, ...]) -> list[str] | None:
    """Give the command that compiles: the environment's word for it, or the first that is there."""
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
        CannotBuild: If it fails, with its first words of error.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        raise CannotBuild(f"{command[0]} failed: {' '.join(lines[:1])}")


def main() -> None:
    """Build into the package what this Python, this torch and this machine need, for a wheel that carries it."""
    PREBUILT.mkdir(exist_ok=True)
    for make in (kernels, shim):
        built = make(print)
        if built.parent != PREBUILT:
            shutil.copy2(built, PREBUILT / built.name)
        print(PREBUILT / built.name)


if __name__ == "__main__":
    main()
