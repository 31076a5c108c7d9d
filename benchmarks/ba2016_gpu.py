"""The experiments of Ba et al. (2016) at full size on one GPU: ``./run --here bench ba2016_gpu``.

Every task whose data are here, with the preset ``full`` and the arms of ``normscope reproduce ba2016``. The first call
times some updates of every task, and writes the number of updates with which one run takes ten minutes, or those of the
preset if they take less, into ``fits.json``: all later calls use these numbers. A call ends after ``--seconds`` with
what is done on disk, and the next call goes on where it was: call it until it says that everything is done.
``normscope judge`` and ``normscope report`` read the studies. A preset that does not fit is cut short, and says so.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from normscope.cli.tables import open_console, verdict_table
from normscope.papers import PAPERS, missing
from normscope.papers.judging.cell import Setup
from normscope.results.store import SCHEMA, StudyFolder, read_json, write_json
from normscope.results.summary import summarize
from normscope.studies.plan import RunSpec, plan, record
from normscope.studies.run import execute
from normscope.studies.spec import StudySpec
from normscope.training.randomness import generator

PAPER = PAPERS["ba2016"]
AGAIN = 75
"""Exit status of a call that ran out of time: call again."""
RUN_SECONDS = 600.0
"""Longest time of a run."""
SHARE_OF_UPDATES = 0.8
"""Part of that time that is left for updates; the rest is for evaluations and the compilation of kernels."""
WARM_UP, TIMED = 5, 15
"""Updates before the clock starts, and those that it times."""


def here() -> list[str]:
    """List the tasks of the paper that can be run, but for a stand-in of what can be run."""
    able = [task for task in PAPER.tasks if not missing(task)]
    places = [cell.places for cell in PAPER.cells]
    return [task for task in able if not any(task in row[1:] and row[0] in able for row in places)]


def question(task: str, options: argparse.Namespace, steps: int | None) -> StudySpec:
    """Write the study of one task."""
    setup = Setup(
        preset="full",
        seeds=tuple(range(options.seeds)),
        steps=steps,
        device=options.device,
        precision=options.precision,
        compile=options.compile,
    )
    (study,) = PAPER.studies(task, setup)
    return study.spec


def milliseconds(spec: RunSpec, updates: int = TIMED, warm_up: int = WARM_UP) -> float:
    """Time the updates of a run: batch, loss, gradients and step; milliseconds each."""
    device = torch.device(spec.recipe.device)
    task = spec.begin()
    model = spec.build(task).to(device).train()
    data = task.load(device, spec.split, spec.preset)
    order = data.order(spec.recipe.batch_size, partial(generator, spec.seed, "data"))
    optimizer = spec.recipe.make_optimizer(model)
    begin = 0.0
    for step in range(warm_up + updates):
        if step == warm_up:
            begin = wait(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=spec.recipe.precision == "bfloat16"):
            loss = task.loss(model, data.batch(order.batch(step)))
        loss.backward()
        spec.recipe.clip_gradients(model)
        optimizer.step()
    return 1000 * (wait(device) - begin) / updates


def wait(device: torch.device) -> float:
    """Return the time at which everything that was asked of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def fit(tasks: Sequence[str], options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Return the number of updates of every task; what the file lacks is measured and written into it."""
    fits = read_json(path)["tasks"] if path.exists() else {}
    for task in tasks:
        if task in fits:
            continue
        spec = question(task, options, None)
        slowest = max(milliseconds(run) for run in plan(spec)[: len(spec.arms)])
        steps = max(1, min(spec.steps, int(1000 * SHARE_OF_UPDATES * RUN_SECONDS / slowest)))
        fits[task] = {"ms": slowest, "steps": steps, "preset_steps": spec.steps}
        cut = "" if steps == spec.steps else f": cut short, {steps:,} fit {RUN_SECONDS / 60:g} minutes"
        print(f"{task}: {slowest:.1f} ms per update of the slowest arm, {spec.steps:,} updates{cut}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"schema": SCHEMA, "tasks": fits})
    return fits


def work(study: StudyFolder, spec: StudySpec, deadline: float, command: str) -> bool:
    """Compute runs until all are done or time is up; tell which."""
    study.path.mkdir(parents=True, exist_ok=True)
    write_json(study.card, record(spec, command=command, tuned=None, tuning=None))
    for run in plan(spec):
        if study.run(run.id).finished():
            continue
        begin = time.monotonic()
        state = execute(run, study, lambda step, loss: time.monotonic() > deadline)
        print(f"{run.task} {run.label} seed {run.seed}: {state} after {time.monotonic() - begin:.0f} s", flush=True)
        if state == "interrupted":
            return False
    return True


def main() -> int:
    """Work on every task in turn, and print what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ba2016_gpu"), help="where studies are kept")
    parser.add_argument("--seconds", type=float, default=540, help="of this call")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="updates of every run; as many as fit ten minutes if not given")
    parser.add_argument("--tasks", nargs="+", help="all whose data are here if not given")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("ba2016_gpu: there is no GPU here: nothing was measured", file=sys.stderr)
        return 1
    deadline = time.monotonic() + options.seconds
    command = " ".join(["./run --here bench ba2016_gpu", *sys.argv[1:]])
    tasks = options.tasks or here()
    fits = {} if options.steps else fit(tasks, options, options.out / "fits.json")
    console, whole = open_console(), True
    for task in tasks:
        study = StudyFolder(options.out / f"{task}-full")
        steps = options.steps or fits[task]["steps"]
        whole = whole and work(study, question(task, options, steps), deadline, command)
        if study.card.exists():
            summary = summarize(study.path)
            summary.write(study.path)
            console.print(verdict_table(summary, summary.arms, task, width=console.width))
    print("everything is done" if whole else "time is up: call again, and it goes on here")
    return 0 if whole else AGAIN


if __name__ == "__main__":
    sys.exit(main())
