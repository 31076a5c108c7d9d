"""What a study costs as it grows to 100,000 runs, and what 200 workers do to its folder: ``./run bench scale``.

Every study has ten arms, and made-up results in the format of the studies: 1,797 scores per run, ten evaluations. Each
command runs in a process of its own, measured by the operating system: seconds, peak memory, and, where strace is
installed, the calls that a file system has to answer. `--runs 1000,10000,100000` is the default and takes 3 GB of disk.
"""

import argparse
import contextlib
import hashlib
import io
import json
import queue
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np

ARMS = ("layer_norm", "none", "rms_norm", "ada_norm", "ada_norm(scale=2.0)", "detach_norm", "layer_norm_simple")
ARMS += ("batch_norm", "group_norm", "ada_norm(scale=0.5)")
EXAMPLES = 1797
EVALUATIONS = 10
NORMS = [arm.split("(")[0] for arm in ARMS]
PLACES = [f"stack.blocks.{block}.norm" for block in range(4)] + ["stack.final_norm"]
CALLS = {
    "open": ("open", "openat", "openat2", "creat"),
    "stat": ("stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat"),
    "list": ("getdents", "getdents64"),
    "change": ("mkdir", "rmdir", "rename", "renameat", "renameat2", "unlink", "unlinkat", "link", "chmod", "fchmodat"),
}
"""The calls that a file system answers from its metadata, by kind; a stat of a file that is open is not counted."""
KINDS = {name: kind for kind, group in CALLS.items() for name in group}
_CALL = re.compile(r"^\d+ +(\w+)\((.*)")


def study_of(runs: int) -> Any:
    """Build the specification of a study of ten arms."""
    from normscope.studies.spec import make_study

    return make_study("digits", norms=ARMS, seeds=runs // len(ARMS), splits="published")


def command_of(runs: int, folder: Path) -> list[str]:
    """Return the command line of the same study."""
    seeds = f"0-{runs // len(ARMS) - 1}"
    return [
        "compare",
        "digits",
        "--norms",
        ",".join(ARMS),
        "--seeds",
        seeds,
        "--splits",
        "published",
        "--out",
        f"{folder}",
    ]


def make_up(folder: Path, runs: int) -> None:
    """Write the card of a study, and a made-up result of every run."""
    from normscope.results.store import StudyFolder, write_json
    from normscope.studies.plan import plan, record

    study = study_of(runs)
    write_json(StudyFolder(folder).card, record(study, command="made up", tuned=None, tuning=None))
    for spec in plan(study):
        home = StudyFolder(folder).run(spec.id).path
        home.mkdir(parents=True)
        for name, content in files_of(spec.identity()).items():
            (home / name).write_bytes(content)


def files_of(identity: dict[str, Any]) -> dict[str, bytes]:
    """Make up the files of a run, in the order and to the byte as `training/outcome.py` writes them."""
    seed, steps, arm = identity["seed"], identity["steps"], NORMS.index(identity["norm"])
    rng = np.random.default_rng([seed, *identity["label"].encode()])
    share = 0.030 + 0.001 * arm + 0.004 * rng.standard_normal()
    errors = np.where(rng.random(EXAMPLES) < share, 100.0, 0.0).astype(np.float32)
    known = {"parameters": 38730, "backend": "cpu: made up", "device_name": "x86_64 made up", "threads": 1}
    versions = {"normscope": "0.1.0", "torch": "2.14.1", "numpy": "2.4.6", "python": "3.11.7", "commit": "91b0319b56de"}
    data = {"digits.csv.gz": hashlib.sha256(b"made up").hexdigest()}
    losses = np.exp(-np.linspace(0.5, 3, EVALUATIONS)) * (1 + 0.1 * rng.standard_normal((3, EVALUATIONS)))
    shares = rng.random((EVALUATIONS, len(PLACES), 2)).round(6).tolist()
    rows = [
        {
            "step": steps * (place + 1) // EVALUATIONS,
            "train_loss": float(losses[0, place]),
            "valid_loss": float(losses[1, place]),
            "valid_value": 20 * float(losses[2, place]),
            "seconds": round(0.1 * (place + 1), 4),
            "gradient": dict(zip(PLACES, shares[place], strict=True)),
        }
        for place in range(EVALUATIONS)
    ]
    buffer = io.BytesIO()
    np.save(buffer, errors, allow_pickle=False)
    costs = {"step_ms": 0.64 + 0.01 * rng.random(), "peak_bytes": 652320, "saved_bytes": 125700, "seconds": 0.9}
    value = float(errors.astype(np.float64).mean())
    result = {"state": "done", "value": value, "valid_value": rows[-1]["valid_value"], "selected_step": steps}
    result |= {"steps": steps, **costs, "parameters": 38730, "reason": None, "seeds": None}
    return {
        "run.json": _json({**identity, **known, "versions": versions, "data": data, "signature": "", "counts": {}}),
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "examples.npy": buffer.getvalue(),
        "result.json": _json(result),
    }


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps({"schema": 1, **content}, indent=1, allow_nan=False) + "\n").encode()


