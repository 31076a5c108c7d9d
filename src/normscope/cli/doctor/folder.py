"""Checks of a folder for studies: whether several machines can compute the runs of one study in it."""

import errno
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from normscope.cli.doctor.installation import SMALL_DISK, Check
from normscope.files import atomic_file

CALLS = 20
"""Number of calls whose median is the latency."""

SLOW_MS = 50.0
"""Latency of a small file above which short runs wait for the folder."""

SKEW_SECONDS = 2.0
"""Difference of clocks above which times of files mislead a reader."""

_SECOND_PROCESS = """
import os, sys
what, path = sys.argv[1:]
try:
    if what == "flock":
        import fcntl
        fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif what == "create":
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    else:
        print(repr(open(path, "rb").read()), os.stat(path).st_mtime_ns)
except OSError as error:
    print(error.errno)
"""


def diagnose_folder(folder: Path) -> list[Check]:
    """Check with two processes of this machine what a folder does; a temporary folder in it is removed afterwards.

    Raises:
        FileNotFoundError: If the folder does not exist.
        NotADirectoryError: If it is a file.
    """
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {folder}: create it first")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; a study needs a folder")
    checks = [_file_system(folder)]
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".normscope-doctor-") as name:
            place = Path(name)
            needed = [_exclusive_create(place), _rename(place), _refresh(place)]
            checks += [*needed, _hard_link(place), _flock(place), _latency(place), _clock(place), _space(folder)]
    except OSError as error:
        advice = "studies need a folder that can be written: choose another one with --out"
        return [*checks, Check(name="writing", state="missing", found=str(error), advice=advice)]
    return [*checks, _leases(needed)]


