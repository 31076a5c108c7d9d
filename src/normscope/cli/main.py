"""The command line: what can be typed behind ``normscope``; nothing heavy before it is needed."""

import io
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from cyclopts import App, Parameter
from rich.console import Console

import normscope
from normscope.cli.parsing import parse_counts, parse_seeds, parse_shapes, split_norms

if TYPE_CHECKING:
    from normscope.results import Summary

app = App(
    name="normscope",
    help="Normalization for PyTorch: layers, and the instruments to know which one a network needs.",
    version=normscope.__version__,
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
)

EXIT_ERROR = 1
"""The study could not be answered: missing data, a full disk, no such device; or every one of its runs failed."""
EXIT_USAGE = 2
"""The command line asks for something that does not exist, or a file is not what it should be."""
EXIT_INTERRUPTED = 130
"""Stopped by Ctrl-C; the same command goes on."""


@app.command
def compare(
    task: Annotated[
        str, Parameter(help="such as digits, see: normscope list tasks; or a file of yours, my_file.py:make")
    ],
    /,
    *,
    norms: Annotated[
        str | None, Parameter(help="such as layer_norm,ada_norm(scale=2.0); see: normscope list norms")
    ] = None,
    placement: Annotated[
        str, Parameter(help="such as pre,post or mix(share=0.5); see: normscope list placements")
    ] = "",
    seeds: Annotated[
        str, Parameter(help="such as 0-9 or 3,5,8; six can claim something of one arm, eight of six")
    ] = "0-9",
    steps: Annotated[int | None, Parameter(help="updates of every run; the task's preset where left out")] = None,
    preset: Annotated[
        Literal["small", "full"],
        Parameter(help="small for a laptop; full at the paper's size, or until the figures stop improving"),
    ] = "small",
    warmup: Annotated[str, Parameter(help="numbers of warm-up updates to compare, such as 0,500")] = "",
    baseline: Annotated[str | None, Parameter(help="the arm to compare with; layer_norm where left out")] = None,
    margin: Annotated[float | None, Parameter(help="smallest difference worth having, in the metric's unit")] = None,
    tune: Annotated[
        bool, Parameter(help="first choose every arm's learning rate: one grid, a split and seeds of its own")
    ] = False,
    out: Annotated[Path | None, Parameter(help="the study's folder; runs/<task>-<hash> where left out")] = None,
    workers: Annotated[int | None, Parameter(help="processes; one a core where left out")] = None,
    device: Annotated[str, Parameter(help="cpu, cuda or cuda:1")] = "cpu",
    precision: Annotated[Literal["float32", "bfloat16"], Parameter(help="of the forward pass")] = "float32",
    compile: Annotated[bool, Parameter(help="compile the training loss: faster on a GPU, other roundings")] = False,
    retry_failed: Annotated[bool, Parameter(help="compute runs anew that ended with an error")] = False,
    json_output: Annotated[bool, Parameter(name="--json", help="print summary.json instead of the table")] = False,
) -> None:
    """Train every norm of a list on one task with the same seeds, and say whether one helps.

    Writes summary.json, summary.csv and report.html. Stop it at any time: the same command goes on where it was,
    and nothing that is finished is computed twice.

    For example:

    normscope compare digits

    normscope compare digits --norms layer_norm,rms_norm --placement pre,post --seeds 0-19

    normscope compare mnist_mlp --tune --out studies/mnist

    normscope compare my_file.py:make
    """
    from normscope import data as data_sets
    from normscope.cli.progress import DownloadProgress, StudyProgress
    from normscope.cli.tables import open_console, results_alone
    from normscope.results.store import StudyFolder
    from normscope.specs import find_task
    from normscope.studies import spec as cards
    from normscope.studies.compare import check_folder, default_folder, states
    from normscope.studies.compare import compare as run_study
    from normscope.studies.engines.engine import RunEvent
    from normscope.studies.plan import plan
    from normscope.studies.tuning import tuning_plan

    with results_alone(json_output) as output:
        entry = find_task(task)
        card = cards.make_study(
            task,
            norms=cards.PAPER_NORMS if norms is None else split_norms(norms),
            placements=split_norms(placement),
            seeds=parse_seeds(seeds),
            warmups=parse_counts(warmup),
            steps=steps,
            preset=preset,
            margin=margin,
            baseline=baseline,
            precision=precision,
            device=device,
            compile=compile,
            tune=tune,
        )
        console = open_console(stderr=json_output)
        command = shlex.join(["normscope", *sys.argv[1:]])
        folder = out if out is not None else default_folder(card)
        study = StudyFolder(folder)
        specs = plan(card)
        trials = tuning_plan(card) if tune else []
        check_folder(card, study)
        before = states(specs, study)
        done = len(specs) - before["open"]
        console.print(
            f"{card.question} {_count(card.arms, 'arm')} x {_count(card.seeds, 'seed')}, {card.steps:,} updates each"
            + (f", {len(trials)} tuning trials first" if trials else "")
            + (f"; {done} of {len(specs)} runs are there already" if done else "")
            + f". Folder: {folder}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        if before["open"] or (retry_failed and before["failed"]):
            with DownloadProgress(console) as fetched:
                for name in entry.datasets:
                    data_sets.locate(data_sets.SETS[name], progress=fetched)
        with StudyProgress(console) as progress:

            def callback(event: RunEvent) -> None:
                spec = event.spec
                name = f"{spec.label} seed {spec.seed}"
                progress.callback(spec.id, name, event.state, event.step, of=spec.recipe.steps, note=event.note)

            try:
                summary = run_study(
                    card, out=folder, workers=workers, callback=callback, command=command, retry_failed=retry_failed
                )
            except KeyboardInterrupt:
                progress.progress.stop()
                counts = states(specs, study)
                console.print(
                    f"\nStopped; {len(specs) - counts['open']} of {len(specs)} runs are finished, the others keep "
                    f"their checkpoints in {folder}.\nGo on with:  {_typed(*sys.argv[1:])}\n"
                    f"Look at what is there with:  {_typed('report', str(folder))}",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
                sys.exit(EXIT_INTERRUPTED)
        if json_output:
            print(json.dumps(summary.to_dict(), indent=1, allow_nan=False), file=output)
        else:
            _show(summary, console)
            console.print(f"Report: {study.report}", markup=False, highlight=False, soft_wrap=True)
        _tell_failures(summary, folder)


@app.command
def report(
    directory: Annotated[Path, Parameter(help="the study's folder, as compare names it")],
    /,
    *,
    json_output: Annotated[bool, Parameter(name="--json", help="print summary.json instead of the table")] = False,
) -> None:
    """Draw the table and the page of a study again from its folder, finished or not; needs no torch."""
    from normscope.cli.tables import open_console
    from normscope.report import write_report
    from normscope.results import summarize

    summary = summarize(directory)
    summary.write(directory)
    page = write_report(directory)
    if json_output:
        print(json.dumps(summary.to_dict(), indent=1, allow_nan=False))
        return
    console = open_console()
    _show(summary, console)
    console.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)


@app.command
def reproduce(
    paper: Annotated[str, Parameter(help="xu2019 or xiong2020")],
    /,
    *,
    only: Annotated[str, Parameter(help="tasks, tables, figures, such as rt,table3; see --list")] = "",
    preset: Annotated[Literal["small", "full"], Parameter(help="small for a laptop, or the paper's size")] = "small",
    seeds: Annotated[str, Parameter(help="such as 0-9; fewer than six can tell nothing")] = "0-9",
    steps: Annotated[int | None, Parameter(help="updates of every run; the task's preset where left out")] = None,
    layers: Annotated[str, Parameter(help="sizes of the gradient figure")] = "6,8,10,12,14",
    width: Annotated[int, Parameter(help="of its networks")] = 512,
    tokens: Annotated[int, Parameter(help="of its batch")] = 2048,
    out: Annotated[Path | None, Parameter(help="folder of the studies; runs/<paper> where left out")] = None,
    workers: Annotated[int | None, Parameter(help="processes; one a core where left out")] = None,
    device: Annotated[str, Parameter(help="cpu, cuda or cuda:1")] = "cpu",
    precision: Annotated[Literal["float32", "bfloat16"], Parameter(help="of the forward pass")] = "float32",
    compile: Annotated[bool, Parameter(help="compile the training loss: faster on a GPU, other roundings")] = False,
    norms_at: Annotated[
        Literal["all", "final"],
        Parameter(help="which norms the arms replace; final, the two at the ends, is xu2019's released De-En code"),
    ] = "all",
    read_only: Annotated[bool, Parameter(help="judge what the folder holds and compute nothing")] = False,
    list_cells: Annotated[
        bool, Parameter(name="--list", help="show the cells, or those of --only, and what can be run here")
    ] = False,
    json_output: Annotated[bool, Parameter(name="--json", help="print reproduce.json instead of tables")] = False,
) -> None:
    """Try what a paper printed: run its studies, or resume them, and give every cell a verdict.

    Differences are compared, on paired seeds, never figures by themselves; of BLEU, whose scorer neither paper names,
    the direction alone. Nothing is concluded from runs cut short or baselines that do not train. Writes reproduce.json
    and reproduce.md beside the studies. Stop it at any time: the same command goes on.

    For example:

    normscope reproduce xu2019 --list

    normscope reproduce xu2019 --only rt,sst5

    normscope reproduce xiong2020 --only gradients
    """
    from normscope.cli.reproduce import ReproductionRequest as Request
    from normscope.cli.reproduce import Setting, show, show_cells

    request = Request(
        paper=paper,
        only=tuple(name.strip() for name in only.split(",") if name.strip()),
        seeds=tuple(parse_seeds(seeds)),
        preset=preset,
        steps=steps,
        out=out,
        workers=workers,
        device=device,
        precision=precision,
        compile=compile,
        norms_at=norms_at,
        read_only=read_only,
        gradients=Setting(layers=tuple(parse_counts(layers)), width=width, tokens=tokens),
        command=shlex.join(["normscope", *sys.argv[1:]]),
    )
    if list_cells:
        show_cells(request)
    else:
        show(request, json_output=json_output)


@app.command
def diagnose(
    task: Annotated[str, Parameter(help="such as rt, see: normscope list tasks; or a file of yours, my_file.py:make")],
    /,
    *,
    norm: Annotated[str, Parameter(help="such as ada_norm(scale=2.0); see: normscope list norms")] = "layer_norm",
    placement: Annotated[str, Parameter(help="such as post; the task's default where left out")] = "",
    steps: Annotated[int, Parameter(help="updates to train first, measured on the way; 0 looks at initialization")] = 0,
    warmup: Annotated[int | None, Parameter(help="warm-up updates; the preset's where left out")] = None,
    preset: Annotated[Literal["small", "full"], Parameter(help="small for a laptop, or full")] = "small",
    seed: Annotated[int, Parameter(help="of first weights, order of data and dropout")] = 0,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        Parameter(help="that it is meant to be trained in: numbers that reach the norms are judged by it"),
    ] = "float32",
    device: Annotated[str, Parameter(help="cpu, cuda or cuda:1")] = "cpu",
    out: Annotated[Path | None, Parameter(help="the page, name.html; in runs/diagnose where left out")] = None,
    json_output: Annotated[bool, Parameter(name="--json", help="print the numbers instead of the readings")] = False,
) -> None:
    """Look into a model: what normalization does to its gradients, and which known cause of trouble it has.

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
    from normscope.cli.diagnose import DiagnosisRequest as Request
    from normscope.cli.diagnose import show

    request = Request(
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
    show(request, out=out, json_output=json_output)


@app.command(name="list")
def list_entries(what: Literal["norms", "placements", "tasks", "probes", "all"] = "all", /) -> None:
    """List what the names stand for: norms, placements, tasks, probes; of what another package brought, which one."""
    from normscope.cli.tables import open_console, rows_table
    from normscope.diagnostics import PROBES
    from normscope.norms import NORMS, PARAMETRIZATIONS
    from normscope.placement import PLACEMENTS
    from normscope.registry import Registry
    from normscope.tasks import TASKS

    def told(registry: Registry[Any], name: str, words: str) -> str:
        package = registry.origin(name)
        return f"{words} [{package}]" if package else words

    console = open_console()
    if what in ("norms", "all"):
        found = {**NORMS, **PARAMETRIZATIONS}
        rows = [(name, told(NORMS, name, _first_line(entry))) for name, entry in found.items()]
        console.print(rows_table(("norm", "what it is"), rows, "Norms"))
    if what in ("placements", "all"):
        rows = [(name, told(PLACEMENTS, name, entry.equation)) for name, entry in PLACEMENTS.items()]
        console.print(rows_table(("placement", "equation"), rows, "Placements"))
    if what in ("tasks", "all"):
        rows = [
            (
                name,
                told(TASKS, name, entry.description),
                entry.metric.name,
                entry.placements[0] + (f" and {more} more" if (more := len(entry.placements) - 1) else ""),
                f"{entry.presets['small'].steps:,} / {entry.presets['full'].steps:,}",
            )
            for name, entry in TASKS.items()
        ]
        console.print(rows_table(("task", "what it is", "metric", "placements", "updates small / full"), rows, "Tasks"))
    if what in ("probes", "all"):
        rows = [(name, told(PROBES, name, _first_line(entry))) for name, entry in PROBES.items()]
        console.print(rows_table(("probe", "what it measures"), rows, "Probes"))


@app.command
def new(path: Path, /) -> None:
    """Write a file to fill in, for a study of a model of your own; it runs as it stands.

    For example:

    normscope new my_file.py

    normscope compare my_file.py:make

    Raises:
        FileNotFoundError: If its folder is not there.
        ValueError: If the file is there already, or its name is no Python file's, begins with a dash, or is a module's
            that it would hide from itself and its neighbours.
    """
    from importlib.resources import files

    text = (files("normscope.cli") / "template.py").read_bytes()
    _check_new(path)
    try:
        with path.open("xb") as file:
            file.write(text)
    except FileExistsError as error:
        raise ValueError(f"{path} is there already, and was left as it is") from error
    Console().print(
        f"{path} is written. It runs as it stands:  {_typed('compare', f'{path}:make')}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _check_new(path: Path) -> None:
    """Refuse the name of a file that could not be used.

    Raises:
        FileNotFoundError: As :func:`new`.
        ValueError: As :func:`new`.
    """
    from importlib.machinery import PathFinder

    if path.suffix != ".py":
        raise ValueError(f"expected the name of a Python file, such as my_file.py, got {str(path)!r}")
    if str(path).startswith("-"):
        raise ValueError(
            f"a name that begins with a dash is taken for an option: choose another one, got {str(path)!r}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}: make it first")
    # A module of the current folder is a neighbour.
    installed = [entry for entry in sys.path if Path(entry).resolve() not in (Path.cwd(), path.parent.resolve())]
    found = path.stem.isidentifier() and PathFinder.find_spec(path.stem, installed)
    if path.stem in sys.stdlib_module_names or (found and found.origin is not None):
        raise ValueError(
            f"{path.name} would hide the module {path.stem!r} from itself and from every file beside it: choose "
            "another name"
        )


@app.command
def data(
    action: Literal["list", "fetch", "verify"] = "list",
    /,
    *names: str,
) -> None:
    """List the data sets with their state, size, licence and home page; fetch or verify some by name, or all.

    Files are looked for in $NORMSCOPE_DATA/<set>, then in the cache, then fetched and checked against their SHA-256.
    Without names, fetch leaves out the sets that you must bring and those whose publisher states no hash.

    For example:

    normscope data

    normscope data fetch mnist

    normscope data verify
    """
    from normscope import data as sets
    from normscope.cli.progress import DownloadProgress
    from normscope.cli.tables import open_console, rows_table

    console = open_console()
    if action == "fetch":
        with DownloadProgress(console) as fetched:
            sets.fetch(names, progress=fetched)
    elif action == "verify":
        sets.verify(names)
    console.print(rows_table(("set", "state", "size", "licence", "home page"), sets.table(), "Data sets"))


@app.command
def bench(
    *,
    norms: Annotated[
        str | None, Parameter(help="such as ada_norm,rms_norm; all that work on rows where left out")
    ] = None,
    shapes: Annotated[str | None, Parameter(help="rows x widths, such as 4096x512,64x1000")] = None,
    dtypes: Annotated[str, Parameter(help="of float32, bfloat16, float16, float64")] = "float32,bfloat16",
    threads: Annotated[int, Parameter(help="of the computation")] = 1,
    seconds: Annotated[float, Parameter(help="for every shape in every dtype")] = 1.0,
    json_output: Annotated[bool, Parameter(name="--json", help="print the numbers as JSON instead of tables")] = False,
) -> None:
    """Measure what every norm costs on this machine's CPU, beside what PyTorch has instead, taken in turns.

    A ratio below 1 is faster than torch. The limit is what copying the input (forward) or adding two such tensors
    (backward) takes: 100 % can only be passed by moving less. On a GPU: ./run --here bench gpu.

    For example:

    normscope bench

    normscope bench --norms ada_norm,layer_norm --shapes 4096x512 --threads 2 --json
    """
    import torch
    from rich.progress import Progress

    from normscope.cli.main import bench as benchmark
    from normscope.cli.tables import cost_tables, open_console
    from normscope.norms import NORMS
    from normscope.registry import look_up

    # FRN takes feature maps, not rows.
    names = [name for name in NORMS if name != "frn"] if norms is None else split_norms(norms)
    for name in names:
        look_up("norm", NORMS, name)
    wanted = benchmark.SHAPES if shapes is None else parse_shapes(shapes)
    kinds = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
    chosen = [look_up("dtype", kinds, name.strip()) for name in dtypes.split(",")]
    console = open_console(stderr=json_output)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("measuring", total=len(wanted) * len(chosen))
        costs = benchmark.bench(
            names,
            wanted,
            chosen,
            threads=threads,
            seconds=seconds,
            callback=lambda done: progress.update(bar, completed=done),
        )
    if json_output:
        print(json.dumps(costs.to_dict(), indent=1, allow_nan=False))
        return
    threads_used = _count(range(costs.threads), "thread")
    console.print(
        f"torch {costs.torch} on {costs.device}, {threads_used}; backend {costs.backend}.\n"
        "Forward and backward apart; ratio of both together to PyTorch's (green: three quarters of the turns were\n"
        "faster); share of the speed limit; bytes kept for the backward pass, an entry.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for table in cost_tables(costs.to_dict()):
        console.print(table)
    if costs.waited > benchmark.WAITED:
        words = f"the machine was busy: threads waited for a core for up to {costs.waited:.0%} of a turn"
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    if not costs.malloc:
        words = "glibc hands large blocks back at every call: from 16 MB on these are times of its page faults too"
        console.print(f"{words}; normscope doctor says how to keep them", markup=False, highlight=False, soft_wrap=True)


@app.command
def doctor() -> None:
    """Say what is installed, which backends run here, and what each missing part costs."""
    from normscope.cli.doctor import diagnose_installation
    from normscope.cli.tables import open_console, rows_table

    rows = [(check.name, check.state, check.found, check.advice) for check in diagnose_installation()]
    open_console().print(rows_table(("part", "state", "found", "what it costs, what to do"), rows, "This installation"))


def _tell_failures(summary: "Summary", folder: Path) -> None:
    """Say how many runs failed, on standard error; end with :data:`EXIT_ERROR` where all have."""
    runs = [run for arm in (*summary.arms, *(summary.untuned or ())) for run in arm.runs]
    # A run may serve a tuned and an untuned arm.
    ended = {run.id: run.state for run in runs}
    failed = [identity for identity, state in ended.items() if state == "failed"]
    if not failed:
        return
    Console(stderr=True).print(
        f"{len(failed)} of {_count(tuple(ended), 'run')} could not be computed; why is in {folder}/runs/*/result.json "
        "and error.txt, and on the page; --retry-failed computes them again",
        style="red",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if len(failed) == len(ended):
        sys.exit(EXIT_ERROR)


def _show(summary: "Summary", console: Console) -> None:
    from normscope.cli.tables import verdict_table

    title = summary.question + ("" if summary.untuned is None else " Every arm at its own, tuned learning rate:")
    console.print(verdict_table(summary, summary.arms, title, width=console.width))
    if summary.untuned is not None:
        title = "The same, untuned: every arm at the task's learning rate:"
        console.print(verdict_table(summary, summary.untuned, title, width=console.width))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors that a user can mend are one sentence, without a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a letter shows another one; it does not end a study.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(arguments)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except (LookupError, ValueError, TypeError) as error:
        _refuse(error, EXIT_USAGE)
    except (OSError, ImportError, RuntimeError) as error:
        _refuse(error, EXIT_ERROR)


def _refuse(error: Exception, status: int) -> NoReturn:
    words = "".join(letter for letter in f"normscope: {error}" if letter.isprintable() or letter == "\n")
    Console(stderr=True).print(words, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(status)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _typed(*words: str) -> str:
    """Write a command as whoever started this one can type it."""
    return f"{os.environ.get('NORMSCOPE_STARTED_AS', 'normscope')} {shlex.join(words)}"


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}" if len(things) == 1 else f"{len(things)} {noun}s"


def _first_line(entry: object) -> str:
    return (entry.__doc__ or "").strip().partition("\n")[0]


if __name__ == "__main__":
    main()
