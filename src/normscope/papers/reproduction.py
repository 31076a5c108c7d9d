"""A paper tried again: run or resume its studies, judge them, and write what came out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from normscope import data
from normscope.data.registry import SETS
from normscope.files import write_atomically
from normscope.papers.judging.agreement import Judgement, not_run
from normscope.papers.judging.cell import Cell, Count, Paper, PaperStudy, Setup
from normscope.papers.judging.tables import costs, markdown
from normscope.papers.judging.verdicts import judge_counts, judge_study
from normscope.papers.xiong2020.gradient_slopes import conclude, draw
from normscope.papers.xiong2020.initial_gradients import Setting, whole
from normscope.papers.xiong2020.initial_gradients import run as run_gradients
from normscope.papers.xiong2020.study import XIONG2020
from normscope.papers.xu2019.study import XU2019
from normscope.registry import look_up
from normscope.results.store import SCHEMA, StudyFolder, write_json
from normscope.studies import compare
from normscope.studies.engines.engine import EngineError, RunEvent
from normscope.tasks import TASKS

PAPERS: dict[str, Paper] = {"xu2019": XU2019, "xiong2020": XIONG2020}


@dataclass(frozen=True, kw_only=True)
class ReproductionRequest:
    """What is to be reproduced, and how."""

    paper: str
    """Key of ``PAPERS``."""
    only: tuple[str, ...] = ()
    """Tasks, tables and figures; everything that can be run where empty."""
    seeds: tuple[int, ...] = tuple(range(10))
    """One run an arm and seed."""
    preset: str = "small"
    """Key of a task's presets."""
    steps: int | None = None
    """Updates of every run; the preset's where None."""
    out: Path | None = None
    """Where the studies are; ``runs/<paper>`` where None."""
    workers: int | None = None
    """Processes; one a core where None."""
    device: str = "cpu"
    """As torch names it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Key of ``normscope.tasks.recipe.PRECISIONS``."""
    compile: bool = False
    """Whether the training loss is compiled."""
    norms_at: str = "all"
    """Which norms the arms replace: one of the paper's ``norms_at``."""
    read_only: bool = False
    """Whether nothing is computed and only what is there is judged."""
    gradients: Setting = field(default_factory=Setting)
    """Of the gradient figure, where the paper has one."""
    command: str = "normscope.cli.reproduce"
    """What the page says makes it again."""

    @property
    def folder(self) -> Path:
        """Where everything lies."""
        return Path("runs") / self.paper if self.out is None else self.out

    @property
    def setup(self) -> Setup:
        """What the paper's studies are made from."""
        return Setup(
            preset=self.preset,
            seeds=tuple(self.seeds),
            steps=self.steps,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            norms_at=self.norms_at,
        )


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a request comes to."""

    paper: Paper
    cells: tuple[Cell, ...]
    """Those that were asked for, or all."""
    counts: tuple[Count, ...]
    """Those over any of them, in the tables that were asked for."""
    tasks: tuple[str, ...]
    """Those that a study is run of, or tried."""
    figures: tuple[str, ...]
    """Of the paper's figures."""


def missing(task: str) -> str:
    """Say why a task cannot be run here without fetching anything; empty where it can.

    Args:
        task: Maybe a key of ``TASKS``.
    """
    if task not in TASKS:
        return "this version has no such task"
    lacking = missing_packages(task)
    states = [(name, data.state(SETS[name])) for name in TASKS[task].datasets]
    said = [f"data set {name} is {state.description}" for name, state in states if not state.ready]
    return "; ".join([lacking, *said] if lacking else said)


def missing_packages(task: str) -> str:
    """Say which packages a task lacks here; empty where it has all.

    Args:
        task: Key of ``TASKS``.
    """
    absent = [name for name in getattr(TASKS[task], "packages", ()) if find_spec(name) is None]
    return f"it needs {' and '.join(absent)}: `pip install normscope[text]` brings them" if absent else ""


