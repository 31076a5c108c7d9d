"""``normscope diagnose``: measure a model, print its findings and readings, and write a page with its JSON."""

import json
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

from cyclopts import Parameter
from rich.console import Console
from rich.progress import Progress

from normscope.cli.parsing import JSON, given, shell_words

if TYPE_CHECKING:
    from normscope.studies.diagnose import DiagnosisRequest, Examination
    from normscope.studies.plan import RunSpec


def diagnose(
    task: Annotated[
        str, Parameter(help="task, such as rt (see: normscope list tasks), or a custom task, my_file.py:make")
    ],
    /,
    *,
    norm: Annotated[str, Parameter(help="norm, such as ada_norm(scale=2.0); see: normscope list norms")] = "layer_norm",
    placement: Annotated[
        str,
        Parameter(
            help="placement, such as post (see: normscope list placements); default: the task's", show_default=False
        ),
    ] = "",
    steps: Annotated[
        int,
        Parameter(help="number of updates to train first, with measurements on the way; 0 measures at initialization"),
    ] = 0,
    warmup: Annotated[int | None, Parameter(help="number of warm-up updates; default: the preset's")] = None,
    preset: Annotated[
        Literal["small", "full"], Parameter(help="size of the model and its training: small for a laptop, or full")
    ] = "small",
    seed: Annotated[int, Parameter(help="seed of the initial weights, the data order and dropout")] = 0,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        Parameter(help="intended training precision; the activations at the norms are checked for it"),
    ] = "float32",
    device: Annotated[str, Parameter(help="device, such as cpu, cuda or cuda:1")] = "cpu",
    out: Annotated[Path | None, Parameter(help="path of the page, name.html; default: a name in runs/diagnose")] = None,
    json_output: JSON = False,
) -> None:
    """Measure how the norms of a model affect its gradients, and check it for known causes of training problems.

    Measures every norm and every layer in one training step, interprets the measurements, and writes a page and its
    JSON. For a model in your training script, call normscope.diagnose(model, batch, loss) there.

    For example:

    normscope diagnose rt

    normscope diagnose multi30k_de_en --placement post --warmup 0

    normscope diagnose digits --norm detach_norm --steps 500 --out digits.html

    normscope diagnose my_file.py:make
    """
    # Training measures its memory with torch's profiler, which would otherwise log messages.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from normscope.cli.tables import open_console, stdout_for_results
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
    with stdout_for_results(json_output) as output:
        _diagnose(request, open_console(stderr=json_output), out, output if json_output else None)


def _diagnose(request: "DiagnosisRequest", console: Console, out: Path | None, json_output: TextIO | None) -> None:
    from normscope.cli.progress import DownloadProgress
    from normscope.data import SETS, locate
    from normscope.report.diagnosis.page import write_diagnosis
    from normscope.specs import find_task
    from normscope.studies.diagnose import examine, spec_of

    spec = spec_of(request)
    page = _page(request, spec, out)
    with DownloadProgress(console) as downloads:
        for name in find_task(request.task).datasets:
            locate(SETS[name], progress=downloads)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(f"training {spec.label}" if request.steps else "measuring", total=request.steps or None)
        examination = examine(request, lambda step, of: progress.update(bar, completed=step))
    content = examination.diagnosis.to_json() | {
        "setting": examination.setting,
        "history": examination.history,
        "command": shell_words("normscope", *given()),
    }
    try:
        write_diagnosis(content, page)
    finally:
        # Print the result even if the page cannot be written.
        if json_output is not None:
            print(json.dumps(content, indent=1, allow_nan=False), file=json_output)
        else:
            _print(console, examination)
    console.print(f"Page: {page}", markup=False, highlight=False, soft_wrap=True)


def _page(request: "DiagnosisRequest", spec: "RunSpec", out: Path | None) -> Path:
    """Return the path of the page; check that it can be written without overwriting files of other programs.

    Raises:
        OSError: If its folder cannot be created or written to.
        ValueError: If the name does not end with ``.html``; if the page or its JSON is a folder; if the JSON exists and
            is not a diagnosis; or if the page exists without its JSON.
    """
    if out is None:
        when = f"{request.steps}-updates" if request.steps else "start"
        precision = "" if request.precision == "float32" else f"-{request.precision}"
        name = f"{spec.task.partition('.')[0]}-{spec.norm.name.partition(':')[0]}-{when}{precision}-{spec.id[:6]}"
        out = Path("runs") / "diagnose" / f"{name}.html"
    if out.suffix != ".html":
        raise ValueError(f"the page is HTML: expected a name that ends with .html, got {str(out)!r}")
    if out.is_dir() or out.with_suffix(".json").is_dir():
        raise ValueError(f"{out}, or its JSON, is a folder")
    content = out.with_suffix(".json")
    if not _is_replaceable(content):
        raise ValueError(f"{content} exists and is not a diagnosis: choose another name")
    if (out.exists() or out.is_symlink()) and not content.exists():
        raise ValueError(
            f"{out} exists, but without {content.name} beside it, so it may not be a diagnosis: choose another name"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=out.parent):
        return out


def _is_replaceable(path: Path) -> bool:
    """Check whether a file is the JSON of a diagnosis, or does not exist."""
    from normscope.report.diagnosis.page import SCHEMA
    from normscope.results.store import read_json

    try:
        return not path.exists() or "findings" in read_json(path, newest=SCHEMA)
    except ValueError:
        return False


def _print(console: Console, examination: "Examination") -> None:
    from normscope.report.diagnosis.text import TITLES

    def write(text: str, style: str = "") -> None:
        console.print(text, style=style or None, markup=False, highlight=False, soft_wrap=True)

    write("; ".join(f"{name.lower()} {value}" for name, value in examination.setting.items()))
    for finding in examination.diagnosis.findings:
        write(
            f"\n{finding.title}. {finding.where or 'the model'}: {finding.evidence}",
            "bold red",
        )
        write(f"Try: {finding.remedy}")
    if not examination.diagnosis.findings:
        write("\nNo known cause of trouble was found. This does not prove that the model is healthy.", "bold")
    for name, reading in examination.diagnosis.readings.items():
        write(f"\n{TITLES[name]}", "bold")
        write(reading)
    if "Updates" in examination.setting and not examination.history:
        write("\nNo gradient at a norm was measured during training.")
    seconds = examination.diagnosis.cost.seconds
    write(f"\nDiagnosis took {f'{seconds:.1f} s' if seconds >= 1 else f'{1e3 * seconds:.0f} ms'}.")
