"""Judgements of a whole study, and of claims other than differences: figures, diverging runs, counts of data sets."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from normscope.papers.judging.agreement import RANGES, Judgement, cannot_tell, learned
from normscope.papers.judging.cell import Cell, Count, Paper, PaperArm
from normscope.papers.judging.differences import cut_short, judge_difference, look_plan, looks_of, weigh
from normscope.papers.judging.faster import judge_faster
from normscope.papers.judging.measures import measured
from normscope.results.aggregates import AGGREGATES
from normscope.results.look_state import read_earlier
from normscope.results.matching import ArmRuns, read_arms
from normscope.results.statistics import LEAST_PAIRS, holm, proportion_interval, t_interval, within
from normscope.results.store import StudyFolder
from normscope.results.verdict import FAILURES, LOST, exploratory

OTHER_SETTING = "other setting: only differences are compared"


def judge_broken(
    cell: Cell, task: str, arm: ArmRuns, baseline: ArmRuns, card: Mapping[str, Any], *, full_steps: int
) -> Judgement:
    """Judge a claim that an arm does not train where the baseline does.

    A run is broken if it diverged or learned nothing (:mod:`normscope.papers.judging.agreement`). The verdict depends
    on whether the exact interval of the share of broken runs lies above or below one half; that of the baseline must
    lie below. There is no verdict before every planned seed of both has ended, or every seed of a look; the intervals
    are at level 1 - alpha / looks.

    Args:
        cell: Published claim.
        task: Task of our runs.
        arm: Arm that is claimed not to train.
        baseline: Arm that must train.
        card: Card of the study.
        full_steps: Number of updates of the task's preset; a study with fewer is cut short.
    """
    (broken, runs), (control, others) = (_broken(cell, task, side) for side in (arm, baseline))
    words = f"{broken} of {runs} runs broke, {control} of {others} of the baseline"
    signature = card["metric"].get("signature") or ""
    base = Judgement(cell=cell, task=task, verdict="", because=words, pairs=runs, signature=signature)
    if not arm.ended:
        return replace(base, verdict="not run here", because="no run has ended")
    if card["steps"] < full_steps:
        return cut_short(base, card, full_steps)
    looks = look_plan(card)
    planned = card["seeds"]
    if looks is not None and (reached := looks.reached(len(arm.ended.keys() & baseline.ended.keys()))):
        planned = planned[: looks.pairs[reached - 1]]
    waiting = sum(seed not in arm.ended or seed not in baseline.ended for seed in planned)
    least = max(LEAST_PAIRS, len(planned))
    if waiting or min(runs, others) < LEAST_PAIRS:
        lost = len(arm.ended) + len(baseline.ended) - runs - others
        more = f"{waiting} of {len(planned)} seeds have not ended" if waiting else f"{LEAST_PAIRS} runs are needed"
        more += f"; {lost} runs could not be computed or scored" if lost else ""
        return cannot_tell(base, least, f"{words}; {more}")
    level = 1 - card["alpha"] / looks_of(card)
    if proportion_interval(control, others, level=level)[1] >= 0.5:
        if not control:
            return cannot_tell(base, max(least, others + 1), words)
        return replace(base, verdict="cannot tell: the baseline does not train either")
    low, high = proportion_interval(broken, runs, level=level)
    if low > 0.5 or high < 0.5:
        return replace(base, verdict="reproduced" if low > 0.5 else "not reproduced")
    return cannot_tell(base, max(least, runs + 1), words)


def _broken(cell: Cell, task: str, arm: ArmRuns) -> tuple[int, int]:
    """Count the broken runs, and all that ended and could be computed and scored."""
    ended = [state for state in arm.ended.values() if state not in LOST]
    broken = sum(isinstance(state, str) or not learned(state, task, cell.metric, cell.chance) for state in ended)
    return broken, len(ended)


def judge_value(cell: Cell, task: str, arm: ArmRuns, card: Mapping[str, Any]) -> Judgement:
    """Put our figure beside a published one, without a verdict: papers do not print complete settings."""
    values = np.array(list(arm.values.values()))
    limits = RANGES.get(cell.metric.unit)
    interval = within(t_interval(values, level=1 - card["alpha"]), limits) if len(values) >= 2 else None
    if not len(values):
        states = list(arm.ended.values())
        ended = "; ".join(
            f"{words} in {count} seeds" for state, words in FAILURES.items() if (count := states.count(state))
        )
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
    """Judge a claim over data sets by the judgements of its cells; data sets of the paper precede stand-ins.

    Args:
        count: Published claim.
        judged: Judgements of every cell, by its id.
    """
    outcomes = [_agrees(count, sorted(judged.get(name, ()), key=_stands_in)) for name in count.cells]
    known = [outcome for outcome in outcomes if outcome is not None]
    agree, unknown = sum(known), len(outcomes) - len(known)
    words = f"{agree} of {len(outcomes)} data sets agree, {len(known) - agree} do not, {unknown} are open or not run"
    cautious = [each.caution for name in count.cells for each in judged.get(name, ()) if each.caution]
    words += f"; {len(cautious)} of their studies are exploratory" if cautious else ""
    base = Judgement(cell=count, task="", verdict="", because=words, ours=agree, pairs=len(known))
    if not known:
        return replace(base, verdict="not run here", because="no data set of it is decided", ours=None)
    if agree >= count.published:
        return replace(base, verdict="reproduced")
    if agree + unknown < count.published:
        return replace(base, verdict="not reproduced")
    return replace(base, verdict=f"cannot tell: needs {count.published - agree} more data sets")


def judge_counts(paper: Paper, judged: Sequence[Judgement]) -> list[Judgement]:
    """Judge every claim over data sets that includes any of the judged cells."""
    by_id: dict[str, list[Judgement]] = {}
    for each in judged:
        by_id.setdefault(each.cell.id, []).append(each)
    return [judge_count(count, by_id) for count in paper.counts if set(count.cells) & by_id.keys()]


def _agrees(count: Count, judged: Sequence[Judgement]) -> bool | None:
    """Return whether the first decisive judgement agrees with the claim, or None if no judgement is decisive.

    A direction is decisive, however small the difference; a difference within our margin only if equality counts.
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
    cells: Sequence[Cell],
    directory: Path,
    labels: Mapping[PaperArm, str],
    *,
    task: str,
    full_steps: int,
    tuned: bool = True,
) -> list[Judgement]:
    """Judge the cells of a paper by one study, finished or not.

    Holm's correction covers the differences among the cells whose arms the study has.

    Args:
        cells: Cells of one paper; those whose arms the study does not have are skipped.
        directory: Study folder.
        labels: Label of our arm by arm of the paper.
        task: Task of the study.
        full_steps: Number of updates of the task's preset; a study with fewer is cut short and decides nothing.
        tuned: Whether to judge by the tuned arms of a tuned study, or else by those with the task's learning rate.

    Returns:
        One judgement per cell whose arms the study has, in their order.

    Raises:
        FileNotFoundError: If the folder has no card.
        ValueError: If a file has another shape, or the metric of the study has another unit or direction than that of
            a cell.
    """
    study = StudyFolder(directory)
    card = study.read_card()
    # A tuned card has the label of an arm twice, and the tuned arm comes first.
    read = read_arms(study, card)
    arms = {arm.entry["label"]: arm for arm in (reversed(read) if tuned else read)}
    held = [cell for cell in cells if all(labels.get(side) in arms for side in _sides(cell))]
    for cell in held:
        if not cell.measure:
            _check_metric(cell, card["metric"], directory)
    # A value has no baseline: its own arm stands in its place and is not used.
    sides = {cell.id: _runs_of(cell, arms, labels, card) for cell in held}
    cards = {cell.id: _card_of(cell, card) for cell in held}
    differences = [cell for cell in held if cell.kind == "difference"]
    evidence = {cell.id: weigh(cell, task, *sides[cell.id], cards[cell.id], len(differences)) for cell in differences}
    adjusted = dict(zip(evidence, holm([each.p for each in evidence.values()]), strict=True))
    races = [cell for cell in held if cell.kind == "faster"]
    times = judge_faster(races, [sides[cell.id] for cell in races], card, task=task, full_steps=full_steps)
    faster = {each.cell.id: each for each in times}
    judged = []
    for cell in held:
        (arm, base), card_of_cell = sides[cell.id], cards[cell.id]
        if cell.kind == "difference":
            judgement = judge_difference(
                cell, task, evidence[cell.id], adjusted[cell.id], card_of_cell, full_steps=full_steps
            )
        elif cell.kind == "faster":
            judgement = faster[cell.id]
        elif cell.kind == "diverges":
            judgement = judge_broken(cell, task, arm, base, card, full_steps=full_steps)
        else:
            judgement = judge_value(cell, task, arm, card_of_cell)
        judged.append(_with_caution(judgement, caution_of(card)))
    return judged