def choose(request: ReproductionRequest) -> Chosen:
    """Find the cells that a request asks for, and the tasks to run: a paper's own where its data are here.

    Without ``only``, a cell whose data are not here is tried on its first stand-in that is. Tasks and tables together
    choose the cells that both name.

    Raises:
        LookupError: If there is no such paper, task, table or figure; the message suggests the nearest name.
        ValueError: If the paper's studies cannot replace the norms that are asked for.
    """
    paper = look_up("paper", PAPERS, request.paper)
    if request.norms_at not in paper.norms_at:
        raise ValueError(f"{paper.name} replaces norms at: {', '.join(paper.norms_at)}; got {request.norms_at!r}")
    names = {"task": paper.tasks, "table": paper.tables, "figure": tuple(paper.figures)}
    every = [name for group in names.values() for name in group]
    for name in request.only:
        if name not in every:
            near = get_close_matches(name, every, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise LookupError(f"{paper.name} has no task, table or figure {name!r}: {hint}There are {', '.join(every)}")
    tasks, tables, figures = ([name for name in request.only if name in group] for group in names.values())
    if not request.only:
        figures = list(paper.figures)
    if figures and request.only and not tasks and not tables:
        return Chosen(paper=paper, cells=(), counts=(), tasks=(), figures=tuple(figures))
    cells = [cell for cell in paper.cells if not tables or set(cell.tables) & set(tables)]
    cells = [cell for cell in cells if not tasks or set(cell.places) & set(tasks)]
    if not tasks:
        absent = {task: missing(task) for task in paper.tasks}
        for cell in cells:
            able = [task for task in cell.places if not absent.get(task, "unknown")]
            tasks += able[:1] if not cell.never_run else []
    ids = {cell.id for cell in cells}
    counts = [one for one in paper.counts if set(one.cells) & ids and (not tables or set(one.tables) & set(tables))]
    return Chosen(
        paper=paper, cells=tuple(cells), counts=tuple(counts), tasks=tuple(dict.fromkeys(tasks)), figures=tuple(figures)
    )


TrainCallback = Callable[[RunEvent], None]


def reproduce(
    request: ReproductionRequest,
    *,
    callback: TrainCallback | None = None,
    tell_gradients: Callable[[int, int, str], None] | None = None,
    fetched: data.Progress | None = None,
) -> dict[str, Any]:
    """Run what a request asks for, or resume it, and judge every study of the paper that the folder holds.

    Writes ``reproduce.json`` and ``reproduce.md`` into the folder, and ``gradients.jsonl`` and ``gradients.svg`` where
    the figure is asked for. Stopped at any time, the same request goes on.

    Args:
        request: What is asked for.
        callback: Takes an event for every run, as :func:`normscope.studies.compare` tells them.
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
    reasons = {task: _run(request, task, studies, callback, fetched) for task, studies in planned.items()}
    path = request.folder / "gradients.jsonl"
    not_drawn = ""
    if "gradients" in chosen.figures and not request.read_only:
        not_drawn = _run_gradients(request, path, tell_gradients, fetched)
    judged, studies = _judge(request, chosen, reasons)
    judged += judge_counts(paper, judged)
    rows = whole(request.gradients, path)
    found = conclude(rows, request.gradients) if rows else None
    if found is not None:
        write_atomically(request.folder / "gradients.svg", draw(found).encode())
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
    write_atomically(request.folder / "reproduce.md", markdown(content).encode())
    return content


def study_folder(request: ReproductionRequest, study: PaperStudy) -> Path:
    """Give the folder of one study."""
    return request.folder / (study.name if request.preset == "small" else f"{study.name}-{request.preset}")


def _run(
    request: ReproductionRequest,
    task: str,
    studies: Sequence[PaperStudy],
    callback: TrainCallback | None,
    fetched: data.Progress | None,
) -> str:
    """Run a task's studies; give the reason where the machine cannot, empty where it did."""
    if missing_packages(task):
        return missing(task)
    try:
        for name in TASKS[task].datasets:
            data.locate(SETS[name], progress=fetched)
        for study in studies:
            folder = study_folder(request, study)
            compare(study.card, out=folder, workers=request.workers, callback=callback, command=request.command)
    except data.DataNotFound as error:
        return f"{missing(task) or error}"
    except EngineError as error:
        return str(error)
    return ""


def _run_gradients(
    request: ReproductionRequest,
    path: Path,
    callback: Callable[[int, int, str], None] | None,
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
    run_gradients(request.gradients, request.seeds, path, callback)
    return ""


def _judge(
    request: ReproductionRequest, chosen: Chosen, reasons: Mapping[str, str]
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


def _reason(request: ReproductionRequest, cell: Cell, reasons: Mapping[str, str], lacking: Mapping[str, str]) -> str:
    if cell.never_run:
        return cell.never_run
    said = [reasons[task] for task in cell.places if reasons.get(task)]
    if said:
        return said[0]
    if lacking[cell.task]:
        others = [task for task in cell.stand_ins if not lacking[task]]
        return lacking[cell.task] + (f"; stand-ins that could be run: {', '.join(others)}" if others else "")
    return f"no study of it in {request.folder}"
