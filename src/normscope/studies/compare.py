"""Run a study: check its folder, compute the missing runs, and write the summary and the report."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack

from normscope import data
from normscope.arguments import check_arguments
from normscope.errors import NormscopeError
from normscope.files import leftovers, write_atomically
from normscope.report import write_report
from normscope.results import Summary, summarize
from normscope.results.schema import FINAL_STATES
from normscope.results.store import LeaseLost, StudyFolder, to_json
from normscope.results.summary import runs_to_look
from normscope.specs import find_task
from normscope.studies.deadline import Deadline, LeftToOthers, TimeIsUp, check_limits
from normscope.studies.engines.devices import check_device
from normscope.studies.engines.engine import Engine, EngineError, RunEvent
from normscope.studies.engines.sizing import local_engine
from normscope.studies.lease import Lease, is_marker, wait_for
from normscope.studies.options import StudyOptions
from normscope.studies.plan import RunSpec, plan, record
from normscope.studies.preflight import preflight
from normscope.studies.repeat import call_that_repeats
from normscope.studies.run import forget
from normscope.studies.spec import StudySpec, make_study
from normscope.studies.tuning import tune, tuning_plan

__tracebackhide__ = True


class StudyMismatch(NormscopeError, ValueError):
    """The folder belongs to another study, or to another program."""


def default_folder(study_spec: StudySpec) -> Path:
    """Return ``runs/<task>-<hash>``; for a custom task, ``runs/my_file-make-<hash>``."""
    return Path("runs") / f"{study_spec.task_name.replace('.py:', '-')}-{study_spec.id}"


@check_arguments
def compare(
    study: StudySpec | str,
    *,
    out: Path | None = None,
    workers: int | None = None,
    workers_per_device: int | Literal["auto"] | None = None,
    engine: Engine | None = None,
    callback: Callable[[RunEvent], None] | None = None,
    command: str | None = None,
    retry_failed: bool = False,
    minutes: float | None = None,
    keep_going: bool = False,
    leave_after: float | None = None,
    after_look: Callable[[Summary], None] | None = None,
    **options: Unpack[StudyOptions],
) -> Summary:
    """Run a study: plan its runs, compute the missing ones, and compare the arms.

    Finished runs in the folder are reused; no run is computed twice.

    Args:
        study: The specification that :func:`make_study` returns, or the name of a task, with ``options``.
        out: The study's folder; ``runs/<task>-<hash>`` if None.
        workers: Number of processes of the local engine in all.
        workers_per_device: Number of processes on each device, or ``"auto"`` to add some while that makes the study
            faster; if neither is given, one per core of a CPU, and ``"auto"`` for CUDA.
        engine: Engine that computes the runs; the local engine if None.
        callback: Called with one event per run at the beginning, and then at each progress or change of state.
        command: Command that repeats the study, shown in the report; a line of Python if None.
        retry_failed: Whether failed runs are deleted and computed again.
        minutes: Time after which a study with looks stops; the same call resumes it. None for no limit.
        keep_going: Whether arms of a study with looks continue even if a decision is unlikely.
        leave_after: Seconds after which this call returns if other processes compute all runs that are left; the last
            of them writes the summary. None to wait for them. It always waits where more runs follow: for the tuning,
            and for every look but the last.
        after_look: Called with the summary of a study with looks before the runs of each look; the summary after the
            last look is returned.
        options: Arguments of :func:`make_study`, such as ``norms=["layer_norm", "rms_norm"], seeds=10``; only with
            the name of a task.

    Returns:
        The summary, also written to ``summary.json`` and ``summary.csv``, with the page ``report.html``, in the folder.

    Raises:
        TypeError: If ``study`` is neither a ``StudySpec`` nor a string, or a ``StudySpec`` comes with options.
        UnknownName: If a name is not registered.
        LookupError: If a user's file or its function does not exist.
        UserCodeError: If a user's file fails.
        ValueError: If an option is out of range.
        StudyMismatch: If the folder belongs to another study, or has files of another program.
        DataNotFound: If the data set is missing and cannot be downloaded.
        DataDamaged: If a file of the data set has the wrong hash.
        ArmMisfit: If an arm cannot be trained on the task; checked before the first run.
        EngineError: If the device does not exist, or the workers cannot start.
        KeyboardInterrupt: If the user interrupts it; the same call resumes the study.

    Example:
        >>> import normscope
        >>> study = normscope.make_study("digits", norms=["layer_norm", "rms_norm"], seeds=10)
        >>> len(study.arms) * len(study.seeds)  # runs, which take minutes; docs/tutorials/first-comparison.md has them
        20
        >>> summary = normscope.compare(study)  # doctest: +SKIP
    """
    if isinstance(study, str):
        study = make_study(study, **options)
    elif not isinstance(study, StudySpec):
        raise TypeError(
            f"expected a StudySpec, as normscope.make_study() builds it, or the name of a task, got {study!r}"
        )
    elif options:
        raise TypeError(f"options are only allowed with the name of a task, got a StudySpec and {', '.join(options)}")
    check_limits(study, minutes=minutes, keep_going=keep_going)
    folder = StudyFolder(default_folder(study) if out is None else Path(out))
    engine = engine or local_engine(study, workers=workers, workers_per_device=workers_per_device)
    at_a_time: int = getattr(engine, "workers", 1)
    command = command or call_that_repeats(study, out)
    deadline = Deadline(callback or (lambda event: None), minutes, leave_after)
    after_look = after_look or (lambda summary: None)
    try:
        specs = _prepare(study, folder, engine, deadline, command, retry_failed=retry_failed, keep_going=keep_going)
        if study.looks is None:
            deadline.may_leave = True
            engine.run(specs, folder, deadline)
            return _conclude(folder, at_a_time)
        while needed := set(runs_to_look(folder.path, keep_going=keep_going)):
            summary = _conclude(folder, at_a_time)
            after_look(summary)
            deadline.may_leave = summary.looks is not None and summary.looks.reached + 1 == len(summary.looks.pairs)
            following = [spec for spec in specs if spec.id in needed]
            if not following:
                # Another process has changed the plan meanwhile.
                break
            _begin(following, folder, deadline, retry_failed=False)
            engine.run(following, folder, deadline)
    except LeftToOthers:
        # Whoever computes the last run writes the summary; this one would be older than theirs.
        return summarize(folder.path, workers=at_a_time)
    except TimeIsUp:
        summary = _conclude(folder, at_a_time)
        if summary.looks is not None and summary.looks.ended is None:
            summary = replace(summary, looks=replace(summary.looks, ended="time"))
            summary.write(folder.path)
            write_report(folder.path)
        return summary
    return _conclude(folder, at_a_time)


def _conclude(study: StudyFolder, workers: int) -> Summary:
    """Write the summary and the report of a study."""
    summary = summarize(study.path, workers=workers)
    summary.write(study.path)
    write_report(study.path)
    return summary


def _prepare(
    study_spec: StudySpec,
    study: StudyFolder,
    engine: Engine,
    callback: Callable[[RunEvent], None],
    command: str,
    *,
    retry_failed: bool,
    keep_going: bool = False,
) -> list[RunSpec]:
    """Check the folder, write the specification, and tune; return the runs."""
    shared = prepare(study_spec, study, command, retry_failed=retry_failed, keep_going=keep_going)
    tuned = tuning = None
    if study_spec.tune:
        _begin(tuning_plan(study_spec), StudyFolder(study.path / "tuning"), callback, retry_failed=retry_failed)
        _begin(known_runs(study_spec, study), study, callback, retry_failed=retry_failed)
        tuning = tune(study_spec, study, engine, callback)
        tuned = study_spec.with_learning_rates({label: arm["chosen"] for label, arm in tuning["arms"].items()})
        content = record(study_spec, command=command, tuned=tuned, tuning=tuning)
        _write_specification(study_spec, study, {**content, "shared": shared})
    _begin(known_runs(study_spec, study), study, callback, retry_failed=retry_failed)
    return planned(study_spec, tuned)


def prepare(
    study_spec: StudySpec,
    study: StudyFolder,
    command: str,
    *,
    retry_failed: bool,
    keep_going: bool = False,
    elsewhere: bool = False,
) -> list[str]:
    """Check that a study can be computed in a folder, and write its card there.

    Args:
        study_spec: Specification of the study.
        study: Its folder.
        command: Command that repeats the study.
        retry_failed: Whether failed runs are to be computed again.
        keep_going: Whether arms of a study with looks continue even if a decision is unlikely.
        elsewhere: Whether other machines compute the runs; the arms are tried on a CPU if this one lacks the device.

    Returns:
        What :func:`preflight` returns.

    Raises:
        StudyMismatch: If the folder belongs to another study, or has files of another program.
        EngineError: If the device does not exist here, and the runs are to be computed here.
    """
    check_folder(study_spec, study)
    shared: list[str] = []
    before = states(known_runs(study_spec, study, keep_going=keep_going), study)
    if before["open"] or (retry_failed and (before["failed"] or before["unscored"])):
        tried = study_spec
        try:
            check_device(study_spec.device, study_spec.devices_per_run)
        except EngineError:
            if not elsewhere:
                raise
            tried = replace(study_spec, device="cpu")
        for name in find_task(study_spec.task).datasets:
            data.locate(data.SETS[name])
        shared = preflight(tried)
    content = record(study_spec, command=command, tuned=None, tuning=None)
    _write_specification(study_spec, study, {**content, "shared": shared})
    return shared


def planned(study_spec: StudySpec, tuned: StudySpec | None) -> list[RunSpec]:
    """List the untuned and the tuned runs without duplicates; they coincide if the tuned rate is the task's."""
    sides = [side for side in (study_spec, tuned) if side is not None]
    return list({spec.id: spec for side in sides for spec in plan(side)}.values())


