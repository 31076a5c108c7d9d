"""Try normscope on models that nobody wrote for it: every architecture of four libraries that can be built small.

    ./run strangers                                   all of them, one after another; it can be stopped and goes on
    ./run strangers --library timm --limit 20         the first twenty of one library
    ./run strangers --only 'qwen*' --targets dyt      architectures by a pattern, one target
    ./run strangers --again failed                    after a mend: what failed is tried again
    ./run strangers --table docs/results/strangers.md --no-run     the table of what is there, and nothing else

Every architecture of transformers, timm, torchvision and diffusers is built from a configuration made small by the
names of its fields, with random weights: nothing is downloaded. One that does not build within two seconds of
processor time, is too large or runs with no input that is known here is counted and left out. Each runs in a process of
its own, with a limit of time and memory, and has these cells for every target:

    swap      its norms are replaced; the outputs are finite and of the same shapes
    undo      outputs, parameters, buffers, modules and hooks are bit-identical to those of before
    train     three steps change a finite loss; no parameter has lost its gradient
    save      the state, saved and loaded (weights_only=True) into another swapped model, gives identical outputs
    compile   torch.compile computes the same, to rounding; for every fourth architecture and the first target
    diagnose  returns, and model and process are as they were: modules, hooks, buffers, gradients, random states

Where there are layer norms, to_rms_norm converts them: the outputs stay the same, or it refuses and changes nothing.
Before it, the library's own model is called twice and trained: what it does not pass by itself is "theirs". So is a
compilation that fails without us, too. "refused" is an error that normscope raised on purpose, in a sentence.

The folder has one JSON line per architecture, LIBRARY/NAME.json; a finished one is not run again. Exit status 0: no
cell failed; 1: some did, and the table at the end groups them by cause.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from strangers import process, table

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = {
    "transformers": ("transformers.modeling_utils", "transformers.models.auto.modeling_auto"),
    "timm": ("timm",),
    "torchvision": ("torchvision.models",),
    "diffusers": ("diffusers.models.modeling_utils",),
}
"""The libraries, and what of each is imported once for all processes: it takes longer than most models do."""
TARGETS = ("rms_norm", "layer_norm", "dyt", "group_norm", "none")
BAD = ("failed", "timeout", "killed")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    started_as = "./run strangers" if "NORMSCOPE_STARTED_AS" in os.environ else None
    parser = argparse.ArgumentParser(
        prog=started_as, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--library",
        action="append",
        choices=list(LIBRARIES),
        metavar="NAME",
        help="one of four; may be given several times",
    )
    add("--only", action="append", metavar="PATTERN", help="architectures by name: 'bert', 'qwen*'")
    add("--limit", type=int, metavar="N", help="at most so many architectures of each library")
    add("--targets", nargs="+", default=list(TARGETS), metavar="NORM", help=f"default: {' '.join(TARGETS)}")
    add("--compile-every", type=int, default=4, metavar="N", help="compile one architecture of N; 0: no one; default 4")
    add("--backend", default="aot_eager", help="of torch.compile; default aot_eager. inductor compiles code, too")
    add("--workers", type=int, default=1, metavar="N", help="processes at a time, one thread each; default 1")
    add("--time-limit", type=float, default=120, metavar="SECONDS", help="for one architecture; default 120")
    add("--memory-limit", type=float, default=6, metavar="GIGABYTES", help="for one process; default 6")
    add(
        "--again", choices=("failed", "unbuilt", "all"), help="try again what failed, what was not built, or everything"
    )
    add("--out", type=Path, default=ROOT / "runs" / "strangers", metavar="DIR", help="default: runs/strangers")
    add("--table", type=Path, metavar="FILE", help="write the table as Markdown")
    add("--no-run", action="store_true", help="try nothing; print, or write, the table of what is there")
    chosen = parser.parse_args(arguments)
    for name in ("limit", "workers", "time_limit", "memory_limit"):
        if (value := getattr(chosen, name)) is not None and value <= 0:
            parser.error(f"--{name.replace('_', '-')} must be more than 0, got {value:g}")
    return chosen


def main(arguments: Sequence[str]) -> int:
    """Run what is left to run, and print what failed."""
    chosen = parse(arguments)
    if not chosen.no_run:
        run(chosen)
    records = [record for record in table.read(chosen.out) if _wanted(chosen, record["library"], record["name"])]
    if not records:
        print(f"no architecture in {chosen.out}")
        return 1
    if chosen.table:
        table.write(chosen.table, table.page(records, table.read_listed(chosen.out)))
        print(f"wrote {chosen.table}")
    else:
        print(table.terminal(records, table.read_listed(chosen.out)))
    return 1 if any(cell["status"] in BAD for record in records for cell in record["cells"]) else 0


def run(chosen: argparse.Namespace) -> None:
    """Try every architecture that has no record yet."""
    made = process.context([module for library in chosen.library or LIBRARIES for module in LIBRARIES[library]])
    about = stamp()
    listed = {library: process.names(made, library) for library in chosen.library or LIBRARIES}
    there = table.read_listed(chosen.out) | {library: len(names) for library, names in listed.items()}
    table.write(chosen.out / "listed.json", json.dumps(there))
    waiting: list[tuple[float, str, str]] = []
    for library, names in listed.items():
        picked = [name for name in names if _wanted(chosen, library, name)][: chosen.limit]
        waiting += [((number + 0.5) / len(picked), library, name) for number, name in enumerate(picked)]
    # Each library is spread over the whole run, so that one that is stopped has seen a part of all.
    order = [(library, name) for _, library, name in sorted(waiting) if _is_open(chosen, library, name)]
    count, started = itertools.count(1), time.monotonic()
    say(f"{len(order)} architectures to try, {sum(map(len, listed.values())) - len(order)} done or not asked for")

    def done(record: dict[str, Any]) -> None:
        path = chosen.out / record["library"] / f"{record['name']}.json"
        table.write(path, json.dumps(record | about) + "\n")
        number = next(count)
        left = (time.monotonic() - started) / number * (len(order) - number) / 60
        say(f"{number}/{len(order)} {record['library']} {record['name']}: {in_short(record)} ({left:.0f} min left)")

    process.run_all(orders(chosen, order), made, workers=chosen.workers, done=done)


def orders(chosen: argparse.Namespace, order: Sequence[tuple[str, str]]) -> Iterator[process.Order]:
    """Make the order of each architecture; which ones are compiled depends on their names alone."""
    limits = process.Limits(seconds=chosen.time_limit, gigabytes=chosen.memory_limit)
    for library, name in order:
        sampled = chosen.compile_every and zlib.crc32(name.encode()) % chosen.compile_every == 0
        yield process.Order(
            library=library,
            name=name,
            targets=tuple(chosen.targets),
            compiled=tuple(chosen.targets[:1]) if sampled else (),
            backend=chosen.backend,
            limits=limits,
        )


def _wanted(chosen: argparse.Namespace, library: str, name: str) -> bool:
    patterns = chosen.only or ["*"]
    return (not chosen.library or library in chosen.library) and any(fnmatchcase(name, each) for each in patterns)


def _is_open(chosen: argparse.Namespace, library: str, name: str) -> bool:
    """Tell whether an architecture is to be tried: it has no record, or it is to be tried again."""
    path = chosen.out / library / f"{name}.json"
    if chosen.again == "all" or not path.exists():
        return True
    record = json.loads(path.read_text(encoding="utf-8"))
    if chosen.again == "unbuilt":
        return "not_built" in record
    return chosen.again == "failed" and ("broke" in record or any(cell["status"] in BAD for cell in record["cells"]))


def in_short(record: dict[str, Any]) -> str:
    """Return one line about an architecture."""
    if "not_built" in record:
        return f"not built: {record['not_built'][:100]}".replace("\n", " ")
    bad = [cell["cell"] for cell in record["cells"] if cell["status"] in BAD]
    passed = sum(cell["status"] == "ok" for cell in record["cells"])
    words = f"{passed} ok" + (f", failed: {' '.join(bad)}" if bad else "")
    return f"{words}, {record['seconds']:.0f} s" + (f", broke: {record['broke']}" if "broke" in record else "")


def stamp() -> dict[str, Any]:
    """Return what a record says of where it comes from: the versions, the commit and the day."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    versions = {name: importlib.metadata.version(name) for name in ("torch", *LIBRARIES)}
    return {"commit": commit or "unknown", "versions": versions, "date": time.strftime("%Y-%m-%d", time.gmtime())}


def say(words: str) -> None:
    """Tell how far it is."""
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
