"""Updates per second of a core with the seeds of an arm stacked and one after the other: ``./run bench stacking``.

Whole runs with their files and evaluations, in one process of one thread with the memory settings of a worker,
interleaved; processor time, so that another program on the core does not count. Ratios are medians over rounds.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from normscope.results.store import StudyFolder
from normscope.studies.engines.local import WORKER_ENVIRONMENT
from normscope.studies.plan import RunSpec, plan
from normscope.studies.run import execute
from normscope.studies.spec import make_study


def seconds(specs: list[RunSpec], *, stacked: bool) -> float:
    """Compute runs in a new folder; return the processor time.

    Raises:
        RuntimeError: If a run did not end well: its time would mean nothing.
    """
    with tempfile.TemporaryDirectory() as name:
        study = StudyFolder(Path(name))
        begin = time.process_time()
        if stacked:
            execute(specs[0], study, lambda step, loss: False, beside=specs[1:])
        else:
            for spec in specs:
                execute(spec, study, lambda step, loss: False)
        took = time.process_time() - begin
        if any(study.run(spec.id).state() != "done" for spec in specs):
            raise RuntimeError("a run did not end")
    return took


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--members", default="8")
    parser.add_argument("--norms", default="layer_norm,rms_norm,none")
    options = parser.parse_args()
    if not WORKER_ENVIRONMENT.items() <= os.environ.items():
        # They are read when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **WORKER_ENVIRONMENT})
    torch.set_num_threads(1)
    for norm in options.norms.split(","):
        for members in map(int, options.members.split(",")):
            specs = plan(make_study(options.task, norms=[norm], seeds=members, steps=options.steps, stack_seeds=True))
            single = [replace(spec, stacked=False) for spec in specs]
            # Reads the data, and starts what starts once.
            seconds([replace(specs[0], recipe=replace(specs[0].recipe, steps=20, warmup=0))], stacked=True)
            pairs = [(seconds(single, stacked=False), seconds(specs, stacked=True)) for _ in range(options.rounds)]
            updates = members * options.steps
            alone, together = (updates / statistics.median(column) for column in zip(*pairs, strict=True))
            ratios = sorted(one / other for one, other in pairs)
            print(
                f"{options.task}, {norm}, {members} seeds of {options.steps} updates: {together:.0f} updates a second "
                f"stacked, {alone:.0f} one after the other; ratio {statistics.median(ratios):.2f} "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f}, {options.rounds} rounds)",
                flush=True,
            )


if __name__ == "__main__":
    main()
