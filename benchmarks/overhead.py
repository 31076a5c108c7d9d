"""What a run costs over a bare training loop, and what two workers do for one: ``./run bench overhead``.

Both are ratios taken in one session, interleaved (A B A B), medians over rounds. Every process has one thread.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from normscope.results.store import StudyFolder
from normscope.studies.engines.local import LocalEngine
from normscope.studies.plan import RunSpec, plan
from normscope.studies.run import execute
from normscope.studies.spec import make_study
from normscope.tasks import TASKS

SCALING_RUNS = 12
"""Runs of the second measurement: enough that starting the workers is a small part, which is taken off besides."""


def bare(spec: RunSpec) -> float:
    """Train as a notebook would: the same steps, looks and test, nothing written, nothing watched; return seconds."""
    task = TASKS[spec.task]
    data = task.load(torch.device("cpu"), "study")
    model = spec.build()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=spec.recipe.learning_rate, fused=True)
    begin = time.perf_counter()
    for step in range(spec.recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = spec.recipe.learning_rate * (1.0 - step / spec.recipe.steps)
        x, y = data.batch(torch.randint(data.train_examples, (spec.recipe.batch_size,), generator=generator))
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if spec.recipe.evaluates_after(step + 1):
            model.eval()
            with torch.no_grad():
                task.evaluate(model, data, "valid")
            model.train()
    with torch.no_grad():
        task.evaluate(model, data, "test")
    return time.perf_counter() - begin


def ours(spec: RunSpec) -> float:
    """Compute the same run as a study does, files, lock and checks included; return seconds.

    Raises:
        RuntimeError: If the run did not end well: its time would mean nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        state = execute(spec, StudyFolder(Path(folder)), lambda step, loss: False)
        seconds = time.perf_counter() - begin
    if state != "done":
        raise RuntimeError(f"the run ended {state}")
    return seconds


def overhead(task: str, steps: int | None, rounds: int) -> None:
    """Print the ratio of a run to a bare loop."""
    torch.set_num_threads(1)
    (spec,) = plan(make_study(task, norms=["layer_norm"], seeds=[0], steps=steps))
    bare(spec)
    ours(spec)
    pairs = [(bare(spec), ours(spec)) for _ in range(rounds)]
    ratios = sorted(b / a for a, b in pairs)
    print(
        f"{task}, {spec.recipe.steps} updates: bare loop {statistics.median(a for a, _ in pairs):.2f} s, "
        f"run {statistics.median(b for _, b in pairs):.2f} s; ratio {statistics.median(ratios):.3f} "
        f"(quartiles {ratios[len(ratios) // 4]:.3f} to {ratios[-1 - len(ratios) // 4]:.3f}, {rounds} rounds)"
    )


def scaling(task: str, steps: int | None, rounds: int) -> None:
    """Print how much more work two workers do than one, start-up taken off by the first event of each."""
    specs = plan(make_study(task, norms=["layer_norm"], seeds=range(SCALING_RUNS), steps=steps))
    ratios = []
    for _ in range(rounds):
        seconds = []
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                stamps: list[float] = []
                LocalEngine(workers=workers).run(
                    specs, StudyFolder(Path(folder)), lambda event, stamps=stamps: stamps.append(time.perf_counter())
                )
                seconds.append(stamps[-1] - stamps[0])
        ratios.append(seconds[0] / seconds[1])
    print(
        f"{task}, {SCALING_RUNS} runs: two single-threaded workers do {statistics.median(ratios):.2f} times the work "
        f"of one ({', '.join(f'{ratio:.2f}' for ratio in ratios)}; {os.cpu_count()} cores)"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--steps", type=int, default=None, help="updates of a run; the task's preset where left out")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    overhead(options.task, options.steps, options.rounds)
    scaling(options.task, options.steps, max(3, options.rounds // 2))


if __name__ == "__main__":
    main()
