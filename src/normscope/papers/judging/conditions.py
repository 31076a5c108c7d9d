"""Judgements of a study together with those under other conditions: untuned, or with the plain initialization."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from normscope.papers.judging.agreement import Judgement
from normscope.papers.judging.cell import Cell, PaperArm, PaperStudy
from normscope.papers.judging.obstacles import examples_of, minutes_of, obstacle
from normscope.papers.judging.verdicts import judge_study
from normscope.results.matching import read_arms
from normscope.results.store import StudyFolder

PLAIN = "plain initialization"
UNTUNED = "untuned"


def judge_with_others(
    cells: Sequence[Cell], directory: Path, study: PaperStudy, *, task: str, full_steps: int, stand_in: str
) -> list[Judgement]:
    """Judge the cells of a paper by one study, with the same cells untuned and with the plain network beside them.

    The verdict is that of the tuned arms, if there are any, and of the initialization that was chosen for the network
    without norms. Each of the other conditions is judged with a Holm correction of its own.

    Args:
        cells: Cells of one paper.
        directory: Folder of the study.
        study: The study.
        task: Its task.
        full_steps: Number of updates of the task's preset.
        stand_in: Difference of the stand-in from the data of the paper; empty if it is not a stand-in.

    Returns:
        One judgement per cell whose arms the study has, in their order; undecided claims have their obstacle.

    Raises:
        FileNotFoundError: If the folder has no card.
        ValueError: As for :func:`normscope.papers.judging.verdicts.judge_study`.
    """
    folder = StudyFolder(directory)
    card = folder.read_card()
    given = {"task": task, "full_steps": full_steps}
    others: dict[str, list[tuple[str, Judgement]]] = {}
    if any(arm["tuned"] for arm in card["arms"]):
        for each in judge_study(cells, directory, study.labels, **given, tuned=False):
            others.setdefault(each.cell.id, []).append((UNTUNED, each))
    moved = {arm for arm, label in study.plain.items() if study.labels[arm] != label}
    plain = [cell for cell in cells if moved & {cell.arm, cell.baseline}]
    if plain:
        for each in judge_study(plain, directory, study.plain, **given):
            others.setdefault(each.cell.id, []).append((PLAIN, each))
    arms = {arm.entry["label"]: arm for arm in reversed(read_arms(folder, card))}
    judged = []
    for each in judge_study(cells, directory, study.labels, **given):
        sides = [arms[label] for label in _labels(each.cell, study.labels)]
        found = obstacle(each, minutes=minutes_of(sides), examples=examples_of(sides), stand_in=stand_in)
        beside = tuple(others.get(each.cell.id, ()))
        judged.append(replace(each, norms_at=study.norms_at, beside=beside, obstacle=found))
    return judged


def _labels(cell: object, labels: Mapping[PaperArm, str]) -> list[str]:
    sides = (cell.arm, cell.baseline) if isinstance(cell, Cell) else ()
    return [labels[side] for side in sides if side is not None]
