"""What every engine costs over the local one: ``./run bench engines [--only local,slurm,ray]``.

Each engine computes the same study with four workers, on a cluster on two nodes of this machine. *Start-up* is the time
from the command to the first run that begins. *Busy* is the time from the moment at which all four have a run until
fewer runs are left than there are workers. *Overhead per run* is the time of a worker for one run in it, minus that of
the local engine. *Efficiency* is the number of runs per second in it over the ideal: that of as many processes as there
are cores, or four if there are more, each of which computes one run after another and nothing else. Their time for
one run is measured here, with all of them at work. Four workers on two cores have an ideal of two.
"""

import argparse
import contextlib
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 4
NORMSCOPE = [sys.executable, "-P", "-m", "normscope"]

Begin = Callable[[Path], None]
"""Starts a study in a folder with :data:`WORKERS` workers, and returns without waiting for its end."""

ALONE = """
import sys, time
from pathlib import Path
from types import ModuleType
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


def cluster(name: str) -> ModuleType:
    """Load ``cluster/NAME.py``, whose name may be that of a package."""
    spec = importlib.util.spec_from_file_location(f"cluster_{name}", ROOT / "cluster" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def alone(folder: Path, processes: int, steps: int) -> float:
    """Return the seconds of one run in each of several processes at the same time that do nothing else."""
    started = []
    for number in range(processes):
        program = [sys.executable, "-P", "-c", ALONE, str(folder / f"alone{number}"), str(number), str(steps)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True))
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    return statistics.mean(float(process.communicate("go\n")[0]) for process in started)


@contextlib.contextmanager
def local(words: list[str]) -> Iterator[Begin]:
    """Compute on this machine."""
    processes = []

    def begin(study: Path) -> None:
        program = [*NORMSCOPE, *words, f"--workers={WORKERS}", f"--out={study}"]
        processes.append(subprocess.Popen(program, stdout=subprocess.DEVNULL))

    yield begin
    for process in processes:
        process.wait()


@contextlib.contextmanager
def slurm(words: list[str]) -> Iterator[Begin]:
    """Compute on two nodes of a real Slurm on this machine."""
    trial = cluster("slurm")
    trial.install()
    with trial.Cluster(cpus=WORKERS // 2) as nodes:
        more = ["--engine=slurm", f"--jobs={WORKERS}", "--leave-after=1"]
        yield lambda study: nodes.normscope(*words, *more, f"--out={study}")
        trial.until(lambda: not nodes.queue(), "the jobs to end")


@contextlib.contextmanager
def ray(words: list[str]) -> Iterator[Begin]:
    """Compute on two nodes of a real Ray on this machine."""
    with cluster("ray").two_nodes(words, cpus=WORKERS // 2) as begin:
        yield begin


ENGINES: dict[str, Callable[[list[str]], contextlib.AbstractContextManager[Begin]]] = {
    "local": local,
    "slurm": slurm,
    "ray": ray,
}


def measure(begin: Begin, study: Path, runs: int) -> tuple[float, float, float]:
    """Return the start-up time, the time of a worker for one run, and the number of runs per second."""
    started = time.time()
    begin(study)
    holders: set[str] = set()
    busy = 0.0
    ends: list[float] = []
    while len(ends) < runs:
        time.sleep(0.1)
        if not busy:
            for path in study.glob("runs/*/holder"):
                with contextlib.suppress(OSError):
                    holders.add(path.read_text())
            busy = time.time() if len(holders) >= WORKERS else 0.0
        ends = sorted(path.stat().st_mtime for path in study.glob("runs/*/result.json"))
    first = min(path.stat().st_mtime for path in study.glob("runs/*/run.json"))
    counted = [end for end in ends[: 1 - WORKERS] if end >= busy]
    if not busy or len(counted) < WORKERS:
        sys.exit(f"engines: {WORKERS} workers were not busy at the same time for long enough: give more --seeds")
    rate = (len(counted) - 1) / (counted[-1] - counted[0])
    return first - started, WORKERS / rate, rate


def main() -> None:
    """Measure the engines and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="local,slurm", help=f"some of {', '.join(ENGINES)}")
    parser.add_argument("--seeds", type=int, default=14, help="number of seeds, each with two runs")
    parser.add_argument("--steps", type=int, default=1500, help="number of updates per run")
    options = parser.parse_args()
    words = ["compare", "digits", "--norms=none,layer_norm", f"--seeds=0-{options.seeds - 1}"]
    words.append(f"--steps={options.steps}")
    cores = len(os.sched_getaffinity(0))
    ideal = min(WORKERS, cores)
    rows = []
    with tempfile.TemporaryDirectory(prefix="normscope-engines-") as home:
        for name in options.only.split(","):
            folder = Path(home) / name
            with ENGINES[name](words) as begin:
                startup, per_run, rate = measure(begin, folder, 2 * options.seeds)
            seconds = alone(Path(home) / f"{name}-ideal", ideal, options.steps)
            rows.append((name, startup, per_run, rate / (ideal / seconds), seconds))
    base = next((per_run for name, _, per_run, *_ in rows if name == "local"), None)
    print(f"{2 * options.seeds} runs of {options.steps:,} updates, {WORKERS} workers, {cores} cores")
    print(f"ideal: {ideal} processes that compute runs and nothing else; load at the end: {os.getloadavg()[0]:.1f}")
    print("| engine | start-up | worker's time per run | over local | a run alone | efficiency |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, startup, per_run, efficiency, seconds in rows:
        over = "" if base is None else f"{per_run - base:+.2f} s"
        print(f"| {name} | {startup:.1f} s | {per_run:.2f} s | {over} | {seconds:.2f} s | {efficiency:.2f} |")


if __name__ == "__main__":
    main()
