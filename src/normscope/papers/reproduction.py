"""A paper tried again: run or resume its studies, judge them, and write what came out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from normscope import data
from normscope.catalogue import TASKS
from normscope.data.sets import SETS
from normscope.papers.cell import Cell, Study
from normscope.papers.choice import Chosen, Request, choose, missing, missing_packages
from normscope.papers.claims import judge_counts
from normscope.papers.costs import costs
from normscope.papers.gradient_figure import draw
from normscope.papers.gradient_slopes import conclude
from normscope.papers.initial_gradients import run as run_gradients
from normscope.papers.initial_gradients import whole
from normscope.papers.judgement import Judgement, not_run
from normscope.papers.tables import markdown
from normscope.papers.verdicts import judge_study
from normscope.results.disk import SCHEMA, write_bytes, write_json
from normscope.results.store import StudyFolder
from normscope.study import compare
from normscope.study.engine import EngineError, RunEvent

Tell = Callable[[RunEvent], None]


def reproduce(
    request: Request,
    *,
    tell: Tell | None = None,
    tell_gradients: Callable[[int, int, str], None] | None = None,
    fetched: data.Progress | None = None,
) -> dict[str, Any]:
    """Run what a request asks for, or resume it, and judge every study of the paper that the folder holds.

    Writes ``reproduce.json`` and ``reproduce.md`` into the folder, and ``gradients.jsonl`` and ``gradients.svg`` where
    the figure is asked for. Stopped at any time, the same request goes on.

    Args:
        request: What is asked for.
        tell: Takes an event for every run, as :func:`normscope.study.compare` tells them.
        tell_gradients: Takes how many networks are measured, of how many, and which was the last.
        fetched: Told how far a download is.

    Returns:
        The content of ``reproduce.json``.

    Raises:
        LookupError: If a name is unknown.
        StudyMismatch: If a folder holds a study of other steps or arms, or of seeds that are not asked for.
        ValueError: If a task cannot be trained for so few updates, which is told before the first run; or if a file of
            a study is not what it should be.
    """
    chosen = choose(request)
    paper = chosen.paper
    wanted = [] if request.read_only else [task for task in chosen.tasks if task in TASKS]
    # All cards are written first: what cannot be is told before anything is computed.
    planned = {task: paper.studies(task, request.setup) for task in wanted}
    reasons = {task: _run(request, task, studies, tell, fetched) for task, studies in planned.items()}
    path = request.folder / "gradients.jsonl"
    not_drawn = ""
    if "gradients" in chosen.figures and not request.read_only:
        not_drawn = _run_gradients(request, path, tell_gradients, fetched)
    judged, studies = _judge(request, chosen, reasons)
    judged += judge_counts(paper, judged)
    rows = whole(request.gradients, path)
    found = conclude(rows, request.gradients) if rows else None
    if found is not None:
        write_bytes(request.folder / "gradients.svg", draw(found).encode())
    content = {
        "schema": SCHEMA,
        "paper": paper.name,
        "title": paper.title,
        "command": request.command,
        "preset": request.preset,
        "asked": [cell.id for cell in chosen.cells],
        "stand_ins": dict(paper.stand_ins),
        "studies": studies,
        "cells": [one.to_dict() for one in judged],
        "gradients": found,
        "not_drawn": not_drawn,
    }
    write_json(request.folder / "reproduce.json", content)
    write_bytes(request.folder / "reproduce.md", markdown(content).encode())
    return content


def study_folder(request: Request, study: Study) -> Path:
    """Give the folder of one study."""
    return request.folder / (study.name if request.preset == "small" else f"{study.name}-{request.preset}")


def _run(
    request: Request, task: str, studies: Sequence[Study], tell: Tell | None, fetched: data.Progress | None
) -> str:
    """Run a task's studies; give the reason where the machine cannot, empty where it did."""
    if missing_packages(task):
        return missing(task)
    try:
        for name in TASKS[task].datasets:
            data.locate(SETS[name], progress=fetched)
        for study in studies:
            folder = study_folder(request, study)
            compare(study.card, out=folder, workers=request.workers, tell=tell, command=request.command)
    except data.DataNotFound as error:
        return f"{missing(task) or error}"
    except EngineError as error:
        return str(error)
    return ""


def _run_gradients(
    request: Request,
    path: Path,
    tell: Callable[[int, int, str], None] | None,
    fetched: data.Progress | None,
) -> str:
    """Measure the networks of the figure; give the reason where the machine cannot, empty where it did."""
    task = request.gradients.task
    if missing_packages(task):
        return missing(task)
    try:
        for name in TASKS[task].datasets:
            data.locate(SETS[name], progress=fetched)
    except data.DataNotFound as error:
        return f"{missing(task) or error}"
    run_gradients(request.gradients, request.seeds, path, tell)
    return ""


def _judge(
    request: Request, chosen: Chosen, reasons: Mapping[str, str]
) -> tuple[list[Judgement], list[dict[str, Any]]]:
    """Judge whatever the folder holds, and say of the cells that were asked for why it does not hold them."""
    judged: list[Judgement] = []
    studies: list[dict[str, Any]] = []
    for task in (task for task in chosen.paper.tasks if task in TASKS and request.preset in TASKS[task].presets):
        cells = [cell for cell in chosen.paper.cells if task in cell.places and not cell.never_run]
        full_steps = TASKS[task].presets[request.preset].steps
        # Names and labels do not depend on the updates, and these may be too few for another task's warm-up.
        for study in chosen.paper.studies(task, replace(request.setup, steps=None)):
            folder = study_folder(request, study)
            if not StudyFolder(folder).card.exists():
                continue
            told = judge_study(cells, folder, study.labels, task=task, full_steps=full_steps)
            judged += [replace(one, norms_at=study.norms_at) for one in told]
            card = StudyFolder(folder).read_card()
            kept = {"regime": card["regime"], "seeds": card["seeds"], "steps": card["steps"], "id": card.get("id")}
            kept |= {"preset_steps": full_steps, "signature": card["metric"].get("signature") or ""}
            kept |= {"norms_at": study.norms_at, "costs": costs(folder)}
            studies.append({"task": task, "folder": str(folder), **kept})
    seen = {one.cell.id for one in judged}
    lacking = {task: missing(task) for task in chosen.paper.tasks}
    for cell in chosen.cells:
        if cell.id not in seen:
            margin = TASKS[cell.task].margin if cell.task in TASKS else None
            judged.append(not_run(cell, _reason(request, cell, reasons, lacking), margin=margin))
    return judged, studies


def _reason(request: Request, cell: Cell, reasons: Mapping[str, str], lacking: Mapping[str, str]) -> str:
    if cell.never_run:
        return cell.never_run
    said = [reasons[task] for task in cell.places if reasons.get(task)]
    if said:
        return said[0]
    if lacking[cell.task]:
        others = [task for task in cell.stand_ins if not lacking[task]]
        return lacking[cell.task] + (f"; stand-ins that could be run: {', '.join(others)}" if others else "")
    return f"no study of it in {request.folder}"
