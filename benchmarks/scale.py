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
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

ARMS = ("layer_norm", "none", "rms_norm", "ada_norm", "ada_norm(scale=2.0)", "detach_norm", "layer_norm_simple")
ARMS += ("batch_norm", "group_norm", "ada_norm(scale=0.5)")
EXAMPLES = 1797
EVALUATIONS = 10
NORMS = [f"stack.blocks.{block}.norm" for block in range(4)] + ["stack.final_norm"]
CALLS = {
    "open": ("open", "openat", "openat2", "creat"),
    "stat": ("stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat"),
    "list": ("getdents", "getdents64"),
    "change": ("mkdir", "rmdir", "rename", "renameat", "renameat2", "unlink", "unlinkat", "link", "chmod", "fchmodat"),
}
"""The calls that a file system answers from its metadata, by kind; a stat of a file that is open is not counted."""


def study_of(runs: int) -> Any:
    """Build the specification of a study of ten arms."""
    from normscope.studies.spec import make_study

    return make_study("digits", norms=ARMS, seeds=runs // len(ARMS), splits="published")


def command_of(runs: int, folder: Path) -> list[str]:
    """Return the command line of the same study."""
    seeds = f"0-{runs // len(ARMS) - 1}"
    return ["compare", "digits", "--norms", ",".join(ARMS), "--seeds", seeds, "--splits", "published", "--out", f"{folder}"]


def make_up(folder: Path, runs: int) -> None:
    """Write the card of a study, and a made-up result of every run."""
    from normscope.results.store import StudyFolder, write_json
    from normscope.studies.plan import plan, record

    study = study_of(runs)
    write_json(StudyFolder(folder).card, record(study, command="made up", tuned=None, tuning=None))
    rates = dict(zip(study.labels(), np.linspace(0.030, 0.036, len(ARMS)), strict=True))
    for spec in plan(study):
        make_up_run(StudyFolder(folder).run(spec.id).path, spec, rates[spec.label])


def make_up_run(home: Path, spec: Any, rate: float) -> None:
    """Write the four files of a run as `training/outcome.py` does, byte for byte, but for the wait for the disk."""
    rng = np.random.default_rng([spec.seed, *spec.label.encode()])
    errors = np.where(rng.random(EXAMPLES) < rate + 0.004 * rng.standard_normal(), 100.0, 0.0).astype(np.float32)
    home.mkdir(parents=True, exist_ok=True)
    known = {"parameters": 38730, "backend": "cpu: made up", "device_name": "x86_64 made up", "threads": 1}
    versions = {"normscope": "0.1.0", "torch": "2.14.1", "numpy": "2.4.6", "python": "3.11.7", "commit": "91b0319b56de"}
    data = {"digits.csv.gz": hashlib.sha256(b"made up").hexdigest()}
    _json(home / "run.json", {**spec.identity(), **known, "versions": versions, "data": data, "signature": "", "counts": {}})
    losses = np.exp(-np.linspace(0.5, 3, EVALUATIONS)) * (1 + 0.1 * rng.standard_normal((3, EVALUATIONS)))
    shares = rng.random((EVALUATIONS, len(NORMS), 2)).round(6).tolist()
    rows = [
        {
            "step": spec.recipe.steps * (place + 1) // EVALUATIONS,
            "train_loss": float(losses[0, place]),
            "valid_loss": float(losses[1, place]),
            "valid_value": 20 * float(losses[2, place]),
            "seconds": round(0.1 * (place + 1), 4),
            "gradient": dict(zip(NORMS, shares[place], strict=True)),
        }
        for place in range(EVALUATIONS)
    ]
    (home / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    buffer = io.BytesIO()
    np.save(buffer, errors, allow_pickle=False)
    (home / "examples.npy").write_bytes(buffer.getvalue())
    costs = {"step_ms": 0.64 + 0.01 * rng.random(), "peak_bytes": 652320, "saved_bytes": 125700, "seconds": 0.9}
    value = float(errors.astype(np.float64).mean())
    ends = {"state": "done", "value": value, "valid_value": rows[-1]["valid_value"], "selected_step": spec.recipe.steps}
    _json(home / "result.json", {**ends, "steps": spec.recipe.steps, **costs, "parameters": 38730, "reason": None, "seeds": None})


def _json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps({"schema": 1, **content}, indent=1, allow_nan=False) + "\n")


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
    """Do what one command does."""
    from normscope.cli import compare as commands
    from normscope.cli.main import main

    arguments = {"report": ["report", f"{folder}"], "status": ["status", f"{folder}"]}.get(phase, command_of(runs, folder))
    halted = mock.patch.object(commands, "make_engine", lambda *_, **__: StopHere())
    with halted if phase == "plan" else contextlib.nullcontext(), contextlib.suppress(Planned, SystemExit):
        main(arguments)


def measure(phase: str, folder: Path, runs: int, *, calls: bool) -> dict[str, Any]:
    """Run a phase in a process; return its seconds and peak memory, or its calls.

    Raises:
        RuntimeError: If it failed.
    """
    counted = folder.parent / "calls.txt"
    names = ",".join(name for group in CALLS.values() for name in group)
    traced = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", f"trace=?{names.replace(',', ',?')}", "-o", f"{counted}"]
    command = [sys.executable, __file__, "--phase", phase, "--folder", f"{folder}", "--runs", str(runs)]
    begin = time.perf_counter()
    ended = subprocess.run([*traced, *command] if calls else command, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{phase} of {runs} runs ended with {ended.returncode}: {ended.stdout[-2000:]}")
    if not calls:
        return {"seconds": time.perf_counter() - begin, "peak_mb": int(ended.stdout.split()[-1]) / 1024}
    kinds = {name: kind for kind, group in CALLS.items() for name in group}
    found = dict.fromkeys(CALLS, 0)
    # A call counts if it names a path of the study, or lists: what Python reads of itself is the same for any study.
    mine = re.compile(r"^\d+ +(\w+)\(")
    with counted.open(errors="replace") as lines:
        for line in lines:
            name = mine.match(line)
            if name and name[1] in kinds and (f"{folder}" in line or kinds[name[1]] == "list"):
                found[kinds[name[1]]] += 1
    return {kind: count / runs for kind, count in found.items()}


@contextlib.contextmanager
def made_up(runs: int, home: Path) -> Iterator[Path]:
    """Yield a folder of a study with made-up results, and remove it at the end."""
    folder = home / f"study-{runs}"
    try:
        begin = time.perf_counter()
        subprocess.run([sys.executable, __file__, "--phase", "make", "--folder", f"{folder}", "--runs", str(runs)], check=True)
        print(f"made up {runs:,} runs in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(sizes: Sequence[int], home: Path, phases: Sequence[str]) -> None:
    """Print one row per command and size."""
    traces = shutil.which("strace") is not None
    print("| command | runs | seconds | peak MB | opened per run | stat | listed | changed | calls per run |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for runs in sizes:
        with made_up(runs, home) as folder:
            for phase in phases:
                here = home / "planned" if phase == "plan" else folder
                times = measure(phase, here, runs, calls=False)
                counts = measure(phase, home / "planned-too" if phase == "plan" else folder, runs, calls=True) if traces else {}
                cells = [f"{counts[kind]:.2f}" if counts else "no strace" for kind in CALLS]
                cells.append(f"{sum(counts.values()):.2f}" if counts else "")
                print(f"| {phase} | {runs:,} | {times['seconds']:.1f} | {times['peak_mb']:.0f} | {' | '.join(cells)} |", flush=True)
                for made in ("planned", "planned-too"):
                    shutil.rmtree(home / made, ignore_errors=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", default="1000,10000,100000", help="sizes of the studies")
    parser.add_argument("--phases", default="plan,report,resume", help="commands to measure")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="folder on the file system to be tried; default: a temporary one")
    options = parser.parse_args()
    if options.phase == "make":
        make_up(options.folder, int(options.runs))
        return
    if options.phase:
        do(options.phase, options.folder, int(options.runs))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as home:
        table([int(size) for size in options.runs.split(",")], Path(home), options.phases.split(","))


if __name__ == "__main__":
    main()
