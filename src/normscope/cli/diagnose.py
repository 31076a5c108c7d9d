"""``normscope diagnose``: a progress bar, the causes and readings, and the page with its JSON."""

import json
import os
import shlex
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

from cyclopts import Parameter
from rich.console import Console
from rich.progress import Progress

from normscope.cli.parsing import JSON

if TYPE_CHECKING:
    from normscope.studies.diagnose import DiagnosisRequest, Examination
    from normscope.studies.plan import RunSpec


def diagnose(
    task: Annotated[str, Parameter(help="such as rt, see: normscope list tasks; or a file of yours, my_file.py:make")],
    /,
    *,
    norm: Annotated[str, Parameter(help="such as ada_norm(scale=2.0); see: normscope list norms")] = "layer_norm",
    placement: Annotated[str, Parameter(help="such as post; the task's default where left out")] = "",
    steps: Annotated[
        int, Parameter(help="updates to train first, measured on the way; 0 measures at initialization")
    ] = 0,
    warmup: Annotated[int | None, Parameter(help="warm-up updates; the preset's where left out")] = None,
    preset: Annotated[Literal["small", "full"], Parameter(help="small for a laptop, or full")] = "small",
    seed: Annotated[int, Parameter(help="of first weights, order of data and dropout")] = 0,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        Parameter(help="that it is meant to be trained in: numbers that reach the norms are judged by it"),
    ] = "float32",
    device: Annotated[str, Parameter(help="cpu, cuda or cuda:1")] = "cpu",
    out: Annotated[Path | None, Parameter(help="the page, name.html; in runs/diagnose where left out")] = None,
    json_output: JSON = False,
) -> None:
    """Measure a model: what its norms do to its gradients, and which known cause of trouble it has.

    Measures every norm and every layer in one training step, says what it means, and writes a page and its JSON. For a
    model in a training script of your own, call normscope.diagnose(model, batch, loss) there.

    For example:

    normscope diagnose rt

    normscope diagnose multi30k_de_en --placement post --warmup 0

    normscope diagnose digits --norm detach_norm --steps 500 --out digits.html

    normscope diagnose my_file.py:make
    """
    # Training counts its memory with torch's profiler, on which the allocator would remark.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from normscope.cli.tables import open_console, results_alone
    from normscope.studies.diagnose import DiagnosisRequest

    request = DiagnosisRequest(
        task=task,
        norm=norm,
        placement=placement,
        preset=preset,
        seed=seed,
        steps=steps,
        warmup=warmup,
        precision=precision,
        device=device,
    )
    with results_alone(json_output) as output:
        _run(request, open_console(stderr=json_output), out, output if json_output else None)


def _run(request: "DiagnosisRequest", console: Console, out: Path | None, json_output: TextIO | None) -> None:
    from normscope.cli.progress import DownloadProgress
    from normscope.data import SETS, locate
    from normscope.report.diagnosis.page import write_diagnosis
    from normscope.specs import find_task
    from normscope.studies.diagnose import examine, spec_of

    spec = spec_of(request)
    page = _page(request, spec, out)
    with DownloadProgress(console) as fetched:
        for name in find_task(request.task).datasets:
            locate(SETS[name], progress=fetched)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(f"training {spec.label}" if request.steps else "measuring", total=request.steps or None)
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


def _page(request: "DiagnosisRequest", spec: "RunSpec", out: Path | None) -> Path:
    """Return the page's path after checking that it can be written and replaces no file of another program.

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
    from normscope.report.diagnosis.page import SCHEMA
    from normscope.results.store import read_json

    try:
        return not path.exists() or "findings" in read_json(path, newest=SCHEMA)
    except ValueError:
        return False


def _print(console: Console, found: "Examination") -> None:
    from normscope.report.diagnosis.text import TITLES

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
    say(f"\nDiagnosis took {f'{seconds:.1f} s' if seconds >= 1 else f'{1e3 * seconds:.0f} ms'}.")