def _second(what: str, path: Path) -> str:
    """Let a second process try something; return what it prints: the number of its error, or what it read."""
    command = [sys.executable, "-I", "-S", "-c", _SECOND_PROCESS, what, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def _file_system(folder: Path) -> Check:
    """Name the file system of a folder, and the options with which it is mounted."""
    name = "file system"
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return Check(name=name, state="ok", found="unknown: this system does not list its mounts")
    mounts = [(line.split()[1].replace("\\040", " "), *line.split()[2:4]) for line in lines]
    path = folder.resolve()
    inside = [mount for mount in mounts if path.is_relative_to(mount[0])]
    point, kind, options = max(reversed(inside), key=lambda mount: len(mount[0]))
    return Check(name=name, state="ok", found=f"{kind}, mounted at {point} ({options})")


def _exclusive_create(place: Path) -> Check:
    """Check that of two processes which create a file, one fails."""
    name, path = "exclusive create", place / "created"
    path.touch(exist_ok=False)
    told = _second("create", path)
    if told == str(errno.EEXIST):
        return Check(name=name, state="ok", found="a file is created by one process; the second is refused")
    advice = "two processes could hold the same run"
    return Check(
        name=name, state="missing", found=f"a second process was not refused ({told or 'no error'})", advice=advice
    )


def _rename(place: Path) -> Check:
    """Check that a file which is renamed over another one replaces it."""
    name, path = "rename", place / "renamed"
    for content in (b"old", b"new"):
        with atomic_file(path) as file:
            file.write(content)
    told = _second("read", path)
    if told.startswith(repr(b"new")) and os.listdir(place).count(path.name) == 1:
        found = "a finished file takes the place of the old one in one call; readers see either of them whole"
        return Check(name=name, state="ok", found=found)
    advice = "readers could see half a file"
    return Check(name=name, state="missing", found=f"a second process read {told}", advice=advice)


def _refresh(place: Path) -> Check:
    """Check that a new time of a file reaches another process, as each sign of life of a lease has to."""
    name, path = "refresh", place / "refreshed"
    path.touch()
    # File systems keep times to the second or two.
    os.utime(path, (0, path.stat().st_mtime - 10))
    before = _second("read", path)
    with path.open("r+b") as file:
        os.utime(file.fileno() if os.utime in os.supports_fd else path)
        after = _second("read", path)
    if before != after:
        return Check(name=name, state="ok", found="a second process sees the new time of an open file")
    advice = "a run that goes on could be taken for dead"
    return Check(
        name=name, state="missing", found="a second process does not see the new time of a file", advice=advice
    )


def _hard_link(place: Path) -> Check:
    """Check that a name which exists is not taken by a link."""
    name, advice = "hard link", "of two results published in the same instant the later one would be kept"
    (place / "one").write_bytes(b"one")
    (place / "other").write_bytes(b"other")
    try:
        os.link(place / "one", place / "linked")
    except OSError as error:
        found = f"none ({error.strerror}): results are renamed, after a look whether there is one"
        return Check(name=name, state="warning", found=found, advice=advice)
    try:
        os.link(place / "other", place / "linked")
    except FileExistsError:
        found = "of two results of a run, the second cannot take the name of the first"
        return Check(name=name, state="ok", found=found)
    return Check(name=name, state="warning", found="a link takes a name that exists", advice=advice)


def _flock(place: Path) -> Check:
    """Check whether an operating-system lock excludes a second process of this machine."""
    name, path = "flock", place / "locked"
    try:
        import fcntl
    except ImportError:
        return Check(name=name, state="ok", found="not of this system; runs are held by leases, not by locks")
    caches = "studies do not use it; caches of data sets and kernels do: set XDG_CACHE_HOME to a disk of each machine"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return Check(name=name, state="warning", found=f"not supported ({error.strerror})", advice=caches)
        told = _second("flock", path)
    if told in (str(errno.EWOULDBLOCK), str(errno.EACCES)):
        found = "excludes a second process of this machine; whether also of another one, one machine cannot tell"
        return Check(name=name, state="ok", found=f"{found}. Studies do not use it")
    return Check(name=name, state="warning", found="does not exclude a second process", advice=caches)


def _latency(place: Path) -> Check:
    """Measure what a small file and a look at it cost."""

    def milliseconds(call: Callable[[int], object]) -> float:
        times = []
        for number in range(CALLS):
            begin = time.perf_counter()
            call(number)
            times.append((time.perf_counter() - begin) * 1e3)
        return statistics.median(times)

    def write(number: int) -> None:
        with atomic_file(place / f"small-{number}") as file:
            file.write(b"{}")

    writing, looking = milliseconds(write), milliseconds(lambda number: (place / f"small-{number}").stat())
    listing = milliseconds(lambda number: os.listdir(place))
    found = f"{writing:.2f} ms to write a small file, {looking:.3f} ms to look at it, {listing:.3f} ms to list a folder"
    if writing > SLOW_MS:
        advice = "every evaluation writes a file: runs of a few seconds are better computed on a local disk"
        return Check(name="latency", state="warning", found=found, advice=advice)
    return Check(name="latency", state="ok", found=found)


def _clock(place: Path) -> Check:
    """Compare the clock that dates files with that of this machine."""
    before = time.time()
    path = place / "dated"
    path.write_bytes(b"dated")
    after, dated = time.time(), path.stat().st_mtime
    # Times of files may be coarser than a call takes.
    skew = dated - min(max(dated, before), after)
    found = f"files are dated {abs(skew):.2f} s {'after' if skew > 0 else 'before'} the time of this machine"
    if abs(skew) > SKEW_SECONDS:
        advice = "leases do not depend on it, since each process measures time by its own clock; set the clocks anyway"
        return Check(name="clock", state="warning", found=found, advice=advice)
    return Check(name="clock", state="ok", found=f"{found}; leases do not depend on it")


def _space(folder: Path) -> Check:
    """Report the free space, and the number of files that can be created."""
    free = shutil.disk_usage(folder).free
    files = os.statvfs(folder).f_favail if hasattr(os, "statvfs") else 0
    found = f"{free / 1e9:.1f} GB free" + (f", {files:,} files more" if files else "")
    if free < SMALL_DISK:
        return Check(name="space", state="warning", found=found, advice="checkpoints of a large study may not fit")
    return Check(name="space", state="ok", found=found)


def _leases(needed: list[Check]) -> Check:
    """Conclude whether leases hold in the folder."""
    lacking = [check.name for check in needed if check.state != "ok"]
    if lacking:
        found = f"not safe here, for want of {', '.join(lacking)}"
        advice = "compute studies in this folder with one command at a time, or choose another folder with --out"
        return Check(name="leases", state="missing", found=found, advice=advice)
    found = "safe here: several machines may compute the runs of one study in this folder"
    return Check(name="leases", state="ok", found=found)
