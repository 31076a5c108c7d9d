"""Measure the Ray engine beside the local one, on a cluster that runs: start-up, overhead per run, efficiency.

Called by `./run cluster ray measure` with the address of the cluster. The runs are those of digits.
"""

import os
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from normscope.results.store import StudyFolder
from normscope.studies.engines.engine import Engine, RunEvent
from normscope.studies.engines.local import LocalEngine
from normscope.studies.engines.ray import RayEngine
from normscope.studies.plan import plan
from normscope.studies.spec import make_study


def ends(engine: Engine, *, runs: int, steps: int) -> tuple[float, list[float]]:
    """Compute runs; return the seconds to the first progress, and to the end of each run."""
    specs = plan(make_study("digits", norms=["layer_norm"], seeds=range(runs), steps=steps))
    began: list[float] = []
    ended: list[float] = []

    def callback(event: RunEvent) -> None:
        now = time.perf_counter() - start
        if not began and (event.step or event.state == "done"):
            began.append(now)
        if event.state == "done":
            ended.append(now)

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        engine.run(specs, StudyFolder(Path(folder)), callback)
    return began[0], ended


def per_run(times: list[float]) -> float:
    """Return the median time between two ends in the second half, when all workers have started."""
    late = times[len(times) // 2 :]
    return statistics.median(after - before for before, after in pairwise(late))


if __name__ == "__main__":
    cores = len(os.sched_getaffinity(0))
    local_start, local = ends(LocalEngine(workers=1), runs=20, steps=5)
    ray_start, ray = ends(RayEngine(address=sys.argv[1], at_most=1), runs=40, steps=5)
    print("| engine | start-up | seconds per tiny run | overhead per run | efficiency of 4 workers over 2 nodes |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| local | {local_start:.1f} s | {per_run(local):.3f} | | |")
    ideal_start, ideal = ends(LocalEngine(workers=cores), runs=16, steps=1500)
    spread_start, spread = ends(RayEngine(address=sys.argv[1]), runs=16, steps=1500)
    efficiency = (ideal[-1] - ideal_start) / (spread[-1] - spread_start)
    print(
        f"| ray | {ray_start:.1f} s | {per_run(ray):.3f} | {1e3 * (per_run(ray) - per_run(local)):.0f} ms | "
        f"{efficiency:.2f} of the local engine with {cores} workers ({ideal[-1]:.0f} s and {spread[-1]:.0f} s) |"
    )