def known_runs(study_spec: StudySpec, study: StudyFolder, *, keep_going: bool = False) -> list[RunSpec]:
    """List the runs of a study in a folder: with the tuned learning rates, if they have been chosen there.

    Of a study with looks, those that have ended and those that its next look needs.
    """
    card = study.read_card() if study.card.exists() else {}
    tuning = card.get("tuning")
    rates = {label: arm["chosen"] for label, arm in (tuning or {"arms": {}})["arms"].items()}
    specs = planned(study_spec, study_spec.with_learning_rates(rates) if rates else None)
    if study_spec.looks is None:
        return specs
    first = study_spec.seeds[: study_spec.looks.pairs[0]]
    needed = {spec.id for spec in specs if spec.seed in first}
    if card.get("id") == study_spec.id:
        needed = set(runs_to_look(study.path, keep_going=keep_going))
    needed |= {identity for identity in study.begun() if study.run(identity).finished()}
    return [spec for spec in specs if spec.id in needed]


def check_folder(study_spec: StudySpec, study: StudyFolder) -> None:
    """Check that a folder is new, or belongs to this study, and that no other file would be overwritten.

    Raises:
        StudyMismatch: If it is a file, belongs to another study, or has a file that the study would overwrite.
        ValueError: If its ``card.json`` was not written by normscope.
    """
    files = [path for path in (study.path, *study.path.parents) if path.exists() and not path.is_dir()]
    if files:
        raise StudyMismatch(f"{files[0]} is a file; a study needs a folder")
    if not study.card.exists():
        _refuse_files(study)
        return
    existing = study.read_card()
    if existing.get("id") == study_spec.id or _adds_seeds(study_spec, existing):
        return
    same_task, revision = existing.get("task") == study_spec.task_name, find_task(study_spec.task).revision
    changed = same_task and existing.get("task_revision") not in (None, revision)
    raise StudyMismatch(
        f"{study.path} holds another study ({existing.get('question')!r}, {existing.get('id')}); this one is "
        f"{study_spec.id}"
        + (f", because {study_spec.task_name} has changed since" if changed else "")
        + ": choose another folder with --out, or use the same options as before; "
        + ("a tuned study takes no more seeds" if study_spec.tune else "only more seeds may be added")
    )


