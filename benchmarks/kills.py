"""Two hundred random kills over four processes on one study: ``./run bench kills --out docs/results/kills``.

Four processes compute the runs of one study in one folder. At random moments one of them is killed (SIGKILL) and
replaced, or stopped (SIGSTOP) and woken up later, mostly after its lease has ended. Leases last one second here
instead of two minutes, and checkpoints are written all the time. Afterwards every run must have
one result, no result may have been replaced, and all numbers must be those of the same study in one unbroken process.
``--folder`` and ``--also`` put the study on a network file system, with two clients.
"""

import argparse
import contextlib
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from normscope import __version__
from normscope.files import write_atomically
from normscope.results.store import RunFolder, StudyFolder
from normscope.studies import compare, make_study
from normscope.studies import lease as leases
from normscope.studies.engines.engine import RunEvent
from normscope.studies.plan import RunSpec, plan
from normscope.studies.run import execute
from normscope.training import loop

TIMES = {"step_ms", "peak_bytes", "seconds", "seconds_to_baseline", "minutes", "command"}


@dataclass
class Taking:
    """Takes unfinished runs in a random order until there are none, and notes when a run begins and ends."""

    log: Path
    order: random.Random
    ticks: int
    """Descriptor that gets a byte at each progress of a run."""

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        """Compute the runs, together with other processes."""
        while left := [spec for spec in specs if not study.run(spec.id).finished()]:
            taken = self.order.sample(left, len(left))
            if self.order.random() < 0.5:
                # Wait for a run that another process holds, in case that it is stopped.
                taken.sort(key=lambda spec: not study.run(spec.id).lease.exists())
            for spec in taken[:1]:
                begun: list[int] = []
                until = time.monotonic() + self.order.uniform(0, 3) * leases.LEASE_SECONDS

                def watch(step: int, loss: float, identity: str = spec.id, begun: list[int] = begun) -> bool:
                    if not begun:
                        begun.append(step)
                        self.note("began", identity)
                    os.write(self.ticks, b".")
                    return False

                while (state := execute(spec, study, watch)) == "elsewhere" and not begun:
                    if study.run(spec.id).finished() or time.monotonic() > until:
                        break
                    time.sleep(0.05)
                if state != "elsewhere" or begun:
                    self.note("lost" if state == "elsewhere" else state, spec.id)

    def note(self, what: str, identity: str) -> None:
        """Append a line to the log, in one call."""
        with self.log.open("ab", buffering=0) as file:
            file.write(f"{what} {identity} {os.getpid()}\n".encode())


class Stopping:
    """Is interrupted before the first run."""

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        """Compute nothing.

        Raises:
            KeyboardInterrupt: Always.
        """
        raise KeyboardInterrupt


