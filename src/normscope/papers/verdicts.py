"""A study of ours held against what a paper prints: every cell whose arms it has, with Holm over its differences."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from normscope.papers.cell import Cell, PaperArm
from normscope.papers.claims import judge_broken, judge_value
from normscope.papers.differences import judge_difference, weigh
from normscope.papers.judgement import Judgement
from normscope.results.runs import match_runs, read_runs
from normscope.results.statistics import holm
from normscope.results.store import StudyFolder


def judge_study(
    cells: Sequence[Cell], directory: Path, labels: Mapping[PaperArm, str], *, task: str, full_steps: int
) -> list[Judgement]:
    """Judge cells by one study's folder, finished or not.

    Holm's correction is over the differences among the cells that the study holds.

    Args:
        cells: Of one paper; those whose arms the study does not have are left out.
        directory: The study.
        labels: From what the paper trained to the label of the study's arm.
        task: The study's.
        full_steps: Updates of the task's preset: a study of fewer is cut short, and reproduces and refutes nothing.

    Returns:
        A judgement for every cell that the study has the arms of, in their order.

    Raises:
        FileNotFoundError: If there is no study.
        ValueError: If its files are not what they should be, or its metric has another unit or direction than a
            cell's.
    """
    study = StudyFolder(directory)
    card = study.read_card()
    runs, _ = read_runs(study, card)
    # A tuned card has an arm's label twice; the tuned one comes first and is the one that its verdict rests on.
    entries = {entry["label"]: entry for entry in reversed(card["arms"])}
    arms = {label: match_runs(card, entry, runs) for label, entry in entries.items()}
    held = [cell for cell in cells if all(labels.get(side) in arms for side in _sides(cell))]
    for cell in held:
        _check_metric(cell, card["metric"], directory)
    # Of a value, which has no baseline, the second is its own arm and is not used.
    sides = {cell.id: (arms[labels[cell.arm]], arms[labels[_sides(cell)[-1]]]) for cell in held}
    differences = [cell for cell in held if cell.kind == "difference"]
    found = {
        cell.id: weigh(cell, task, arm, base, card, len(differences))
        for cell in differences
        for arm, base in [sides[cell.id]]
    }
    adjusted = dict(zip(found, holm([each.p for each in found.values()]), strict=True))
    told = []
    for cell in held:
        arm, base = sides[cell.id]
        if cell.kind == "difference":
            one = judge_difference(cell, task, found[cell.id], adjusted[cell.id], card, full_steps=full_steps)
        elif cell.kind == "diverges":
            one = judge_broken(cell, task, arm, base, card, full_steps=full_steps)
        else:
            one = judge_value(cell, task, arm, card)
        told.append(one)
    return told


def _sides(cell: Cell) -> list[PaperArm]:
    return [cell.arm] if cell.baseline is None else [cell.arm, cell.baseline]


def _check_metric(cell: Cell, metric: Mapping[str, Any], directory: Path) -> None:
    for name in ("unit", "higher_is_better"):
        if metric[name] != getattr(cell.metric, name):
            raise ValueError(
                f"{directory} has {name} {metric[name]!r}, and the cell {cell.id} {getattr(cell.metric, name)!r}: "
                "they cannot be compared"
            )
