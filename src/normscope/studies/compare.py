"""A study from its question to its answer."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Unpack

import torch
from filelock import FileLock

from normscope import data
from normscope.report import write_report
from normscope.results import Summary, summarize
from normscope.results.schema import FINAL_STATES
from normscope.results.store import StudyFolder, write_json
from normscope.specs import find_task
from normscope.studies.engines.engine import Engine, EngineError, RunEvent
from normscope.studies.engines.local import LocalEngine
from normscope.studies.plan import RunSpec, plan, record
from normscope.studies.preflight import preflight
from normscope.studies.run import forget
from normscope.studies.spec import StudyOptions, StudySpec, make_study
from normscope.studies.tuning import tune, tuning_plan

__tracebackhide__ = True


class StudyMismatch(ValueError):
    """The folder holds the answer to another question."""


def default_folder(card: StudySpec) -> Path:
    """Give ``runs/<task>-<hash>``; of a user's file its name, ``runs/my_file-make-<hash>``."""
    return Path("runs") / f"{card.task_name.replace('.py:', '-')}-{card.id}"


def default_workers(card: StudySpec) -> int:
    """Give one worker a core that this process may use, or a single one for an accelerator."""
    if torch.device(card.device).type != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compare(
    study: StudySpec | str,
    *,
    out: Path | None = None,
    workers: int | None = None,
    engine: Engine | None = None,
    callback: Callable[[RunEvent], None] | None = None,
    command: str | None = None,
    retry_failed: bool = False,
    **options: Unpack[StudyOptions],
) -> Summary:
    """Answer a study's question: plan its runs, compute those that are missing, and judge them.

    The folder may hold a part of the study, or all of it: no run is computed twice.

    Args:
        study: The question, as :func:`make_study` builds it; or the name of a task, with ``options``.
        out: The study's folder; ``runs/<task>-<hash>`` where None.
        workers: Processes of the local engine; one per core where None.
        engine: Computes the runs; the local engine where None.
        callback: Called with an event for every run at the beginning, and whenever a run changes its state.
        command: The command that the report shows for making the study again; a line of Python where None.
        retry_failed: Whether runs that failed are computed anew; their results are deleted.
        options: Arguments of :func:`make_study`, such as ``norms=["layer_norm", "rms_norm"], seeds=10``; only with
            the name of a task.

    Returns:
        The answer, which is also written to ``summary.json``, ``summary.csv`` and ``report.html`` in the folder.

    Raises:
        TypeError: If ``study`` is neither a ``StudySpec`` nor a string, or a ``StudySpec`` comes with options.
        UnknownName: If a name is not registered.
        ValueError: If an option is out of range.
        StudyMismatch: If the folder holds another study.
        DataNotFound: If the data set is not here and cannot be downloaded.
        DataDamaged: If one of its files is not the published one.
        ArmMisfit: If an arm cannot be trained on the task; checked before the first run.
        EngineError: If runs cannot be computed here: no such device, workers that do not start.
        KeyboardInterrupt: If the user stopped it; the same call goes on.

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
        raise TypeError(f"expected a StudySpec, as normscope.make_study() builds it, or a task's name, got {study!r}")
    elif options:
        raise TypeError(f"a StudySpec has its options already, got {', '.join(options)} beside it")
    return _answer(study, out, workers, engine, callback, command, retry_failed=retry_failed)


def _answer(
    card: StudySpec,
    out: Path | None,
    workers: int | None,
    engine: Engine | None,
    callback: Callable[[RunEvent], None] | None,
    command: str | None,
    *,
    retry_failed: bool,
) -> Summary:
    study = StudyFolder(default_folder(card) if out is None else Path(out))
    engine = engine or LocalEngine(workers=default_workers(card) if workers is None else workers)
    callback = callback or (lambda event: None)
    command = command or f"normscope.compare({card!r})"
    check_folder(card, study)
    before = states(plan(card), study)
    if before["open"] or (retry_failed and before["failed"]):
        _find_device(card.device)
        for name in find_task(card.task).datasets:
            data.locate(data.SETS[name])
        preflight(card)
    _write_card(card, study, record(card, command=command, tuned=None, tuning=None))
    tuned = tuning = None
    if card.tune:
        _begin(tuning_plan(card), StudyFolder(study.path / "tuning"), callback, retry_failed=retry_failed)
        _begin(plan(card), study, callback, retry_failed=retry_failed)
        tuning = tune(card, study, engine, callback)
        tuned = card.with_learning_rates({label: arm["chosen"] for label, arm in tuning["arms"].items()})
        _write_card(card, study, record(card, command=command, tuned=tuned, tuning=tuning))
    specs = planned(card, tuned)
    _begin(specs, study, callback, retry_failed=retry_failed)
    engine.run(specs, study, callback)
    summary = summarize(study.path)
    summary.write(study.path)
    write_report(study.path)
    return summary


def planned(card: StudySpec, tuned: StudySpec | None) -> list[RunSpec]:
    """List the runs of a verdict, each once: an arm whose tuned rate is the task's is one arm."""
    return list({spec.id: spec for one in (card, tuned) if one is not None for spec in plan(one)}.values())


