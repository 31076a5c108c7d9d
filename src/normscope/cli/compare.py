"""``normscope compare``: run a study."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from normscope.cli.engine import DEFAULT_ENGINE, EngineOptions, check_engine, make_engine, submit_to_slurm
from normscope.cli.gate import EXIT_CODES, GATE, GATE_ARM, check_gate_arm, gate
from normscope.cli.parsing import (
    DEFAULTS,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    JSON,
    LAST_LOOK,
    LOOKS,
    TARGET,
    TARGET_MARGIN,
    UNTIL_DECIDED,
    RunOptions,
    as_argument,
    as_typed,
    count,
    given,
    parse_counts,
    parse_seeds,
    shell_words,
    split_norms,
)
from normscope.cli.report import print_summary

if TYPE_CHECKING:
    from normscope.results import Summary
    from normscope.results.store import StudyFolder
    from normscope.studies import StudySpec


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
        str,
        Parameter(
            help="seeds, such as 0-9 or 3,5,8; significance needs at least 6 for one comparison, 8 for six; default: "
            "0-9, or as many from 0 on as the looks need",
            show_default=False,
        ),
    ] = "",
    until_decided: UNTIL_DECIDED = False,
    looks: LOOKS = "",
    max_seeds: LAST_LOOK = None,
    spending: Annotated[
        Literal["pocock", "obrien_fleming", "kim_demets"] | None,
        Parameter(help="spending of alpha: early (pocock), late (obrien_fleming), or in between (kim_demets, default)"),
    ] = None,
    target: TARGET = "",
    target_margin: TARGET_MARGIN = 1.1,
    minutes: Annotated[
        float | None, Parameter(help="stop a study with looks after this time; the same command resumes it")
    ] = None,
    keep_going: Annotated[
        bool, Parameter(help="with looks: continue even if a decision by the last look is unlikely")
    ] = False,
    warmup: Annotated[
        str,
        Parameter(
            help="numbers of warm-up updates to compare, such as 0,500; default: the preset's", show_default=False
        ),
    ] = "",
    optimizer: Annotated[
        str,
        Parameter(
            help="optimizers to compare: adam, adam_kiros2015, radam, sgd, muon, all at the arm's learning rate; "
            "default: the task's",
            show_default=False,
        ),
    ] = "",
    variants: Annotated[
        str,
        Parameter(
            help="variants of the task to compare, default for the task as it is (`normscope list tasks` names them); "
            "default: only that",
            show_default=False,
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
    splits: Annotated[
        Literal["published", "resampled"] | None,
        Parameter(
            help="resampled: every seed draws its own split of training, validation and test data, the same for every "
            "arm; published: one split; default: the task's (resampled where there is no published test set)",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, Parameter(help="folder of the study; default: runs/<task>-<hash>")] = None,
    retry_failed: Annotated[bool, Parameter(help="compute failed runs again")] = False,
    gate_exit: Annotated[GATE, Parameter(name="--gate")] = False,
    gate_arm: GATE_ARM = None,
    json_output: JSON = False,
    options: RunOptions = DEFAULTS,
    engine_options: EngineOptions = DEFAULT_ENGINE,
) -> None:
    """Train a task with each norm on the same seeds, and test whether a norm makes a difference.

    Every arm is compared with the baseline on paired seeds: better, worse, equivalent, or not enough evidence. Writes
    summary.json, summary.csv and report.html. It can be stopped at any time: the same command resumes the study, and
    finished runs are not computed again.

    For example:

    normscope compare digits

    normscope compare digits --norms layer_norm,rms_norm --placement pre,post --seeds 0-19

    normscope compare digits --until-decided --max-seeds 40 --minutes 60

    normscope compare digits --target 10,baseline

    normscope compare mnist_mlp --tune --out studies/mnist

    normscope compare my_file.py:make

    normscope compare digits --engine slurm --sbatch time=1:00:00 --sbatch partition=cpu
    """
    from normscope import data as data_sets
    from normscope.cli.progress import DownloadProgress, StudyProgress, sentences
    from normscope.cli.tables import look_tables, open_console, stdout_for_results
    from normscope.results.store import StudyFolder
    from normscope.specs import find_task
    from normscope.studies.compare import check_folder, default_folder, known_runs, states
    from normscope.studies.compare import compare as run_study
    from normscope.studies.deadline import check_limits
    from normscope.studies.engines.engine import RunEvent
    from normscope.studies.plan import describe_training
    from normscope.studies.spec import PAPER_NORMS, make_study
    from normscope.studies.tuning import tuning_plan

    with stdout_for_results(json_output) as output:
        entry = find_task(task)
        study_spec = make_study(
            task,
            norms=PAPER_NORMS if norms is None else split_norms(norms),
            placements=split_norms(placement),
            seeds=parse_seeds(seeds) if seeds else None,
            looks=parse_counts(looks),
            until_decided=until_decided,
            max_seeds=max_seeds,
            spending=spending,
            targets=split_norms(target),
            target_margin=target_margin,
            warmups=parse_counts(warmup),
            optimizers=split_norms(optimizer),
            variants=split_norms(variants),
            steps=options.steps,
            preset=options.preset,
            margin=margin,
            baseline=baseline,
            precision=options.precision,
            device=options.device,
            compile=options.compile,
            devices_per_run=engine_options.devices_per_run,
            splits=splits,
            tune=tune,
            stack_seeds=engine_options.stack_seeds,
        )
        check_limits(study_spec, minutes=minutes, keep_going=keep_going)
        check_gate_arm(study_spec.labels(), study_spec.labels()[study_spec.baseline], gate_arm)
        check_engine(engine_options, gate=gate_exit, json=json_output, minutes=minutes is not None)
        console = open_console(stderr=json_output or engine_options.dry_run)
        folder = out if out is not None else default_folder(study_spec)
        study = StudyFolder(folder)
        check_folder(study_spec, study)
        before = states(known_runs(study_spec, study, keep_going=keep_going), study)
        open_trials = states(tuning_plan(study_spec), StudyFolder(folder / "tuning"))["open"] if tune else 0
        training = describe_training(study_spec, batches=False)
        console.print(
            f"{study_spec.question} {count(study_spec.arms, 'arm')} x {count(study_spec.seeds, 'seed')}"
            + (f" at most, looks at {', '.join(map(str, study_spec.looks.pairs))}" if study_spec.looks else "")
            + (f", {training} each" if training else "")
            + (f", {open_trials} tuning trials first" if open_trials else "")
            + (
                f"; {_finished(study_spec, study, before)} are already finished"
                if sum(before.values()) > before["open"]
                else ""
            )
            + f". Folder: {folder}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        is_needed = before["open"] or open_trials or (retry_failed and (before["failed"] or before["unscored"]))
        if is_needed and not engine_options.dry_run:
            with DownloadProgress(console) as downloads:
                for name in entry.datasets:
                    data_sets.locate(data_sets.SETS[name], progress=downloads)
        if engine_options.engine == "slurm":
            options_of_call = {"workers": options.workers, "retry_failed": retry_failed, "keep_going": keep_going}
            with sentences():
                submit_to_slurm(engine_options, study_spec, folder, console, **options_of_call)
            return
        with sentences(), StudyProgress(console) as progress:

            def callback(event: RunEvent) -> None:
                spec = event.spec
                if event.is_of_engine:
                    console.print(event.note, markup=False, highlight=False, soft_wrap=True)
                    return
                name = f"{spec.label} seed {spec.seed}"
                of = 0 if "steps" in spec.unknown else spec.recipe.steps
                progress.callback(spec.id, name, event.state, min(event.step, of), of=of, note=event.note)

            def after_look(summary: "Summary") -> None:
                assert summary.looks is not None
                progress.begin_look(summary.looks.reached + 1, summary.looks.pairs)
                if summary.looks.reached:
                    for table in look_tables(summary, width=console.width):
                        console.print(table)

            try:
                summary = run_study(
                    study_spec,
                    out=folder,
                    engine=make_engine(engine_options, study_spec, workers=options.workers),
                    callback=callback,
                    command=shell_words("normscope", *given()),
                    retry_failed=retry_failed,
                    minutes=minutes,
                    keep_going=keep_going,
                    leave_after=engine_options.leave_after,
                    after_look=after_look,
                )
            except KeyboardInterrupt:
                progress.progress.stop()
                # Console.print would replace tabs and names of emoji in the commands.
                ended = _finished(study_spec, study, states(known_runs(study_spec, study), study))
                console.out(
                    f"\nStopped; {ended} are finished; the others begin at their checkpoints in "
                    f"{folder}, or anew.\nResume with:  {as_typed(*given())}",
                    highlight=False,
                )
                if study.card.exists():
                    console.out(
                        f"See the results so far with:  {as_typed('report', as_argument(folder))}", highlight=False
                    )
                sys.exit(EXIT_INTERRUPTED)
        if json_output:
            print(json.dumps(summary.to_dict(), indent=1, allow_nan=False), file=output)
        else:
            print_summary(summary, console)
            is_late = summary.looks is not None and summary.looks.ended == "time"
            if is_late:
                console.out(f"The time is up. Go on with:  {as_typed(*given())}", highlight=False)
            if summary.complete or is_late:
                console.print(f"Report: {study.report}", markup=False, highlight=False, soft_wrap=True)
            else:
                words = f"Other processes compute the rest: {as_typed('status', as_argument(folder))}"
                console.out(words, highlight=False)
        _report_failures(summary, folder)
        if gate_exit:
            sys.exit(EXIT_CODES[gate([summary], gate_arm)])


def _finished(study_spec: "StudySpec", study: "StudyFolder", counts: Mapping[str, int]) -> str:
    """Describe how many runs have ended, such as ``3 of 20 runs``, with those of the tuning if there is any."""
    from normscope.results.store import StudyFolder
    from normscope.studies.compare import states
    from normscope.studies.tuning import tuning_plan

    parts = [(counts, "runs")]
    if study_spec.tune:
        parts.append((states(tuning_plan(study_spec), StudyFolder(study.path / "tuning")), "tuning trials"))
    return " and ".join(f"{sum(each.values()) - each['open']} of {sum(each.values())} {noun}" for each, noun in parts)


def _report_failures(summary: "Summary", folder: Path) -> None:
    """Print the number of runs without a value to standard error; exit with :data:`EXIT_ERROR` if it is all of them."""
    from normscope.results.verdict import FAILURES, LOST

    runs = [run for arm in (*summary.arms, *(summary.untuned or ())) for run in arm.runs]
    # A run may belong to a tuned and an untuned arm.
    ended = {run.id: run.state for run in runs}
    counts = {state: sum(each == state for each in ended.values()) for state in LOST}
    total = count(tuple(ended), "run")
    words = " and ".join(f"{many} of {total} {FAILURES[state]}" for state, many in counts.items() if many)
    if not words:
        return
    files = "result.json and error.txt" if counts["failed"] else "result.json"
    Console(stderr=True).print(
        f"{words}; the reasons are in {folder}/runs/*/{files}, and on the page; --retry-failed computes them again",
        style="red",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if sum(counts.values()) == len(ended):
        sys.exit(EXIT_ERROR)
