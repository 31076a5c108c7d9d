"""What every engine costs over the local one: ``./run bench engines [--only local,slurm]``.

Each engine computes the same study with four workers, on a cluster on two nodes of this machine. *Start-up* is the time
from the command to the first run that begins. *Busy* is the time from the moment at which all four have a run until
fewer runs are left than there are workers. *Overhead per run* is the time of a worker for one run in it, minus that of
the local engine. *Efficiency* is the number of runs per second in it over the ideal: that of as many processes as there
are cores, or four if there are more, each of which computes one run after another and nothing else. Their time for
one run is measured here, with all of them at work. Four workers on two cores have an ideal of two.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 4
SEEDS = 14
STEPS = 1500
WORDS = ["compare", "digits", "--norms=none,layer_norm", f"--seeds=0-{SEEDS - 1}", f"--steps={STEPS}"]
NORMSCOPE = [sys.executable, "-P", "-m", "normscope"]

Begin = Callable[[Path], None]
"""Starts the study in a folder with :data:`WORKERS` workers, and returns at once or when it has ended."""

ALONE = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from normscope.results.store import StudyFolder
from normscope.studies import make_study, plan
from normscope.studies.run import execute
specs = plan(make_study("digits", norms=["none", "layer_norm"], seeds=[int(sys.argv[2]), 100], steps=int(sys.argv[3])))
study = StudyFolder(Path(sys.argv[1]))
execute(specs[-1], study, lambda step, loss: False)
print("ready", flush=True)
sys.stdin.readline()
begin = time.perf_counter()
for spec in specs[:2]:
    execute(spec, study, lambda step, loss: False)
print((time.perf_counter() - begin) / 2)
"""


def alone(folder: Path, processes: int) -> float:
    """Return the seconds of one run in each of several processes at the same time that do nothing else."""
    started = []
    for number in range(processes):
        program = [sys.executable, "-P", "-c", ALONE, str(folder / f"alone{number}"), str(number), str(STEPS)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True))
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    return statistics.mean(float(process.communicate("go\n")[0]) for process in started)


@contextlib.contextmanager
def local(folder: Path) -> Iterator[Begin]:
    """Compute on this machine."""
    processes = []

    def begin(study: Path) -> None:
        program = [*NORMSCOPE, *WORDS, f"--workers={WORKERS}", f"--out={study}"]
        processes.append(subprocess.Popen(program, stdout=subprocess.DEVNULL))

    yield begin
    for process in processes:
        process.wait()


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[Begin]:
    """Compute on two nodes of a real Slurm on this machine."""
    sys.path.insert(0, str(ROOT / "cluster"))
    from slurm import Cluster, install, until

    install()
    with Cluster(cpus=WORKERS // 2) as cluster:
        yield lambda study: print(
            cluster.normscope(*WORDS, "--engine=slurm", f"--jobs={WORKERS}", "--leave-after=1", f"--out={study}"),
            end="",
        )
        until(lambda: not cluster.queue(), "the jobs to end")


ENGINES: dict[str, Callable[[Path], contextlib.AbstractContextManager[Begin]]] = {"local": local, "slurm": slurm}


def measure(begin: Begin, study: Path) -> tuple[float, float, float]:
    """Return the start-up time, the time of a worker for one run, and the number of runs per second."""
    started = time.time()
    begin(study)
    holders: set[str] = set()
    busy = 0.0
    ends: list[float] = []
    while len(ends) < 2 * SEEDS:
        time.sleep(0.1)
        if not busy:
            for path in study.glob("runs/*/holder"):
                with contextlib.suppress(OSError):
                    holders.add(path.read_text())
            busy = time.time() if len(holders) >= WORKERS else 0.0
        ends = sorted(path.stat().st_mtime for path in study.glob("runs/*/result.json"))
    first = min(path.stat().st_mtime for path in study.glob("runs/*/run.json"))
    counted = [end for end in ends[: 1 - WORKERS] if end >= busy]
    rate = (len(counted) - 1) / (counted[-1] - counted[0])
    return first - started, WORKERS / rate, rate


def main() -> None:
    """Measure the engines and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ENGINES))
    names = parser.parse_args().only.split(",")
    cores = len(os.sched_getaffinity(0))
    ideal = min(WORKERS, cores)
    rows = []
    with tempfile.TemporaryDirectory(prefix="normscope-engines-") as home:
        for name in names:
            folder = Path(home) / name
            with ENGINES[name](folder) as begin:
                startup, per_run, rate = measure(begin, folder)
            seconds = alone(Path(home) / f"{name}-ideal", ideal)
            rows.append((name, startup, per_run, rate / (ideal / seconds), seconds))
    base = next((per_run for name, _, per_run, *_ in rows if name == "local"), None)
    print(f"{2 * SEEDS} runs of {STEPS:,} updates, {WORKERS} workers, {cores} cores, load {os.getloadavg()[0]:.1f};")
    print(f"ideal: {ideal} processes that compute runs and nothing else")
    print("| engine | start-up | worker's time per run | over local | a run alone | efficiency |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, startup, per_run, efficiency, seconds in rows:
        over = "" if base is None else f"{per_run - base:+.2f} s"
        print(f"| {name} | {startup:.1f} s | {per_run:.2f} s | {over} | {seconds:.2f} s | {efficiency:.2f} |")


if __name__ == "__main__":
    main()