def _refuse_files(study: StudyFolder) -> None:
    """Check that a folder without ``card.json`` has no file that a study would overwrite.

    Raises:
        StudyMismatch: If it has such a file.
    """
    names = [study.summary, study.table, study.report, study.workers_log]
    # A process that was killed before it wrote card.json leaves its lease.
    names += [study.lease] if study.lease.exists() and not is_marker(study.lease) else []
    conflict = next((path for path in names if path.exists() or path.is_symlink()), None)
    if conflict is not None:
        raise StudyMismatch(
            f"{conflict} exists, but no card.json that identifies its study; the file was not changed: choose another "
            "folder with --out"
        )


def _adds_seeds(study_spec: StudySpec, existing: Mapping[str, Any]) -> bool:
    """Check whether an untuned study differs from the folder's only by additional seeds."""
    wanted = record(study_spec, command="", tuned=None, tuning=None)
    same = all(existing.get(key, value) == value for key, value in wanted.items() if key not in _SEED_FIELDS)
    arms = [[{**arm, "runs": None} for arm in side["arms"]] for side in (wanted, existing)]
    # Cards from before there was a choice of splits do not have it; what some cards lack must be lacking in both.
    same = same and existing.get("splits", "published") == study_spec.splits
    same = same and all(existing.get(key) == wanted.get(key) for key in ("targets", "stack_seeds"))
    return same and not study_spec.tune and arms[0] == arms[1] and set(existing["seeds"]) < set(study_spec.seeds)


