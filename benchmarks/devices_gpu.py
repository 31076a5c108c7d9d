"""Several runs on one GPU: ``./run --here bench devices_gpu``, on a machine with a GPU. It has been run on none yet.

For each task, a study of ``--runs`` short runs is computed with 1, 2, 4 and 8 processes on the device, and with the
number that ``auto`` finds: updates per second with the start of the processes left out, the gain over one process, and
the memory in use on the device, which needs the package ``nvidia-ml-py``. ``--device cpu`` tries the script itself.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from normscope.results.store import StudyFolder
from normscope.studies.engines.engine import RunEvent
from normscope.studies.engines.sizing import local_engine
from normscope.studies.plan import plan
from normscope.studies.spec import make_study


def measure(task: str, device: str, workers: int | None, runs: int, updates: int) -> tuple[float, str, float]:
    """Return updates per second of the whole study, what ``auto`` said last, and GiB in use at the end of a run.

    Args:
        task: Key of a task.
        device: Device in torch's syntax.
        workers: Number of processes on the device; None for ``auto``.
        runs: Number of runs.
        updates: Number of updates of a run.
    """
    study = make_study(task, norms=["layer_norm"], seeds=runs, steps=updates, device=device)
    steps: dict[str, int] = {}
    began, said, used = 0.0, "", 0.0

    def callback(event: RunEvent) -> None:
        nonlocal began, said, used
        if event.is_of_engine:
            said = event.note
            return
        # The start of the processes is not counted: from the first progress of any run on.
        began = began or time.perf_counter()
        steps[event.spec.id] = max(steps.get(event.spec.id, 0), event.step)
        if torch.device(device).type == "cuda":
            used = max(used, torch.cuda.device_memory_used() / 2**30)

    with tempfile.TemporaryDirectory() as folder:
        engine = local_engine(study, workers_per_device="auto" if workers is None else workers)
        engine.run(plan(study), StudyFolder(Path(folder)), callback)
    return sum(steps.values()) / (time.perf_counter() - began), said, used


def main() -> None:
    """Print a table per task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="digits,ud_ewt", help="tasks, separated by commas")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--processes", default="1,2,4,8", help="numbers of processes on the device")
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--updates", type=int, default=500)
    options = parser.parse_args()
    for task in options.tasks.split(","):
        print(
            f"{task} on {options.device}, {options.runs} runs of {options.updates} updates, torch {torch.__version__}"
        )
        alone = 0.0
        for workers in [*map(int, options.processes.split(",")), None]:
            rate, said, used = measure(task, options.device, workers, options.runs, options.updates)
            alone = alone or rate
            memory = f", {used:.1f} GiB" if used else ""
            words = f" ({said})" if said else ""
            print(
                f"  {workers or 'auto'}: {rate:.0f} updates per second, {rate / alone:.2f} times{memory}{words}",
                flush=True,
            )


if __name__ == "__main__":
    main()
