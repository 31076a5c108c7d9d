"""Reproduction of a paper: run or resume its studies, judge them, and write the results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from normscope import data
from normscope.data.registry import SETS
from normscope.files import write_atomically
from normscope.papers.judging.agreement import Judgement, not_run
from normscope.papers.judging.cell import Cell, Paper, PaperStudy, Setup
from normscope.papers.judging.conditions import judge_with_others
from normscope.papers.judging.obstacles import obstacle
from normscope.papers.judging.tables import costs, markdown, progress
from normscope.papers.judging.verdicts import caution_of, judge_counts
from normscope.papers.request import PAPERS, Chosen, ReproductionRequest, choose, missing, missing_packages
from normscope.papers.without_norms import adopt, candidates, choose_without_norms, read_choice
from normscope.papers.xiong2020.gradient_slopes import conclude, draw
from normscope.papers.xiong2020.initial_gradients import run as run_gradients
from normscope.papers.xiong2020.initial_gradients import whole
from normscope.results.store import SCHEMA, StudyFolder, write_json
from normscope.studies import compare
from normscope.studies.engines.engine import EngineError, RunEvent
from normscope.studies.looks import DEFAULT_SEEDS
from normscope.studies.plan import plan
from normscope.studies.repeat import as_python
from normscope.studies.tuning import tuning_plan
from normscope.tasks import TASKS

TrainCallback = Callable[[RunEvent], None]


def reproduce(
    request: ReproductionRequest,
    *,
    callback: TrainCallback | None = None,
    gradients_callback: Callable[[int, int, str], None] | None = None,
    fetched: data.Progress | None = None,
) -> dict[str, Any]:
    """Run or resume the studies of a request, and judge every study of the paper in the folder.

    Writes ``reproduce.json`` and ``reproduce.md`` into the folder, and ``gradients.jsonl`` and ``gradients.svg`` if the
    figure is requested; a request that is ``read_only`` writes nothing. The same request resumes after an interruption.

    Args:
        request: Selection and settings.
        callback: Called with an event for every run, as in :func:`normscope.studies.compare`.
        gradients_callback: Called with the number of measured networks, their total number, and the name of the last.
        fetched: Progress of downloads.

    Returns:
        The content of ``reproduce.json``, written or not.

    Raises:
        LookupError: If a name is unknown.
        StudyMismatch: If a folder contains a study with other steps or arms, or with seeds that are not requested.
        ValueError: If a task cannot be trained for so few updates (raised before the first run), or a file of a study
            has another shape.
    """
    if not request.command:
        repeats = f"normscope.papers.reproduce({as_python(request, 'normscope.papers')})"
        request = replace(request, command=repeats)
    chosen = choose(request)
    paper = chosen.paper
    wanted = [] if request.read_only else [task for task in chosen.tasks if task in TASKS]
    # All specifications are built first, so that an invalid one is reported before anything is computed.
    planned = {task: paper.studies(task, request.setup) for task in wanted}
    reasons = {task: _run(request, task, studies, callback, fetched) for task, studies in planned.items()}
    path = request.folder / "gradients.jsonl"
    not_drawn = ""
    if "gradients" in chosen.figures and not request.read_only:
        not_drawn = _run_gradients(request, path, gradients_callback, fetched)
    judged, studies = _judge(request, chosen, reasons)
    judged += judge_counts(paper, judged)
    rows = whole(request.gradients, path)
    figure = conclude(rows, request.gradients) if rows else None
    content = {
        "schema": SCHEMA,
        "paper": paper.name,
        "title": paper.title,
        "command": request.command,
        "preset": request.preset,
        "asked": [cell.id for cell in chosen.cells],
        "stand_ins": dict(paper.stand_ins),
        "studies": studies,
        "cells": [each.to_dict() for each in judged],
        "gradients": figure,
        "not_drawn": not_drawn,
        "probes": [_probed(paper, name) for name in chosen.probes],
    }
    if request.read_only:
        return content
    if figure is not None:
        write_atomically(request.folder / "gradients.svg", draw(figure).encode())
    write_json(request.folder / "reproduce.json", content)
    write_atomically(request.folder / "reproduce.md", markdown(content).encode())
    return content


def study_folder(request: ReproductionRequest, study: PaperStudy) -> Path:
    """Return the folder of one study."""
    return request.folder / (study.name if request.preset == "small" else f"{study.name}-{request.preset}")


def _probed(paper: Paper, name: str) -> dict[str, Any]:
    """Compute the statements of a probe, which takes a second."""
    probe = paper.probes[name]
    statements = [asdict(each) for each in probe.run()]
    return {"name": name, "what": probe.what, "source": probe.source, "statements": statements}


def _run(
    request: ReproductionRequest,
    task: str,
    studies: Sequence[PaperStudy],
    callback: TrainCallback | None,
    fetched: data.Progress | None,
) -> str:
    """Run the studies of a task; return why this machine cannot, or an empty text."""
    if missing_packages(task):
        return missing(task)
    try:
        for name in TASKS[task].datasets:
            data.locate(SETS[name], progress=fetched)
        for study in studies:
            _run_study(request, task, study, callback)
    except data.DataNotFound as error:
        return f"{missing(task) or error}"
    except EngineError as error:
        return str(error)
    return ""


def _run_study(request: ReproductionRequest, task: str, study: PaperStudy, callback: TrainCallback | None) -> None:
    """Run a study; if it is tuned, choose the initialization without norms first, and take over untuned runs."""
    folder = study_folder(request, study)
    if study.spec.tune:
        untuned = study_folder(request, _study_of(request, task, study, replace(request.setup, tune=False)))
        if candidates(task) and study.norms_at == "all":
            watch = callback or (lambda event: None)
            chosen = choose_without_norms(study.spec, folder, workers=request.workers, callback=watch)["chosen"]
            study = _study_of(request, task, study, replace(request.setup, without_norms=chosen))
            adopt(tuning_plan(study.spec), folder / "without_norms" / "tuning", folder / "tuning")
        # Results that were seen must not decide how many seeds there are, or when they are read.
        seen = StudyFolder(untuned).read_card()["seeds"] if StudyFolder(untuned).card.exists() else []
        if study.spec.looks is None and list(study.spec.seeds) == seen:
            adopt(plan(study.spec), untuned, folder)
    compare(
        study.spec,
        out=folder,
        workers=request.workers,
        callback=callback,
        command=request.command,
        minutes=request.minutes,
    )


def _study_of(request: ReproductionRequest, task: str, study: PaperStudy, setup: Setup) -> PaperStudy:
    """Return the study in the same place among those of another setup."""
    paper = PAPERS[request.paper]
    names = [each.name for each in paper.studies(task, request.setup)]
    return paper.studies(task, setup)[names.index(study.name)]


def _run_gradients(
    request: ReproductionRequest,
    path: Path,
    callback: Callable[[int, int, str], None] | None,
    fetched: data.Progress | None,
) -> str:
    """Measure the networks of the figure; return why this machine cannot, or an empty text."""
    task = request.gradients.task
    if missing_packages(task):
        return missing(task)
    try:
        for name in TASKS[task].datasets:
            data.locate(SETS[name], progress=fetched)
    except data.DataNotFound as error:
        return f"{missing(task) or error}"
    run_gradients(request.gradients, request.seeds or DEFAULT_SEEDS, path, callback)
    return ""


def _judge(
    request: ReproductionRequest, chosen: Chosen, reasons: Mapping[str, str]
) -> tuple[list[Judgement], list[dict[str, Any]]]:
    """Judge every study in the folder, and explain which requested cells it does not have."""
    judged: list[Judgement] = []
    studies: list[dict[str, Any]] = []
    for task in (task for task in chosen.paper.tasks if task in TASKS and request.preset in TASKS[task].presets):
        cells = [cell for cell in chosen.paper.cells if task in cell.places and not cell.never_run]
        full_steps = TASKS[task].presets[request.preset].steps
        for study in _studies_there(request, chosen.paper, task):
            folder = study_folder(request, study)
            judged += judge_with_others(
                cells, folder, study, task=task, full_steps=full_steps, stand_in=chosen.paper.stand_ins.get(task, "")
            )
            card = StudyFolder(folder).read_card()
            about = {"regime": card["regime"], "seeds": card["seeds"], "steps": card["steps"], "id": card.get("id")}
            about |= {"preset_steps": full_steps, "signature": card["metric"].get("signature") or ""}
            about |= {"norms_at": study.norms_at, "costs": costs(folder), "runs": progress(folder)}
            about |= {"exploratory": caution_of(card)}
            about |= {"looks": card.get("looks"), "tuning": card.get("tuning"), "without_norms": read_choice(folder)}
            studies.append({"task": task, "folder": str(folder), **about})
    seen = {each.cell.id for each in judged}
    lacking = {task: missing(task) for task in chosen.paper.tasks}
    for cell in chosen.cells:
        if cell.id not in seen:
            margin = TASKS[cell.task].margin if cell.task in TASKS else None
            lost = not_run(cell, _reason(request, cell, reasons, lacking), margin=margin)
            judged.append(replace(lost, obstacle=obstacle(lost, minutes=None, examples=None)))
    return judged, studies


def _studies_there(request: ReproductionRequest, paper: Paper, task: str) -> list[PaperStudy]:
    """Return the studies of a task that have a card: tuned ones if the request wants them, else untuned ones."""
    found = []
    # Names and labels do not depend on the number of updates, which may be too small for the warm-up of a task.
    setup = replace(request.setup, steps=None)
    for untuned, study in zip(paper.studies(task, replace(setup, tune=False)), paper.studies(task, setup), strict=True):
        folder = study_folder(request, study)
        choice = read_choice(folder)
        if choice is not None:
            study = _study_of(request, task, study, replace(setup, without_norms=choice["chosen"]))
        there = [each for each in (study, untuned) if StudyFolder(study_folder(request, each)).card.exists()]
        found += there[:1]
    return found


def _reason(request: ReproductionRequest, cell: Cell, reasons: Mapping[str, str], lacking: Mapping[str, str]) -> str:
    if cell.never_run:
        return cell.never_run
    failed = [reasons[task] for task in cell.places if reasons.get(task)]
    if failed:
        return failed[0]
    if lacking[cell.task]:
        others = [task for task in cell.stand_ins if not lacking[task]]
        return lacking[cell.task] + (f"; stand-ins that could be run: {', '.join(others)}" if others else "")
    return f"no study of it in {request.folder}"