_SEED_FIELDS = ("id", "seeds", "looks", "continues", "changes", "arms", "command", "regime", "generalizes", "failure")
"""Fields of card.json that depend on the seeds, or only describe."""


def _write_specification(study_spec: StudySpec, study: StudyFolder, content: Mapping[str, Any]) -> None:
    """Write ``card.json`` to a new folder, or add the tuning or more seeds to an existing one.

    If a result exists when the plan is completed or changed, ``changes`` records how many seeds the plan had before.

    Raises:
        StudyMismatch: If the folder belongs to another study.
    """
    study.path.mkdir(parents=True, exist_ok=True)
    while True:
        with wait_for(study.lease) as lease, suppress(LeaseLost):
            for leftover in leftovers(study.card):
                leftover.unlink(missing_ok=True)
            check_folder(study_spec, study)
            _write_card(study_spec, study, content, lease)
            return


def _write_card(study_spec: StudySpec, study: StudyFolder, content: Mapping[str, Any], lease: Lease) -> None:
    existing = study.read_card() if study.card.exists() else {}
    same_plan = existing.get("id") == study_spec.id
    if same_plan and content["tuning"] in (None, existing.get("tuning")):
        return
    changes = [*existing.get("changes", [])]
    is_first_tuning = same_plan and existing.get("tuning") is None
    named = {
        identity
        for arm in (*existing.get("arms", []), *content["arms"])
        for identity in (arm.get("runs") or {}).values()
    }
    if not is_first_tuning and any(study.run(identity).finished() for identity in named & {*study.begun()}):
        continues = (
            None if same_plan or changes or study_spec.looks is None else _looks_seen(existing, study_spec, study)
        )
        changes += [] if continues else [len(existing.get("seeds", []))]
        content = {**content, **({"continues": continues} if continues else {})}
    command = existing["command"] if same_plan else content["command"]
    content = {**content, **({"changes": changes} if changes else {}), "command": command}
    write_atomically(study.card, to_json(content), check=lease.check)


def _looks_seen(card: Mapping[str, Any], study_spec: StudySpec, study: StudyFolder) -> dict[str, Any] | None:
    """Return the looks of a card with the last one reached, or None if its plan cannot be continued from there.

    It cannot if that look is none of them or the maximum, if a later run has ended, whose result may have been the
    reason for the change, if its seeds are not the first ones of the new plan, or if it was changed before.
    """
    looks = None if card.get("continues") or not card.get("looks") else summarize(study.path).looks
    if looks is None or not 0 < looks.reached < len(looks.pairs):
        return None
    seeds, seen = card["seeds"], looks.pairs[looks.reached - 1]
    later = [arm["runs"][str(seed)] for arm in card["arms"] for seed in seeds[seen:]]
    if any(study.run(identity).finished() for identity in later) or seeds != [*study_spec.seeds[: len(seeds)]]:
        return None
    return {**card["looks"], "seen": seen}


def _begin(
    specs: list[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None], *, retry_failed: bool
) -> None:
    """Report the state of every run before the engine starts; with ``retry_failed``, first delete failed runs."""
    ended = study.states(spec.id for spec in specs)
    for spec in specs:
        state = ended[spec.id]
        if retry_failed and state in ("failed", "unscored"):
            forget(spec, study)
            state = study.run(spec.id).state()
        callback(RunEvent(spec=spec, state=state or "planned", step=spec.recipe.steps if state else 0))


def states(specs: list[RunSpec], study: StudyFolder) -> dict[str, int]:
    """Return the number of runs per final state; ``"open"`` counts runs without a result."""
    counts = Counter(state or "open" for state in study.states(spec.id for spec in specs).values())
    return {state: counts[state] for state in (*FINAL_STATES, "open")}
