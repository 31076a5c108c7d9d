"""``normscope compare`` and ``normscope report``: a study, and its table and page."""

import json
import shlex
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
    parse_counts,
    parse_seeds,
    split_norms,
)

if TYPE_CHECKING:
    from normscope.results import Summary


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
        str, Parameter(help="such as 0-9 or 3,5,8; at least 6 for one comparison, 8 for six (multiple testing)")
    ] = "0-9",
    warmup: Annotated[str, Parameter(help="numbers of warm-up updates to compare, such as 0,500")] = "",
    baseline: Annotated[str | None, Parameter(help="the arm to compare with; layer_norm where left out")] = None,
    margin: Annotated[float | None, Parameter(help="smallest difference worth having, in the metric's unit")] = None,
    tune: Annotated[
        bool, Parameter(help="first tune every arm's learning rate on one grid, with a separate split and seeds")
    ] = False,
    out: Annotated[Path | None, Parameter(help="the study's folder; runs/<task>-<hash> where left out")] = None,
    retry_failed: Annotated[bool, Parameter(help="compute runs anew that ended with an error")] = False,
    json_output: JSON = False,
    options: RunOptions = DEFAULTS,
) -> None:
    """Train every norm of a list on one task with the same seeds, and judge whether one helps.

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
        command = shlex.join(["normscope", *sys.argv[1:]])
        folder = out if out is not None else default_folder(card)
        study = StudyFolder(folder)
        specs = plan(card)
        trials = tuning_plan(card) if tune else []
        check_folder(card, study)
        before = states(specs, study)
        done = len(specs) - before["open"]
        console.print(
            f"{card.question} {count(card.arms, 'arm')} x {count(card.seeds, 'seed')}, {card.steps:,} updates each"
            + (f", {len(trials)} tuning trials first" if trials else "")
            + (f"; {done} of {len(specs)} runs are finished already" if done else "")
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
                    card,
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
                    f"\nStopped; {len(specs) - counts['open']} of {len(specs)} runs are finished, the others keep "
                    f"their checkpoints in {folder}.\nGo on with:  {as_typed(*sys.argv[1:])}\n"
                    f"Look at what is there with:  {as_typed('report', str(folder))}",
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
    directory: Annotated[Path, Parameter(help="the study's folder, as compare names it")],
    /,
    *,
    json_output: JSON = False,
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
    _print_summary(summary, console)
    console.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)


def _report_failures(summary: "Summary", folder: Path) -> None:
    """Print the number of failed runs on standard error; exit with :data:`EXIT_ERROR` if all failed."""
    runs = [run for arm in (*summary.arms, *(summary.untuned or ())) for run in arm.runs]
    # A run may serve a tuned and an untuned arm.
    ended = {run.id: run.state for run in runs}
    failed = [identity for identity, state in ended.items() if state == "failed"]
    if not failed:
        return
    Console(stderr=True).print(
        f"{len(failed)} of {count(tuple(ended), 'run')} could not be computed; why is in {folder}/runs/*/result.json "
        "and error.txt, and on the page; --retry-failed computes them again",
        style="red",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if len(failed) == len(ended):
        sys.exit(EXIT_ERROR)


def _print_summary(summary: "Summary", console: Console) -> None:
    from normscope.cli.tables import verdict_table

    title = summary.question + ("" if summary.untuned is None else " Every arm at its own, tuned learning rate:")
    console.print(verdict_table(summary, summary.arms, title, width=console.width))
    if summary.untuned is not None:
        title = "The same, untuned: every arm at the task's learning rate:"
        console.print(verdict_table(summary, summary.untuned, title, width=console.width))