def start(specs: Sequence[RunSpec], folder: Path, engine: Taking) -> int:
    """Compute runs in a process of its own; return its number."""
    process = os.fork()
    if process:
        return process
    try:
        engine.run(specs, StudyFolder(folder), lambda event: None)
        os._exit(0)
    except BaseException as error:
        print(f"process {os.getpid()}: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)


def study_of(arguments: argparse.Namespace) -> Any:
    """Make the study: digits, few steps."""
    return make_study("digits", norms=["layer_norm", "none"], seeds=range(arguments.seeds), steps=arguments.steps)


def disturb(
    arguments: argparse.Namespace, specs: Sequence[RunSpec], folders: Sequence[Path], log: Path
) -> tuple[Counter[str], list[str]]:
    """Kill and stop processes at random moments; return what was done, and which results changed afterwards."""
    moments, done, changed = random.Random(arguments.seed), Counter[str](), list[str]()
    seen: dict[Path, tuple[int, int]] = {}
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    started, wanted = 0, 0
    processes: set[int] = set()
    sleeping: dict[int, float] = {}
    while processes or not started:
        while started < 4 + done["killed"]:
            engine = Taking(log, random.Random(started), writing)
            processes.add(start(specs, folders[started % len(folders)], engine))
            started += 1
        if select.select([reading], [], [], 0.05)[0]:
            wanted -= len(os.read(reading, max(wanted, 1)))
        for path in folders[0].glob("runs/*/result.json"):
            about = path.stat()
            if seen.setdefault(path, (about.st_ino, about.st_mtime_ns)) != (about.st_ino, about.st_mtime_ns):
                changed.append(str(path))
        for process in [each for each, until in sleeping.items() if time.monotonic() > until]:
            del sleeping[process]
            os.kill(process, signal.SIGCONT)
        for process in list(processes):
            if os.waitpid(process, os.WNOHANG)[0]:
                processes.discard(process)
                done["ended"] += 1
        awake = sorted(processes - sleeping.keys())
        if wanted > 0 or not awake or done["killed"] + done["stopped"] >= arguments.kills:
            continue
        wanted = moments.randint(0, arguments.ticks)
        victim = moments.choice(awake)
        if moments.random() < 0.5:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            processes.discard(victim)
            done["killed"] += 1
        else:
            os.kill(victim, signal.SIGSTOP)
            sleeping[victim] = time.monotonic() + moments.uniform(0, 5) * arguments.lease
            done["stopped"] += 1
    return done, changed


def numbers(content: Any) -> Any:
    """Leave out what a clock measured."""
    if isinstance(content, dict):
        return {key: numbers(value) for key, value in content.items() if key not in TIMES}
    return [numbers(value) for value in content] if isinstance(content, list) else content


def contents(folder: RunFolder) -> tuple[Any, ...]:
    """Return what a run has on disk, without times."""
    examples = folder.read_examples()
    assert examples is not None
    # A process that is killed right after its result leaves its claim and the checkpoint, which nobody asks for then.
    rest = sorted({path.name for path in folder.path.iterdir()} - {"lease", "holder", "checkpoint.pt"})
    return numbers(folder.read_result()), numbers(folder.read_metrics()), examples.tobytes(), rest


def main() -> None:
    """Run the trial and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=8, help="two runs each")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--ticks", type=int, default=6, help="largest number of signs of progress between two kills")
    parser.add_argument("--lease", type=float, default=1.0, help="seconds")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--folder", type=Path, help="folder for the study; a temporary one by default")
    parser.add_argument("--also", type=Path, help="the same folder as another client of its server sees it")
    parser.add_argument("--out", type=Path, help="folder of the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    leases.LEASE_SECONDS = arguments.lease
    loop.CHECKPOINT_SECONDS = loop.PROGRESS_SECONDS = 0.01
    loop.CHECKPOINT_SHARE = 1
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="kills-") as name:
        names = [name] + ([str(arguments.also / Path(name).name)] if arguments.also else [])
        folder, whole, log = Path(name) / "killed", Path(name) / "whole", Path(name) / "log"
        specs = plan(study_of(arguments))
        # What is imported at the first run is then there in every process that begins.
        execute(specs[0], StudyFolder(Path(name) / "first"), lambda step, loss: False)
        # The card comes first: one that is written over results says so.
        with contextlib.suppress(KeyboardInterrupt):
            compare(study_of(arguments), out=folder, engine=Stopping())
        began = time.monotonic()
        done, changed = disturb(arguments, specs, [Path(name) / "killed" for name in names], log)
        took = time.monotonic() - began
        lines = [line.split() for line in log.read_text().splitlines()]
        events = Counter(what for what, *_ in lines)
        results = Counter(identity for what, identity, _ in lines if what == "done")
        # Of the first study nothing is left to compute, the second is computed here without a disturbance.
        engine = Taking(Path(name) / "unbroken", random.Random(0), os.open(os.devnull, os.O_WRONLY))
        summaries = [
            numbers(compare(study_of(arguments), out=each, engine=engine).to_dict()) for each in (folder, whole)
        ]
        differing = [
            spec.id
            for spec in specs
            if contents(StudyFolder(folder).run(spec.id)) != contents(StudyFolder(whole).run(spec.id))
        ]
        facts = [
            ("kills (SIGKILL), each replaced by a new process", done["killed"]),
            ("stops (SIGSTOP), each woken up after 0 to 5 leases", done["stopped"]),
            ("runs", len(specs)),
            ("runs with a result", sum(StudyFolder(folder).run(spec.id).finished() for spec in specs)),
            ("attempts begun", events["began"]),
            ("attempts that found their lease lost and ended without writing", events["lost"]),
            ("runs computed twice to a result", sum(count > 1 for count in results.values())),
            ("results that were replaced after they could be read", len(changed)),
            ("runs whose numbers or files differ from the unbroken study", len(differing)),
            ("summary equal to the unbroken one", "yes" if summaries[0] == summaries[1] else "NO"),
        ]
    table = "".join(f"| {what} | {figure} |\n" for what, figure in facts)
    text = (
        f"# Random kills over four processes on one study\n\n`./run bench kills {' '.join(sys.argv[1:])}`, "
        f"{date.today()}, normscope {__version__}, torch {torch.__version__}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.0f}, {took:.0f} s, leases of {arguments.lease} s.\n\n| | |\n| --- | --- |\n{table}"
    )
    print(text)
    if arguments.out:
        write_atomically(arguments.out / "README.md", text.encode())
    failed = len(changed) + len(differing) + sum(count > 1 for count in results.values())
    sys.exit(failed > 0 or summaries[0] != summaries[1] or done["killed"] + done["stopped"] < arguments.kills)


if __name__ == "__main__":
    main()