def caution_of(card: Mapping[str, Any]) -> str:
    """Return why the p values of a study are exploratory; empty if they are not.

    Its looks are judged as planned ones, not at the conditional level, so that every changed plan is exploratory.
    """
    earlier = read_earlier(card)
    return exploratory(card.get("changes") or (), len(card["seeds"])) or (earlier.caution if earlier else "")


def _with_caution(judgement: Judgement, caution: str) -> Judgement:
    """Add to a decided verdict that it is exploratory."""
    decided = caution and judgement.verdict in ("reproduced", "not reproduced")
    because = f"{judgement.because}; {caution}" if decided else judgement.because
    return replace(judgement, caution=caution, because=because)


def _runs_of(
    cell: Cell, arms: Mapping[str, ArmRuns], labels: Mapping[PaperArm, str], card: Mapping[str, Any]
) -> tuple[ArmRuns, ArmRuns]:
    """Return the arm and the baseline of a cell, with the values of its measure."""
    sides = _sides(cell)
    arm, base = arms[labels[sides[0]]], arms[labels[sides[-1]]]
    if not cell.measure:
        return arm, base
    aggregate = AGGREGATES[card["metric"].get("aggregate") or "mean"]
    return measured(arm, aggregate, cell.measure), measured(base, aggregate, cell.measure)


def _card_of(cell: Cell, card: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the card as if the measure of a cell were its metric; the margin is then that of the cell."""
    if not cell.measure:
        return card
    metric = {"name": cell.metric.name, "unit": cell.metric.unit, "higher_is_better": cell.metric.higher_is_better}
    same = cell.metric.unit == card["metric"]["unit"]
    margin = cell.epsilon.value if cell.epsilon is not None else card["margin"] if same else 0.0
    return {**card, "metric": metric, "margin": margin}


def _sides(cell: Cell) -> list[PaperArm]:
    return [cell.arm] if cell.baseline is None else [cell.arm, cell.baseline]


def _check_metric(cell: Cell, metric: Mapping[str, Any], directory: Path) -> None:
    for name in ("unit", "higher_is_better"):
        if metric[name] != getattr(cell.metric, name):
            raise ValueError(
                f"{directory} has {name} {metric[name]!r}, and the cell {cell.id} {getattr(cell.metric, name)!r}: "
                "they cannot be compared"
            )
