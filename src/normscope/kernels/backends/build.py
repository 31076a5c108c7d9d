"""Compilation of the CPU kernels, and the cache of compiled files.

A compiled file is named by the hash of its sources, flags and versions, so that no stale file is loaded. Its length and
its hash are stored in a file beside it, and compared before it is loaded: a file that was cut short would kill the
process. Both are flushed to disk before the compiled file gets its name. A lock, released by the system if its process
dies, makes concurrent builds wait.

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
from io import BufferedRandom, BufferedReader
from pathlib import Path

from filelock import FileLock, Timeout

from normscope.errors import NormscopeError
from normscope.files import CacheUnusable, cache_folder, is_writable, not_writable, write_atomically

HERE = Path(__file__).resolve().parent
PREBUILT = HERE / "prebuilt"
"""Folder of compiled files in a wheel."""

KERNELS = ("cpu.c", "cpu.h", "cpu_rows.h", "cpu_vector.h")
SHIM = ("shim.cpp", "cpu.h")
SCAN_KERNELS = ("scan.c", "scan.h", "cpu.h", "scan_rows.h", "cpu_vector.h")
SCAN = ("scan.cpp", "scan.h", "cpu.h")

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


_COMPILERS = {"CC": ("C", ("cc", "gcc", "clang")), "CXX": ("C++", ("c++", "g++", "clang++"))}
"""Language and usual names of the compilers, by the environment variable that names another one."""

_PACKAGES = {"Python.h": "python3-dev", "stdint.h": "libc6-dev", "cstdint": "g++"}
"""Debian's package of a header that compilers miss."""


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
    return _library(_kernels_name(), KERNELS[0], "the CPU kernels", report)


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

    return _extension(_shim_name(), SHIM[0], f"the C++ function over them for torch {torch.__version__}", report)


def scan(report: Callable[[str], None]) -> tuple[Path, Path]:
    """Return the kernels of recurrent nets and the extension module ``_scan`` that calls them, built on first use.

    Args:
        report: Called with a line about each file that was built and the time it took.

    Returns:
        Paths of a shared library with ``normscope_scan``, and of the extension module.

    Raises:
        CannotBuild: If a compiler is missing or fails, or the folder cannot be written.
    """
    import torch

    name = _name("scan", SCAN_KERNELS, C_FLAGS, _variants())
    library = _library(name, SCAN_KERNELS[0], "the CPU kernels of recurrent nets", report)
    what = f"the C++ function over those of recurrent nets for torch {torch.__version__}"
    return library, _extension(_extension_name("scan", SCAN), SCAN[0], what, report)


def _library(name: str, source: str, what: str, report: Callable[[str], None]) -> Path:
    """Return a library of a C file, compiled once for each instruction set."""
    variants = _variants()

    def build(folder: Path) -> Path:
        command = compiler("CC")

        def compile_one(isa: str, flags: tuple[str, ...]) -> Path:
            output = folder / f"{isa}.o"
            define = "-DTABLE=1" if isa == "table" else f"-DISA={isa}"
            _call([*command, *C_FLAGS, *flags, define, "-c", str(HERE / source), "-o", str(output)])
            return output

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(compile_one, ["table", *variants], [(), *variants.values()]))
        _call([*command, "-shared", *map(str, parts), "-o", str(folder / name), "-lm"])
        return folder / name

    return _cached(name, build, what, report)


def _extension(name: str, source: str, what: str, report: Callable[[str], None]) -> Path:
    """Return an extension module of a C++ file that includes torch."""
    import torch

    def build(folder: Path) -> Path:
        home = Path(torch.__file__).parent
        headers = home / "include"
        include = [headers, headers / "torch/csrc/api/include", sysconfig.get_paths()["include"], HERE]
        links = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        command = [*compiler("CXX"), *CXX_FLAGS, _abi(), "-shared", *(f"-isystem{path}" for path in include)]
        command += [str(HERE / source), "-o", str(folder / name), *links, f"-L{home / 'lib'}"]
        _call([*command, "-ltorch_python", "-ltorch", "-ltorch_cpu", "-lc10"])
        return folder / name

    return _cached(name, build, what, report)


def missing() -> list[str]:
    """List the files that the first use will build.

    Raises:
        CannotBuild: If the processor is not supported, or files are missing and there is no compiler or the folder
            cannot be written.
    """
    absent = []
    for name, what, variable in (
        (_kernels_name(), "the kernels", "CC"),
        (_shim_name(), "the C++ function over them", "CXX"),
    ):
        if _built(name) is None:
            compiler(variable)
            absent.append(what)
    if absent and not is_writable(folder()):
        raise CannotBuild(not_writable(folder()))
    return absent


def folder() -> Path:
    """Return the folder of the cache, which depends on XDG_CACHE_HOME.

    Raises:
        CannotBuild: If there is no home directory and XDG_CACHE_HOME is not set.
    """
    try:
        return cache_folder() / "kernels"
    except CacheUnusable as error:
        raise CannotBuild(str(error)) from error


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
    return _extension_name("shim", SHIM)


