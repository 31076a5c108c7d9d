"""The Slurm engine: an array of jobs, each of which takes unfinished runs of a study until there are none."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from normscope.files import write_atomically
from normscope.results.store import StudyFolder
from normscope.studies.compare import StudyMismatch, check_folder, default_folder, known_runs, prepare, states
from normscope.studies.engines.engine import EngineError
from normscope.studies.lease import LEASE_SECONDS
from normscope.studies.plan import RunSpec
from normscope.studies.repeat import call_that_repeats, command_that_repeats
from normscope.studies.run import forget
from normscope.studies.spec import StudySpec
from normscope.studies.tuning import tuning_plan

__tracebackhide__ = True

MOST_JOBS = 16
"""Number of jobs if nobody says another; fewer if there are fewer runs."""

LEAVE_SECONDS = LEASE_SECONDS + 30
"""Time after which a worker ends whose remaining runs are all computed by others.

The lease of a dead worker expires earlier, so that its run is taken over before anybody ends.
"""

SIGNAL_SECONDS = 120
"""Time before the end of a job's time limit at which its workers are interrupted."""

_REFUSED = {
    "parsable": "it is always given",
    "test-only": "it submits nothing; --dry-run prints the script",
    "wait": "the command returns at once; `normscope status` says how far the study is",
    "wrap": "the script is that of the study",
}


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """What is asked of Slurm.

    Example:
        >>> from normscope.studies.engines.slurm import SlurmOptions
        >>> SlurmOptions(jobs=8, at_once=4, sbatch={"partition": "gpu", "time": "2:00:00"}).jobs
        8
    """

    jobs: int | None = None
    """Number of jobs in the array; if None, one per unfinished run and at most :data:`MOST_JOBS`."""
    at_once: int | None = None
    """Number of jobs of the array that may run at the same time; None for no limit."""
    workers: int = 1
    """Number of worker processes per job, each on a core of its own."""
    sbatch: Mapping[str, str | None] = field(default_factory=dict)
    """Further options of ``sbatch`` by their long names, such as ``{"partition": "gpu"}``; None for one without a
    value. They replace those of the script."""
    leave_after: float = LEAVE_SECONDS
    """Seconds after which a worker ends if others compute all runs that are left."""

    def __post_init__(self) -> None:
        for name in ("jobs", "at_once", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for key, value in self.sbatch.items():
            if not re.fullmatch("[a-z][a-z0-9-]+", key):
                raise ValueError(f"an option of sbatch has a long name such as partition or gpus-per-task, got {key!r}")
            if key in _REFUSED:
                raise ValueError(f"the option {key} of sbatch is not possible: {_REFUSED[key]}")
            if value is not None and not value.isprintable():
                raise ValueError(f"the option {key} of sbatch must be printable, in one line, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A study that Slurm computes."""

    job: str
    """Number of the job array."""
    folder: Path
    """Folder of the study."""
    script: Path
    """The script that was submitted."""


def submit(
    study_spec: StudySpec,
    out: Path | None = None,
    options: SlurmOptions | None = None,
    *,
    command: str | None = None,
    retry_failed: bool = False,
    keep_going: bool = False,
) -> Submission:
    """Check a study as :func:`normscope.compare` does before the first run, and submit jobs that compute it.

    It returns when Slurm has taken the jobs. Each job takes unfinished runs until there are none; the last one writes
    the summary and the page. At the end of its time limit, or when it is preempted, it writes checkpoints and returns
    to the queue. A job whose node fails is started again by Slurm.

    Args:
        study_spec: Specification of the study.
        out: Its folder, on a file system that all nodes share; ``runs/<task>-<hash>`` if None.
        options: What is asked of Slurm.
        command: Command that repeats the study, shown in the report; a line of Python if None.
        retry_failed: Whether failed runs are deleted and computed again.
        keep_going: Whether arms of a study with looks continue even if a decision is unlikely.

    Raises:
        StudyMismatch: If the folder belongs to another study, or has files of another program.
        ValueError: If an option does not go with another one.
        EngineError: If there is no ``sbatch`` here, or it refuses the script; the message has its words.
    """
    options = options or SlurmOptions()
    folder = StudyFolder(default_folder(study_spec) if out is None else Path(out))
    text = script(study_spec, folder.path, options, keep_going=keep_going)
    if shutil.which("sbatch") is None:
        raise EngineError(
            "there is no sbatch here, so nothing can be submitted to Slurm: give the command on a login node of the "
            "cluster, or use another engine"
        )
    path, logs = _files(folder)
    check_folder(study_spec, folder)
    conflict = next((each for each in (path, logs) if each.exists() or each.is_symlink()), None)
    if conflict is not None and not folder.card.exists():
        raise StudyMismatch(f"{conflict} exists, but no card.json that identifies its study: choose another folder")
    command = command or call_that_repeats(study_spec, out)
    prepare(study_spec, folder, command, retry_failed=retry_failed, keep_going=keep_going, elsewhere=True)
    if retry_failed:
        for specs, study in _parts(study_spec, folder, keep_going=keep_going):
            for spec in specs:
                forget(spec, study)
    logs.mkdir(exist_ok=True)
    write_atomically(path, text.encode("utf-8", "surrogateescape"))
    done = subprocess.run(
        ["sbatch", "--parsable", str(path.absolute())], capture_output=True, text=True, errors="replace", check=False
    )
    # A federation appends the name of the cluster to the number, and plug-ins may print lines before it.
    number = (done.stdout.strip().splitlines() or [""])[-1].partition(";")[0]
    if done.returncode or not number.isdecimal():
        said = (done.stderr or done.stdout).strip() or "nothing"
        raise EngineError(f"sbatch did not take {path} (exit status {done.returncode}); it said: {said}")
    return Submission(job=number, folder=folder.path, script=path)


def script(study_spec: StudySpec, out: Path, options: SlurmOptions, *, keep_going: bool = False) -> str:
    """Write the script of a study for ``sbatch``; nothing is checked or written on disk.

    Args:
        study_spec: Specification of the study.
        out: Folder of the study.
        options: What is asked of Slurm.
        keep_going: Whether arms of a study with looks continue even if a decision is unlikely.

    Raises:
        ValueError: If the folder cannot be the name of a log file, or the time limit is shorter than its signal.
    """
    folder = StudyFolder(out.absolute())
    _, logs = _files(folder)
    if "\\" in str(logs) or not str(logs).isprintable():
        raise ValueError(f"Slurm needs a folder whose name is printable and has no backslash, got {str(logs)!r}")
    jobs = options.jobs or max(
        1, min(MOST_JOBS, -(-_open(study_spec, folder, keep_going=keep_going) // options.workers))
    )
    asked: dict[str, str | None] = {
        "job-name": f"normscope-{folder.path.name}",
        "array": f"0-{jobs - 1}" + (f"%{options.at_once}" if options.at_once else ""),
        "cpus-per-task": str(options.workers),
        **({"gres": "gpu:1"} if study_spec.device.startswith("cuda") else {}),
        "signal": f"B:USR1@{SIGNAL_SECONDS}",
        "requeue": None,
        "open-mode": "append",
        # In names of files Slurm replaces %A and %a.
        "output": f"{logs}/".replace("%", "%%") + "%A_%a.log",
        "chdir": str(Path.cwd()),
        **options.sbatch,
    }
    _check_time(asked)
    lines = [f"#SBATCH --{key}" + ("" if value is None else f"={_quoted(value)}") for key, value in asked.items()]
    kept = {
        name: value
        for name, value in sorted(os.environ.items())
        if name == "PYTHONPATH" or (name.startswith("NORMSCOPE_") and name != "NORMSCOPE_STARTED_AS")
    }
    return _SCRIPT.format(
        options="\n".join(lines),
        exports="".join(f"export {name}={shlex.quote(value)}\n" for name, value in kept.items()),
        command=shlex.join([sys.executable, "-P", *_worker(study_spec, folder.path, options, keep_going=keep_going)]),
    )


_SCRIPT = """#!/bin/bash
{options}

# Every job of the array takes unfinished runs of the study until there are none. For more of them submit it again.
{exports}
# Slurm sends USR1 before the end of the time limit (--signal), and TERM when it preempts the job: the worker writes its
# checkpoints and ends, and the job returns to the queue. A job that was cancelled does not.
stop=
trap 'stop=1; kill -TERM "$worker" 2>/dev/null' USR1 TERM
{command} &
worker=$!
[ -z "$stop" ] || kill -TERM "$worker"
wait "$worker"
status=$?
while kill -0 "$worker" 2>/dev/null; do
    wait "$worker"
    status=$?
done
if [ -n "$stop" ] && [ "$status" -ne 0 ]; then
    # The number of the job alone may be that of the whole array.
    task="${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
    case "$(scontrol show job "$task")" in
    *JobState=RUNNING* | *Reason=TimeLimit*) scontrol requeue "$task" ;;
    esac
fi
exit "$status"
"""


def _worker(study_spec: StudySpec, out: Path, options: SlurmOptions, *, keep_going: bool) -> list[str]:
    """Return the arguments of Python that compute a study: a command line, or a call where it lacks an option."""
    words = command_that_repeats(study_spec)
    more = {"workers": options.workers, "leave_after": options.leave_after}
    if words is not None:
        flags = [f"--{name.replace('_', '-')}={value:g}" for name, value in more.items()]
        return ["-m", "normscope", *words, f"--out={out}", *flags, *(["--keep-going"] if keep_going else [])]
    call = call_that_repeats(study_spec, out, **more, **({"keep_going": True} if keep_going else {}))
    return ["-c", f"import signal, normscope; signal.signal(signal.SIGTERM, signal.default_int_handler); {call}"]


def _files(folder: StudyFolder) -> tuple[Path, Path]:
    return folder.path / "slurm.sh", folder.path / "slurm"


def _parts(
    study_spec: StudySpec, folder: StudyFolder, *, keep_going: bool
) -> Iterator[tuple[list[RunSpec], StudyFolder]]:
    """Yield the runs of each stage with their folder; the tuning is a stage of its own."""
    yield known_runs(study_spec, folder, keep_going=keep_going), folder
    if study_spec.tune:
        yield tuning_plan(study_spec), StudyFolder(folder.path / "tuning")


def _open(study_spec: StudySpec, folder: StudyFolder, *, keep_going: bool) -> int:
    """Return the largest number of runs that can be computed at the same time: those of one stage."""
    return max(states(specs, study)["open"] for specs, study in _parts(study_spec, folder, keep_going=keep_going))


def _quoted(value: str) -> str:
    """Return a value as sbatch reads it in a script: in quotes, within which a backslash still escapes."""
    if re.fullmatch("[A-Za-z0-9_./:@%,=+-]+", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _check_time(asked: Mapping[str, str | None]) -> None:
    """Check that jobs run before their signal comes, which Slurm may send a minute early.

    Raises:
        ValueError: If they do not: they would be interrupted at once, and return to the queue for ever.
    """
    lead = re.fullmatch(r"(?:[BR]+:)?\w+@(\d+)", asked["signal"] or "")
    limit = _seconds(asked.get("time") or "")
    if lead is not None and limit is not None and limit <= int(lead[1]) + 60:
        raise ValueError(
            f"time={asked['time']} is {limit} s, and the signal {asked['signal']} may come {int(lead[1]) + 60} s "
            "before its end: ask for more time, or for a later signal, such as signal=B:USR1@30"
        )


def _seconds(text: str) -> int | None:
    """Return the seconds of a time limit, such as ``30`` (minutes), ``1:30:00`` or ``2-12``; None if it has none."""
    form = re.fullmatch(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?|(\d+)(?::(\d+))?(?::(\d+))?)", text)
    if form is None:
        return None
    days, hours, minutes, seconds, first, second, third = (
        None if each is None else int(each) for each in form.groups()
    )
    if days is not None:
        return ((days * 24 + (hours or 0)) * 60 + (minutes or 0)) * 60 + (seconds or 0)
    if third is not None:
        return ((first or 0) * 60 + (second or 0)) * 60 + third
    return (first or 0) * 60 + (second or 0)
