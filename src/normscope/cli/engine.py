"""The options of ``compare`` that say what computes the runs of a study."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from normscope.cli.parsing import as_argument, as_typed, given, shell_words

if TYPE_CHECKING:
    from rich.console import Console

    from normscope.studies import StudySpec
    from normscope.studies.engines.engine import Engine


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What computes the runs."""

    engine: Annotated[
        Literal["local", "slurm", "ray"],
        Parameter(
            help="local: worker processes on this machine; slurm: submit jobs that share the runs, and return at once; "
            "ray: the nodes of an existing Ray cluster"
        ),
    ] = "local"
    jobs: Annotated[
        int | None,
        Parameter(help="slurm: number of jobs, each with --workers processes; default: one per run, 16 at most"),
    ] = None
    jobs_at_once: Annotated[int | None, Parameter(help="slurm: number of them that may run at the same time")] = None
    sbatch: Annotated[
        tuple[str, ...],
        Parameter(
            help="slurm: option of sbatch, such as --sbatch partition=gpu --sbatch time=2:00:00; can be repeated"
        ),
    ] = ()
    dry_run: Annotated[bool, Parameter(help="slurm: print the script of the jobs, and neither write nor submit it")] = (
        False
    )
    leave_after: Annotated[
        float | None,
        Parameter(
            help="end when others have computed all remaining runs for this many seconds; default: wait for them"
        ),
    ] = None
    address: Annotated[
        str | None,
        Parameter(help="ray: HOST:PORT of the cluster, as `ray start --head` prints it; no other one is used"),
    ] = None
    cpus_per_run: Annotated[float | None, Parameter(help="ray: CPUs that a run reserves; default: 1")] = None
    gpus_per_run: Annotated[
        float | None, Parameter(help="ray: GPUs that a run reserves, such as 0.5; default: 0, or 1 with --device")
    ] = None
    shared_folder: Annotated[
        bool | None,
        Parameter(
            help="ray: whether the nodes see the study's folder; if not, the files come back through Ray; "
            "default: each node looks"
        ),
    ] = None


DEFAULT_ENGINE = EngineOptions()

_OPTIONS = {
    "slurm": ("jobs", "jobs_at_once", "sbatch", "dry_run"),
    "ray": ("address", "cpus_per_run", "gpus_per_run", "shared_folder"),
}
"""Options that belong to one engine."""


def check_engine(options: EngineOptions, **given: bool) -> None:
    """Check that options of the command line go with the engine.

    Args:
        options: Those of the engine.
        given: Whether others are given that only a command can follow that waits for the results.

    Raises:
        ValueError: If they do not.
    """
    for engine, names in _OPTIONS.items():
        for name in names:
            if options.engine != engine and getattr(options, name) not in (None, False, ()):
                raise ValueError(f"--{name.replace('_', '-')} is for --engine {engine}; the engine is {options.engine}")
    for name, is_given in given.items():
        if options.engine == "slurm" and is_given:
            raise ValueError(f"--{name} is not possible with --engine slurm, which returns before the first run")


def make_engine(options: EngineOptions, study_spec: "StudySpec", *, workers: int | None) -> "Engine":
    """Build the engine that the options name.

    Args:
        options: Options of the command line.
        study_spec: Study whose runs it computes.
        workers: Number of processes, or of runs at a time; one per core, or as many as a cluster has room for, if None.

    Raises:
        ValueError: If an option is out of range.
    """
    if options.engine == "ray":
        from normscope.studies.engines.ray import RayEngine

        gpus = 0.0 if study_spec.device == "cpu" else 1.0
        return RayEngine(
            address=options.address or "",
            cpus_per_run=1 if options.cpus_per_run is None else options.cpus_per_run,
            gpus_per_run=gpus if options.gpus_per_run is None else options.gpus_per_run,
            at_most=workers,
            shared=options.shared_folder,
        )
    from normscope.studies.compare import default_workers
    from normscope.studies.engines.local import LocalEngine

    return LocalEngine(workers=default_workers(study_spec) if workers is None else workers)


def submit_to_slurm(
    options: EngineOptions,
    study_spec: "StudySpec",
    folder: Path,
    console: "Console",
    *,
    workers: int | None,
    retry_failed: bool,
    keep_going: bool,
) -> None:
    """Submit a study to Slurm and print how to follow it; with ``--dry-run`` print the script instead.

    Args:
        options: Options of the command line.
        study_spec: The study.
        folder: Its folder.
        console: Console to print on.
        workers: Number of processes per job; 1 if None.
        retry_failed: Whether failed runs are computed again.
        keep_going: Whether arms of a study with looks continue even if a decision is unlikely.

    Raises:
        ValueError: If an option is out of range.
    """
    from normscope.studies.engines.slurm import LEAVE_SECONDS, SlurmOptions, script, submit

    pairs = [text.partition("=") for text in options.sbatch]
    slurm = SlurmOptions(
        jobs=options.jobs,
        at_once=options.jobs_at_once,
        workers=1 if workers is None else workers,
        sbatch={key.removeprefix("--"): value if equals else None for key, equals, value in pairs},
        leave_after=LEAVE_SECONDS if options.leave_after is None else options.leave_after,
    )
    if options.dry_run:
        print(script(study_spec, folder, slurm, keep_going=keep_going), end="")
        return
    command = shell_words("normscope", *given())
    submission = submit(study_spec, folder, slurm, command=command, retry_failed=retry_failed, keep_going=keep_going)
    console.out(
        f"Submitted as job {submission.job} of Slurm: {submission.script}\n"
        f"See how far it is with:   {as_typed('status', as_argument(folder))}\n"
        f"See the results so far with:  {as_typed('report', as_argument(folder))}",
        highlight=False,
    )