def _extension_name(stem: str, sources: tuple[str, ...]) -> str:
    import torch

    versions = (torch.__version__, str(torch.version.git_version), str(sysconfig.get_config_var("SOABI")), _abi())
    return _name(stem, sources, CXX_FLAGS, versions)


def _built(name: str) -> Path | None:
    """Return the path of an intact compiled file in the package or in the cache, or None."""
    prebuilt = PREBUILT / name
    return prebuilt if _is_intact(prebuilt) else path if _is_intact(path := folder() / name) else None


def _record(path: Path) -> Path:
    """Return the path of the file with the length and the hash of a compiled file."""
    return path.with_name(f"{path.name}.sha256")


def _is_intact(path: Path) -> bool:
    """Return whether a compiled file has the length and the hash that were stored when it was built."""
    try:
        with path.open("rb") as file:
            return _record(path).read_bytes() == _content_of_record(file)
    except OSError:
        return False


def _content_of_record(file: BufferedReader | BufferedRandom) -> bytes:
    return f"{os.fstat(file.fileno()).st_size} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()


def _name(stem: str, sources: tuple[str, ...], *settings: object) -> str:
    """Return the name of a compiled file: the hash of machine, settings and sources.

    Raises:
        CannotBuild: If a source cannot be read.
    """
    machine = f"{sys.platform}-{platform.machine().lower()}"
    digest = hashlib.sha256(repr((machine, settings)).encode())
    for source in sources:
        try:
            digest.update((HERE / source).read_bytes())
        except OSError as error:
            raise CannotBuild(f"the source of the kernels cannot be read: {error}") from error
    return f"{stem}-{machine}-{digest.hexdigest()[:16]}.so"


def _cached(name: str, build: Callable[[Path], Path], what: str, report: Callable[[str], None]) -> Path:
    """Return an intact compiled file from the package or the cache, or build it in the cache.

    Raises:
        CannotBuild: If the folder cannot be written, a folder has the name of the file, or ``build`` raises it.
    """
    if found := _built(name):
        return found
    path = folder() / name
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with _locked(path, what, report):
            if path.is_dir():
                raise CannotBuild(f"{path} is a folder, and must be a file: remove it")
            if not _is_intact(path):
                for damaged in (each for each in (PREBUILT / name, path) if each.exists() and _record(each).is_file()):
                    report(f"normscope: {damaged} is damaged and is not used")
                with tempfile.TemporaryDirectory(dir=folder(), prefix="building-") as scratch:
                    start = time.monotonic()
                    built = build(Path(scratch))
                    with built.open("r+b") as file:
                        os.fsync(file.fileno())
                        write_atomically(_record(path), _content_of_record(file))
                    os.replace(built, path)
                report(f"normscope: built {what}, once, in {time.monotonic() - start:.1f} s ({path})")
    except OSError as error:
        raise CannotBuild(not_writable(folder(), error)) from error
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


def compiler(variable: str) -> list[str]:
    """Return the compiler command: that of an environment variable, or the first that is installed.

    Raises:
        CannotBuild: If there is no such command.
    """
    language, names = _COMPILERS[variable]
    given = os.environ.get(variable, "")
    try:
        command = shlex.split(given)
    except ValueError as error:
        raise CannotBuild(f"{variable}={given!r} is not a command: {error}") from error
    if not command:
        found = next(filter(None, map(shutil.which, names)), None)
        if found is None:
            raise CannotBuild(f"no {language} compiler on PATH; on Debian and Ubuntu: apt-get install g++")
        return [found]
    if shutil.which(command[0]) is None:
        raise CannotBuild(f"no {language} compiler: {variable}={given!r}, and there is no program {command[0]!r}")
    return command


def _call(command: list[str]) -> None:
    """Run a compiler, with its temporary files beside its output, the last path in ``command`` after ``-o``.

    Raises:
        CannotBuild: If it fails, with the first line of its error.
    """
    scratch = str(Path(command[command.index("-o") + 1]).parent)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env={**os.environ, "TMPDIR": scratch},
        )
    except OSError as error:
        raise CannotBuild(f"the compiler {command[0]} cannot be started: {error.strerror}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        reason = next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")
        package = next((package for header, package in _PACKAGES.items() if f"{header}: No such" in reason), None)
        hint = f"; on Debian and Ubuntu: apt-get install {package}" if package else ""
        raise CannotBuild(f"{command[0]} failed: {reason or f'exit status {done.returncode}, no message'}{hint}")


def say(line: str) -> None:
    """Write a line to standard error, unless it is closed."""
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Build the files for this Python, torch and machine into the package, for a wheel that contains them."""
    PREBUILT.mkdir(exist_ok=True)
    for built in (kernels(print), shim(print), *scan(print)):
        if built.parent != PREBUILT:
            shutil.copy2(built, PREBUILT)
            shutil.copy2(_record(built), PREBUILT)
        print(PREBUILT / built.name)


if __name__ == "__main__":
    main()
