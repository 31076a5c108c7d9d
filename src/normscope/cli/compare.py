"""``normscope compare`` and ``normscope report``: run a study, and draw its table and its page."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from normscope.cli.parsing import (
    DEFAULTS,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    JSON,
    RunOptions,
    as_typed,
    count,
    join_arguments,
    parse_counts,
    parse_seeds,
    split_norms,
)

if TYPE_CHECKING:
    from normscope.results import Summary


def compare(
    task: Annotated[
        str, Parameter(help="task, such as digits (see: normscope list tasks), or a custom task, my_file.py:make")
    ],
    /,
    *,
    norms: Annotated[
        str | None,
        Parameter(help="norms to compare, such as layer_norm,ada_norm(scale=2.0); see: normscope list norms"),
    ] = None,
    placement: Annotated[
        str,
        Parameter(
            help="placements, such as pre,post or mix(share=0.5); see: normscope list placements; default: the task's",
            show_default=False,
        ),
    ] = "",
    seeds: Annotated[
        str, Parameter(help="seeds, such as 0-9 or 3,5,8; significance needs at least 6 for one comparison, 8 for six")
    ] = "0-9",
    warmup: Annotated[
        str,
        Parameter(
            help="numbers of warm-up updates to compare, such as 0,500; default: the preset's", show_default=False
        ),
    ] = "",
    baseline: Annotated[
        str | None, Parameter(help="arm that the others are compared with; default: layer_norm, else the first arm")
    ] = None,
    margin: Annotated[
        float | None, Parameter(help="smallest difference worth having, in the metric's unit; default: the task's")
    ] = None,
    tune: Annotated[
        bool, Parameter(help="first tune the learning rate of every arm on one grid, with a separate split and seeds")
    ] = False,
    out: Annotated[Path | None, Parameter(help="folder of the study; default: runs/<task>-<hash>")] = None,
    retry_failed: Annotated[bool, Parameter(help="compute failed runs again")] = False,
    json_output: JSON = False,
    options: RunOptions = DEFAULTS,
) -> None:
    """Train a task with each norm on the same seeds, and test whether a norm makes a difference.

    Every arm is compared with the baseline on paired seeds: better, worse, equivalent, or not enough evidence. Writes
    summary.json, summary.csv and report.html. It can be stopped at any time: the same command resumes the study, and
    finished runs are not computed again.

    For example:

    normscope compare digits

    normscope compare digits --norms layer_norm,rms_norm --placement pre,post --seeds 0-19

    normscope compare mnist_mlp --tune --out studies/mnist

    normscope compare my_file.py:make
    """
    from normscope import data as data_sets
    from normscope.cli.progress import DownloadProgress, StudyProgress
    from normscope.cli.tables import open_console, stdout_for_results
    from normscope.results.store import StudyFolder
    from normscope.specs import find_task
    from normscope.studies.compare import check_folder, default_folder, states
    from normscope.studies.compare import compare as run_study
    from normscope.studies.engines.engine import RunEvent
    from normscope.studies.plan import plan
    from normscope.studies.spec import PAPER_NORMS, make_study
    from normscope.studies.tuning import tuning_plan

    with stdout_for_results(json_output) as output:
        entry = find_task(task)
        study_spec = make_study(
            task,
            norms=PAPER_NORMS if norms is None else split_norms(norms),
            placements=split_norms(placement),
            seeds=parse_seeds(seeds),
            warmups=parse_counts(warmup),
            steps=options.steps,
            preset=options.preset,
            margin=margin,
            baseline=baseline,
            precision=options.precision,
            device=options.device,
            compile=options.compile,
            tune=tune,
        )
        console = open_console(stderr=json_output)
        command = join_arguments("normscope", *sys.argv[1:])
        folder = out if out is not None else default_folder(study_spec)
        study = StudyFolder(folder)
        specs = plan(study_spec)
        trials = tuning_plan(study_spec) if tune else []
        check_folder(study_spec, study)
        before = states(specs, study)
        done = len(specs) - before["open"]
        console.print(
            f"{study_spec.question} {count(study_spec.arms, 'arm')} x {count(study_spec.seeds, 'seed')}, "
            f"{study_spec.steps:,} updates each"
            + (f", {len(trials)} tuning trials first" if trials else "")
            + (f"; {done} of {len(specs)} runs are already finished" if done else "")
            + f". Folder: {folder}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        if before["open"] or (retry_failed and before["failed"]):
            with DownloadProgress(console) as downloads:
                for name in entry.datasets:
                    data_sets.locate(data_sets.SETS[name], progress=downloads)
        with StudyProgress(console) as progress:

            def callback(event: RunEvent) -> None:
                spec = event.spec
                name = f"{spec.label} seed {spec.seed}"
                progress.callback(spec.id, name, event.state, event.step, of=spec.recipe.steps, note=event.note)

            try:
                summary = run_study(
                    study_spec,
                    out=folder,
                    workers=options.workers,
                    callback=callback,
                    command=command,
                    retry_failed=retry_failed,
                )
            except KeyboardInterrupt:
                progress.progress.stop()
                counts = states(specs, study)
                console.print(
                    f"\nStopped; {len(specs) - counts['open']} of {len(specs)} runs are finished; the others can be "
                    f"resumed from their checkpoints in {folder}.\nResume with:  {as_typed(*sys.argv[1:])}\n"
                    f"See the results so far with:  {as_typed('report', str(folder))}",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
                sys.exit(EXIT_INTERRUPTED)
        if json_output:
            print(json.dumps(summary.to_dict(), indent=1, allow_nan=False), file=output)
        else:
            _print_summary(summary, console)
            console.print(f"Report: {study.report}", markup=False, highlight=False, soft_wrap=True)
        _report_failures(summary, folder)


def report(
    directory: Annotated[Path, Parameter(help="folder of the study, which compare prints")],
    /,
    *,
    json_output: JSON = False,
) -> None:
    """Draw the table and the page of a study from its folder, finished or not; does not need torch.

    For example:

    normscope report runs/digits-0123456789
    """
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
    _print_summary(summary, console)
    console.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)


def _report_failures(summary: "Summary", folder: Path) -> None:
    """Print the number of failed runs to standard error; exit with :data:`EXIT_ERROR` if all failed."""
    runs = [run for arm in (*summary.arms, *(summary.untuned or ())) for run in arm.runs]
    # A run may belong to a tuned and an untuned arm.
    ended = {run.id: run.state for run in runs}
    failed = [identity for identity, state in ended.items() if state == "failed"]
    if not failed:
        return
    Console(stderr=True).print(
        f"{len(failed)} of {count(tuple(ended), 'run')} could not be computed; the reasons are in "
        f"{folder}/runs/*/result.json and error.txt, and on the page; --retry-failed computes them again",
        style="red",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if len(failed) == len(ended):
        sys.exit(EXIT_ERROR)


def _print_summary(summary: "Summary", console: Console) -> None:
    from normscope.cli.tables import verdict_table

    title = summary.question + ("" if summary.untuned is None else " Every arm at its tuned learning rate:")
    console.print(verdict_table(summary, summary.arms, title, width=console.width))
    if summary.untuned is not None:
        title = "The same, untuned: every arm at the task's learning rate:"
        console.print(verdict_table(summary, summary.untuned, title, width=console.width))
