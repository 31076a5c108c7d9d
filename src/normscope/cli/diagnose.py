"""What a person sees of a diagnosis: a bar, what was found, and the page with its JSON."""

import json
import shlex
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

from rich.console import Console
from rich.progress import Progress

from normscope.cli.progress import DownloadProgress
from normscope.cli.tables import open_console, results_alone
from normscope.data import SETS, locate
from normscope.report.diagnosis.page import SCHEMA, write_diagnosis
from normscope.report.diagnosis.text import TITLES
from normscope.results.store import read_json
from normscope.specs import find_task
from normscope.studies.diagnose import DiagnosisRequest, Examination, examine, spec_of
from normscope.studies.plan import RunSpec


def show(request: DiagnosisRequest, *, out: Path | None, json_output: bool) -> None:
    """Examine with a bar, write the page, and print what was found, or the JSON.

    Raises:
        ValueError: As :func:`examine`, or if the page's name does not end with ``.html``.
    """
    with results_alone(json_output) as output:
        _show(request, open_console(stderr=json_output), out, output if json_output else None)


def _show(request: DiagnosisRequest, console: Console, out: Path | None, json_output: TextIO | None) -> None:
    spec = spec_of(request)
    page = _page(request, spec, out)
    with DownloadProgress(console) as fetched:
        for name in find_task(request.task).datasets:
            locate(SETS[name], progress=fetched)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(f"training {spec.label}" if request.steps else "looking", total=request.steps or None)
        found = examine(request, lambda step, of: progress.update(bar, completed=step))
    content = found.diagnosis.to_json() | {
        "setting": found.setting,
        "history": found.history,
        "command": shlex.join(["normscope", *sys.argv[1:]]).encode(errors="replace").decode(),
    }
    try:
        write_diagnosis(content, page)
    finally:
        # What was computed is shown even where it cannot be written.
        if json_output is not None:
            print(json.dumps(content, indent=1, allow_nan=False), file=json_output)
        else:
            _print(console, found)
    console.print(f"Page: {page}", markup=False, highlight=False, soft_wrap=True)


def _page(request: DiagnosisRequest, spec: RunSpec, out: Path | None) -> Path:
    """Give the page's path, where it can be written; nothing of somebody else's is in its way.

    Raises:
        OSError: If its folder cannot be made or written to.
        ValueError: If the name does not end with ``.html``, or is a folder's, or a file that no diagnosis wrote has the
            name of its JSON, or a page without its JSON has the name.
    """
    if out is None:
        when = f"{request.steps}-updates" if request.steps else "start"
        judged = "" if request.precision == "float32" else f"-{request.precision}"
        name = f"{spec.task.partition('.')[0]}-{spec.norm.name.partition(':')[0]}-{when}{judged}-{spec.id[:6]}"
        out = Path("runs") / "diagnose" / f"{name}.html"
    if out.suffix != ".html":
        raise ValueError(f"the page is HTML: expected a name that ends with .html, got {str(out)!r}")
    if out.is_dir() or out.with_suffix(".json").is_dir():
        raise ValueError(f"{out}, or its JSON, is a folder")
    beside = out.with_suffix(".json")
    if not _is_ours(beside):
        raise ValueError(f"{beside} is there already, and no diagnosis wrote it: choose another name")
    if (out.exists() or out.is_symlink()) and not beside.exists():
        raise ValueError(
            f"{out} is there already, and no diagnosis says that it wrote it, for there is no {beside.name} beside it: "
            "choose another name"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=out.parent):
        return out


def _is_ours(path: Path) -> bool:
    """Whether a file is the JSON of a diagnosis, or not there."""
    try:
        return not path.exists() or "findings" in read_json(path, newest=SCHEMA)
    except ValueError:
        return False


def _print(console: Console, found: Examination) -> None:
    def say(words: str, style: str = "") -> None:
        console.print(words, style=style or None, markup=False, highlight=False, soft_wrap=True)

    say("; ".join(f"{name.lower()} {value}" for name, value in found.setting.items()))
    for finding in found.diagnosis.findings:
        say(
            f"\n{finding.title}. {finding.where or 'the model'}: {finding.evidence}",
            "bold red",
        )
        say(f"Try: {finding.remedy}")
    if not found.diagnosis.findings:
        say("\nNo known cause of trouble was found. This does not prove that the model is healthy.", "bold")
    for name, reading in found.diagnosis.readings.items():
        say(f"\n{TITLES[name]}", "bold")
        say(reading)
    if "Updates" in found.setting and not found.history:
        say("\nNo norm's gradient was measured through the training.")
    seconds = found.diagnosis.cost.seconds
    say(f"\nThe look took {f'{seconds:.1f} s' if seconds >= 1 else f'{1e3 * seconds:.0f} ms'}.")
