"""Time and memory of the main job, ``normscope compare digits``, workers included: ``./run bench main_job``. Linux.

Memory is the sum over all its processes of the proportional set size: a page that several share counts once.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS_BETWEEN_LOOKS = 0.25


def descendants(root: int) -> list[int]:
    """List a process and everything it started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for process in found:
        found.extend(children.get(process, []))
    return found


def proportional_set_size(process: int) -> int:
    """Give what a process holds, in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    """Run the main job in a folder of its own and print what it took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "normscope.cli.main", "compare", "digits", "--out", folder, *sys.argv[1:]]
        load, begin, peak = os.getloadavg()[0], time.perf_counter(), 0
        with subprocess.Popen(command) as job:
            while job.poll() is None:
                peak = max(peak, sum(map(proportional_set_size, descendants(job.pid))))
                time.sleep(SECONDS_BETWEEN_LOOKS)
        seconds = time.perf_counter() - begin
        if job.returncode:
            sys.exit(job.returncode)
        size = (Path(folder) / "report.html").stat().st_size
    print(
        f"normscope compare digits: {seconds:.0f} s, {peak / 1e9:.2f} GB at the most, report of {size / 1e6:.2f} MB "
        f"({os.cpu_count()} cores, load {load:.1f} before)"
    )


if __name__ == "__main__":
    main()