class Planned(Exception):
    """The study is planned: what follows is computing."""


class StopHere:
    """An engine that computes nothing: what came before it is what is measured."""

    def run(self, specs: Sequence[Any], study: Any, callback: Any) -> None:
        """Stop.

        Raises:
            Planned: Always.
        """
        raise Planned


def do(phase: str, folder: Path, runs: int) -> None:
    """Do what one command does.

    Raises:
        SystemExit: If it failed.
    """
    from normscope.cli import compare as commands
    from normscope.cli.main import main

    arguments = {"report": ["report", f"{folder}"], "status": ["status", f"{folder}"]}.get(
        phase, command_of(runs, folder)
    )
    halted = mock.patch.object(commands, "make_engine", return_value=StopHere())
    try:
        with halted if phase == "plan" else contextlib.nullcontext(), contextlib.suppress(Planned):
            main(arguments)
    except SystemExit as end:
        if end.code:
            raise


def measure(phase: str, folder: Path, runs: int, *, calls: bool) -> dict[str, Any]:
    """Run a phase in a process; return its seconds and peak memory, or its calls.

    Raises:
        RuntimeError: If it failed.
    """
    counted, command = folder.parent / "calls.txt", own_command(phase, folder, runs)
    begin, before = time.perf_counter(), sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    command = [*tracer(counted), *command] if calls else command
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{phase} of {runs} runs ended with {ended.returncode}: {ended.stdout[-2000:]}")
    if not calls:
        seconds, peak = time.perf_counter() - begin, int(ended.stdout.split()[-1]) / 1024
        return {
            "seconds": seconds,
            "busy": sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before,
            "peak": peak,
        }
    found = Counter(KINDS[name] for name, _ in calls_of(counted, folder))
    return {kind: found[kind] / runs for kind in CALLS}


def own_command(phase: str, folder: Path, runs: int) -> list[str]:
    """Return the command that runs a phase in a process of its own."""
    return [sys.executable, __file__, "--phase", phase, "--folder", f"{folder}", "--runs", str(runs)]


def tracer(counted: Path) -> list[str]:
    """Return the command that writes the calls of another one to a file."""
    names = ",".join(f"?{name}" for name in KINDS)
    return ["strace", "-f", "-qq", "-y", "--seccomp-bpf", "-s", "4096", "-e", f"trace={names}", "-o", f"{counted}"]


