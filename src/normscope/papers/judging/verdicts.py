"""Claims that are no difference: a figure by itself, runs that break, and how many data sets agree."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from normscope.papers.judging.agreement import Judgement, cannot_tell, learned
from normscope.papers.judging.cell import Cell, Count, Paper, PaperArm
from normscope.papers.judging.differences import cut_short, judge_difference, weigh
from normscope.results.matching import Arm, match_runs, read_runs
from normscope.results.statistics import LEAST_PAIRS, Interval, holm, t_interval
from normscope.results.store import StudyFolder

OTHER_SETTING = "other setting: only differences are compared"


def judge_broken(
    cell: Cell, task: str, arm: Arm, baseline: Arm, card: Mapping[str, Any], *, full_steps: int
) -> Judgement:
    """Judge a claim that an arm does not train where the baseline does.

    A run is broken if it diverged or learned nothing (:mod:`normscope.papers.judging.agreement`). The verdict is by
    the exact 95 % interval of the share of broken runs, above or below one half; the baseline's must lie below.
    Nothing is said before every planned seed of both has ended.

    Args:
        cell: The claim.
        task: Where ours was run.
        arm: What is said to break.
        baseline: What must train.
        card: Of the study.
        full_steps: Updates of the task's preset: a study of fewer is cut short.
    """
    (broken, runs), (control, others) = (_broken(cell, task, one) for one in (arm, baseline))
    words = f"{broken} of {runs} runs broke, {control} of {others} of the baseline"
    signature = card["metric"].get("signature") or ""
    base = Judgement(cell=cell, task=task, verdict="", because=words, pairs=runs, signature=signature)
    if not arm.ended:
        return replace(base, verdict="not run here", because="no run has ended")
    if card["steps"] < full_steps:
        return cut_short(base, card, full_steps)
    waiting = sum(seed not in arm.ended or seed not in baseline.ended for seed in card["seeds"])
    least = max(LEAST_PAIRS, len(card["seeds"]))
    if waiting or min(runs, others) < LEAST_PAIRS:
        return cannot_tell(base, least, f"{words}; {waiting} of {len(card['seeds'])} seeds have not ended")
    if _exact(control, others, card["alpha"])[1] >= 0.5:
        return replace(base, verdict="cannot tell: the baseline does not train either")
    low, high = _exact(broken, runs, card["alpha"])
    if low > 0.5 or high < 0.5:
        return replace(base, verdict="reproduced" if low > 0.5 else "not reproduced")
    return cannot_tell(base, max(least, runs + 1), words)


def _broken(cell: Cell, task: str, arm: Arm) -> tuple[int, int]:
    """Count the runs that broke, and all that ended and could be computed."""
    ended = [state for state in arm.ended.values() if state != "failed"]
    broken = sum(isinstance(state, str) or not learned(state, task, cell.metric) for state in ended)
    return broken, len(ended)


def _exact(count: int, of: int, alpha: float) -> Interval:
    """Give the Clopper-Pearson interval of a share."""
    low = float(special.betaincinv(count, of - count + 1, alpha / 2)) if count else 0.0
    return low, float(special.betaincinv(count + 1, of - count, 1 - alpha / 2)) if count < of else 1.0


def judge_value(cell: Cell, task: str, arm: Arm, card: Mapping[str, Any]) -> Judgement:
    """Show a figure beside ours. It is never judged: nobody prints a whole setting, and seldom a scorer."""
    values = np.array(list(arm.values.values()))
    interval = t_interval(values, level=1 - card["alpha"]) if len(values) >= 2 else None
    if not len(values):
        ended = ", ".join(sorted(set(map(str, arm.ended.values()))))
        because = f"no run has a value{': ' if ended else ''}{ended}"
        return Judgement(cell=cell, task=task, verdict="not run here", because=because)
    return Judgement(
        cell=cell,
        task=task,
        verdict="not compared",
        because=OTHER_SETTING if task == cell.task else f"a stand-in: {OTHER_SETTING}",
        ours=float(values.mean()),
        interval=interval,
        interval_seeds=interval,
        pairs=len(values),
        signature=card["metric"].get("signature") or "",
    )


def judge_count(count: Count, judged: Mapping[str, Sequence[Judgement]]) -> Judgement:
    """Judge a claim over data sets by the judgements of its cells, the paper's own set before any stand-in.

    Args:
        count: The claim.
        judged: The judgements of every cell, by its id.
    """
    said = [_agrees(count, sorted(judged.get(name, ()), key=_stands_in)) for name in count.cells]
    known = [one for one in said if one is not None]
    agree, unknown = sum(known), len(said) - len(known)
    words = f"{agree} of {len(said)} data sets agree, {len(known) - agree} do not, {unknown} are open or not run"
    base = Judgement(cell=count, task="", verdict="", because=words, ours=agree, pairs=len(known))
    if not known:
        return replace(base, verdict="not run here", because="no data set of it is decided", ours=None)
    if agree >= count.published:
        return replace(base, verdict="reproduced")
    if agree + unknown < count.published:
        return replace(base, verdict="not reproduced")
    return replace(base, verdict=f"cannot tell: needs {count.published - agree} more data sets")


def judge_counts(paper: Paper, judged: Sequence[Judgement]) -> list[Judgement]:
    """Judge every claim over data sets that any of the judged cells takes part in."""
    by_id: dict[str, list[Judgement]] = {}
    for each in judged:
        by_id.setdefault(each.cell.id, []).append(each)
    return [judge_count(count, by_id) for count in paper.counts if set(count.cells) & by_id.keys()]


def _agrees(count: Count, judged: Sequence[Judgement]) -> bool | None:
    """Say whether the first judgement that decides something agrees with the claim; None where none does.

    A direction decides, however small the difference; that it lies within our margin only where equal is wanted.
    """
    for each in judged:
        if isinstance(each.cell, Cell) and each.cell.kind == "diverges":
            if each.verdict in ("reproduced", "not reproduced"):
                return each.verdict == "reproduced"
        elif each.direction in count.wanted or (each.within_margin and 0 in count.wanted):
            return True
        elif each.direction is not None:
            return False
    return None


def _stands_in(judgement: Judgement) -> bool:
    return isinstance(judgement.cell, Cell) and judgement.task != judgement.cell.task


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