def check_folder(card: StudySpec, study: StudyFolder) -> None:
    """Refuse a folder that cannot be this study's, or in which it would take the place of somebody's files.

    Raises:
        StudyMismatch: If it is a file, holds another study, or files that are not a study's have the names of ours.
        ValueError: If its ``card.json`` is no file of ours.
    """
    files = [path for path in (study.path, *study.path.parents) if path.exists() and not path.is_dir()]
    if files:
        raise StudyMismatch(f"{files[0]} is a file; a study needs a folder of its own")
    if not study.card.exists():
        _refuse_files(study)
        return
    held = study.read_card()
    if held.get("id") == card.id or _grows(card, held):
        return
    named, revision = held.get("task") == card.task_name, find_task(card.task).revision
    changed = named and held.get("task_revision") not in (None, revision)
    raise StudyMismatch(
        f"{study.path} holds another study ({held.get('question')!r}, {held.get('id')}); this one is {card.id}"
        + (f", for {card.task_name} has been changed since" if changed else "")
        + ": choose another folder with --out, or repeat the question that the folder holds; more seeds may be added, "
        "and nothing else may differ"
    )


def _refuse_files(study: StudyFolder) -> None:
    """Refuse a folder without a card that has what a study would write over.

    Raises:
        StudyMismatch: If there is such a file.
    """
    names = [study.summary, study.table, study.report, study.workers_log]
    # An invocation that was killed before it wrote the card leaves an empty one.
    names += [study.lock] if study.lock.is_file() and study.lock.stat().st_size else []
    found = next((path for path in names if path.exists() or path.is_symlink()), None)
    if found is not None:
        raise StudyMismatch(
            f"{found} is there already, and no card.json that says which study it is of: it was left as it is; choose "
            "another folder with --out"
        )


def _grows(card: StudySpec, held: Mapping[str, Any]) -> bool:
    """Whether a card asks what a folder holds, untuned, with more seeds and nothing else changed."""
    asked = record(card, command="", tuned=None, tuning=None)
    same = all(held.get(key) == value for key, value in asked.items() if key not in _OF_SEEDS)
    arms = [[{**arm, "runs": None} for arm in side["arms"]] for side in (asked, held)]
    return same and not card.tune and arms[0] == arms[1] and set(held["seeds"]) < set(card.seeds)


_OF_SEEDS = ("id", "seeds", "looks", "arms", "command", "regime")
"""What more seeds change in card.json."""


def _write_card(card: StudySpec, study: StudyFolder, content: Mapping[str, Any]) -> None:
    """Claim the folder for the question, or add to it what tuning chose, or more seeds; what is there stays as it is.

    A folder that grows remembers after how many seeds it was looked at.

    Raises:
        StudyMismatch: If another question came first.
    """
    study.path.mkdir(parents=True, exist_ok=True)
    with FileLock(study.lock):
        check_folder(card, study)
        held = study.read_card() if study.card.exists() else None
        if held is not None and held.get("id") != card.id:
            looks = [*held.get("looks", []), len(held["seeds"])]
            told = f"; seeds were added after a look at {', '.join(map(str, looks))}, so its p values are exploratory"
            write_json(study.card, {**content, "looks": looks, "regime": content["regime"] + told})
        elif held is None or (content["tuning"] is not None and content["tuning"] != held.get("tuning")):
            write_json(study.card, {**content, "command": held["command"] if held else content["command"]})


def _find_device(name: str) -> None:
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.type != "cpu" and (device.index or 0) >= count:
        raise EngineError(
            f"device {name!r} is asked for, and torch {torch.__version__} finds {count or 'no'} CUDA devices here"
        )


def _begin(
    specs: list[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None], *, retry_failed: bool
) -> None:
    """Forget runs that failed where that is asked for, and tell every run, before the engine begins."""
    for spec in specs:
        if retry_failed:
            forget(spec, study)
        state = study.run(spec.id).state()
        callback(RunEvent(spec=spec, state=state or "planned", step=spec.recipe.steps if state else 0))


def states(specs: list[RunSpec], study: StudyFolder) -> dict[str, int]:
    """Count the runs of a plan by state; those without a result are ``"open"``."""
    counts: dict[str, int] = dict.fromkeys((*FINAL_STATES, "open"), 0)
    for spec in specs:
        counts[study.run(spec.id).state() or "open"] += 1
    return counts