def calls_of(counted: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield name and path of every call about a file of the study; what Python reads of itself does not count."""
    mine = re.compile(re.escape(f"{folder}") + '[^">]*')
    with counted.open(errors="replace") as lines:
        for line in lines:
            call = _CALL.match(line)
            # A stat of a file that is open asks no server.
            if call is None or call[1] not in KINDS or (call[1] == "newfstatat" and "AT_EMPTY_PATH" in line):
                continue
            if path := mine.search(call[2]):
                yield call[1], path[0]


class ThreadOfWorker:
    """A worker of the local engine in a thread: it makes the calls of a worker, and computes nothing."""

    states: ClassVar[list[str]] = []
    """How each attempt to compute a run ended."""

    def __init__(self, log: int, messages: Any, *rest: Any) -> None:
        self.messages, self.inbox = messages, queue.SimpleQueue()
        self.process = mock.Mock(**{"poll.return_value": 0, "wait.return_value": 0})
        self.slot, self.of_slot, self.is_dismissed = rest[0] if rest else None, 1, False
        self.spec, self.step, self.was_ready = None, 0, False
        threading.Thread(target=self._work, daemon=True).start()

    def send(self, spec: Any, study: Any, *rest: Any, **more: Any) -> None:
        """Take a run."""
        self.spec = spec
        self.inbox.put((spec, study))

    def dismiss(self) -> None:
        """End."""
        self.is_dismissed = True
        self.inbox.put(None)

    def _work(self) -> None:
        from normscope.studies.run import execute

        self.messages.put((self, json.dumps({"event": "ready"})))
        while (request := self.inbox.get()) is not None:
            spec, study = request
            state = execute(spec, study, lambda step, loss: False)
            self.states.append(state)
            self.messages.put((self, json.dumps({"event": "end", "state": state})))


def work(folder: Path, runs: int, workers: int, seconds: float, *, apart: bool) -> None:
    """Let so many processes, each a thread here, compute a study of made-up runs in one folder."""
    from normscope.results.store import StudyFolder
    from normscope.studies import run as one_run
    from normscope.studies.engines import local
    from normscope.studies.plan import plan

    specs, study = plan(study_of(runs)), StudyFolder(folder)
    folder.mkdir()

    def train(*_: Any, folder: Any, identity: dict[str, Any], watch: Any, **__: Any) -> str:
        files = files_of(identity)
        folder.write(folder.description, files["run.json"])
        rows = files["metrics.jsonl"].splitlines(keepends=True)
        for count in range(1, EVALUATIONS + 1):
            time.sleep(seconds * random.uniform(0.5, 1.5) / EVALUATIONS)
            folder.write(folder.metrics, b"".join(rows[:count]), sync=False)
        folder.write(folder.examples, files["examples.npy"])
        folder.publish(json.loads(files["result.json"]))
        return "done"

    in_order = contextlib.nullcontext() if apart else mock.patch.object(local.Apart, "move")
    with mock.patch.object(local, "_Worker", ThreadOfWorker), mock.patch.object(one_run, "train", train), in_order:
        engines = [
            threading.Thread(target=local.LocalEngine(workers=1).run, args=(specs, study, lambda event: None))
            for _ in range(workers)
        ]
        for engine in engines:
            engine.start()
        for engine in engines:
            engine.join()
    met = ThreadOfWorker.states.count("elsewhere")
    print(json.dumps({"met": met, "done": ThreadOfWorker.states.count("done")}))


@contextlib.contextmanager
def made_up(runs: int, home: Path) -> Iterator[Path]:
    """Yield a folder of a study with made-up results, and remove it at the end."""
    folder = home / f"study-{runs}"
    try:
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, __file__, "--phase", "make", "--folder", f"{folder}", "--runs", str(runs)], check=True
        )
        print(f"made up {runs:,} runs in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def simulate(home: Path, sizes: Sequence[tuple[int, int, bool]], seconds: float) -> None:
    """Print what workers do to one folder, all in the order of the plan, or each at a place of its own.

    Args:
        home: Folder for the studies.
        sizes: Number of workers, number of runs, and whether the workers keep apart.
        seconds: Time that a run takes.

    Raises:
        RuntimeError: If a run was not computed, or twice.
    """
    print(f"\nRuns take {seconds} s.\n")
    heads = ("workers", "runs", "they go", "attempts that met another", "calls per run", "on one file", "on runs/")
    print(f"| {' | '.join(heads)} |\n| ---: | ---: | --- |{' ---: |' * (len(heads) - 3)}", flush=True)
    for workers, runs, apart in sizes:
        folder, counted = home / "worked", home / "calls.txt"
        more = ["--workers", str(workers), "--seconds", str(seconds), *(["--apart"] if apart else [])]
        ended = subprocess.run(
            [*tracer(counted), *own_command("work", folder, runs), *more], stdout=subprocess.PIPE, check=True
        )
        found = json.loads(ended.stdout.split(b"\n")[0])
        if found["done"] != runs:
            raise RuntimeError(f"{runs} runs, and {found}")
        paths = Counter(path for _, path in calls_of(counted, folder))
        every, listed = sum(paths.values()), paths.pop(f"{folder}/runs")
        path, most = next(each for each in paths.most_common(2) if each[0] != f"{folder}")
        cells = [
            f"{workers}",
            f"{runs:,}",
            "apart" if apart else "in order",
            f"{found['met']:,}",
            f"{every / runs:.0f}",
        ]
        print(f"| {' | '.join(cells)} | {most:,} ({Path(path).name}) | {listed:,} |", flush=True)
        shutil.rmtree(folder)


def table(sizes: Sequence[int], home: Path, phases: Sequence[str]) -> None:
    """Print one row per command and size."""
    traces = shutil.which("strace") is not None
    heads = ("command", "runs", "seconds", "of a processor", "peak MB", *CALLS, "calls per run")
    print(f"| {' | '.join(heads)} |\n| --- |{' ---: |' * (len(heads) - 1)}", flush=True)
    for runs in sizes:
        with made_up(runs, home) as folder:
            for phase in phases:
                here = home / "planned" if phase == "plan" else folder
                times = measure(phase, here, runs, calls=False)
                shutil.rmtree(home / "planned", ignore_errors=True)
                counts = measure(phase, here, runs, calls=True) if traces else {}
                shutil.rmtree(home / "planned", ignore_errors=True)
                cells = [f"{runs:,}", *(f"{times[name]:.0f}" for name in ("seconds", "busy", "peak"))]
                cells += [f"{counts[kind]:.2f}" if counts else "no strace" for kind in CALLS]
                print(f"| {phase} | {' | '.join(cells)} | {sum(counts.values()):.2f} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", default="1000,10000,100000", help="sizes of the studies")
    status = "status," * (find_spec("normscope.cli.status") is not None)
    parser.add_argument("--phases", default=f"plan,{status}report,resume", help="commands to measure")
    parser.add_argument("--workers", type=int, default=200, help="workers on one folder, ten runs each; 0 for none")
    parser.add_argument("--seconds", type=float, default=5.0, help="time that each of their runs takes")
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="folder on the file system to be tried; default: a temporary one")
    options = parser.parse_args()
    if options.phase == "make":
        make_up(options.folder, int(options.runs))
        return
    if options.phase == "work":
        work(options.folder, int(options.runs), options.workers, options.seconds, apart=options.apart)
        return
    if options.phase:
        do(options.phase, options.folder, int(options.runs))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as home:
        table([int(size) for size in options.runs.split(",") if size], Path(home), options.phases.split(","))
        if options.workers and shutil.which("strace"):
            few, many = max(2, options.workers // 10), options.workers
            simulate(
                Path(home), [(few, 10 * few, False), (few, 10 * few, True), (many, 10 * many, True)], options.seconds
            )


if __name__ == "__main__":
    main()
