"""Claims that are no difference: a figure by itself, runs that break, and how many data sets agree."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special

from normscope.catalogue import TASKS
from normscope.papers.audit import epsilon_of
from normscope.papers.cell import Cell, Count, Paper
from normscope.papers.judgement import Judgement, cannot_tell, decide
from normscope.results.planning import LEAST_PAIRS, fewest_pairs
from normscope.results.runs import Arm
from normscope.results.statistics import t_interval

OTHER_SETTING = "other setting: only differences are compared"


def judge_broken(cell: Cell, task: str, arm: Arm, card: Mapping[str, Any]) -> Judgement:
    """Judge a claim that an arm does not train, by the exact interval of the share of its runs that broke."""
    limit, higher = cell.broken_at, cell.metric.higher_is_better
    ended = [state for state in arm.ended.values() if state != "failed"]
    broken = sum(
        state == "diverged"
        or (limit is not None and not isinstance(state, str) and (state <= limit if higher else state >= limit))
        for state in ended
    )
    runs, tail = len(ended), card["alpha"] / 2
    low = float(special.betaincinv(broken, runs - broken + 1, tail)) if broken else 0.0
    high = float(special.betaincinv(broken + 1, runs - broken, 1 - tail)) if broken < runs else 1.0
    words = f"{broken} of {runs} runs broke"
    base = Judgement(cell=cell, task=task, verdict="", because=words, pairs=runs, sign=-1 if broken > runs / 2 else 0)
    if not runs:
        return replace(base, verdict="not run here", because="no run has ended", sign=None)
    if low > 0.5 or high < 0.5:
        return replace(base, verdict="reproduced" if low > 0.5 else "not reproduced")
    return replace(cannot_tell(base, max(LEAST_PAIRS, runs + 1), words), sign=None)


def judge_value(cell: Cell, task: str, arm: Arm, card: Mapping[str, Any]) -> Judgement:
    """Show a figure beside ours; judge it only where data set, preset, steps and scorer are the paper's."""
    values = np.array(list(arm.values.values()))
    interval = t_interval(values, level=1 - card["alpha"]) if len(values) >= 2 else None
    base = Judgement(
        cell=cell,
        task=task,
        verdict="not compared",
        because=OTHER_SETTING,
        ours=float(values.mean()) if len(values) else None,
        interval=interval,
        interval_seeds=interval,
        pairs=len(values),
    )
    if not len(values):
        ended = ", ".join(sorted(set(map(str, arm.ended.values()))))
        return replace(base, verdict="not run here", because=f"no run has a value{': ' if ended else ''}{ended}")
    if task != cell.task:
        return replace(base, because=f"a stand-in: {OTHER_SETTING}")
    if not _same_setting(cell, card):
        return base
    scorer = card["metric"].get("signature", "")
    if scorer != cell.metric.signature or (cell.metric.unit == "BLEU" and not scorer):
        return replace(base, because="another or unknown scorer: only differences are compared")
    epsilon, published = epsilon_of(cell, card["margin"]), cell.published or 0.0
    base = replace(base, epsilon=epsilon)
    least = fewest_pairs(card["alpha"])
    if interval is None or len(values) < least:
        return cannot_tell(base, least, f"{len(values)} runs are too few")
    apart = (interval[0] - published, interval[1] - published)
    verdict = decide(0.0, epsilon.value, apart, significant=False)
    if verdict is None:
        return cannot_tell(base, len(values) + 1, "the interval reaches beyond epsilon")
    words = "within epsilon" if verdict[0] == "reproduced" else "further off than epsilon"
    return replace(base, verdict=verdict[0], because=f"the figure lies {words}")


def _same_setting(cell: Cell, card: Mapping[str, Any]) -> bool:
    preset = card.get("preset")
    return bool(preset) and preset == cell.same_preset and card["steps"] == TASKS[cell.task].presets[preset].steps


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
    """Say whether the first judgement that decides something agrees with the claim."""
    for each in judged:
        if isinstance(each.cell, Cell) and each.cell.kind == "diverges":
            if each.verdict in ("reproduced", "not reproduced"):
                return each.verdict == "reproduced"
        elif each.sign is not None:
            return each.sign in count.wanted
    return None


def _stands_in(judgement: Judgement) -> bool:
    return isinstance(judgement.cell, Cell) and judgement.task != judgement.cell.task
