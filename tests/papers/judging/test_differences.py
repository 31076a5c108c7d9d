"""The paper's own table fed in, scorers that differ, and networks that learned nothing."""

from dataclasses import replace
from typing import Any

import pytest

from normscope.papers.judging.agreement import Judgement
from normscope.papers.judging.cell import Cell
from normscope.papers.judging.differences import PairedEvidence, judge_difference, other_scorer
from normscope.papers.judging.verdicts import judge_counts
from normscope.papers.xu2019.study import XU2019
from normscope.tasks import TASKS
from support.digits_paper import difference

CELLS = {cell.id: cell for cell in XU2019.cells}
DE_EN = CELLS["iwslt14_de_en/ada_norm-layer_norm"]
NONE_DE_EN = CELLS["iwslt14_de_en/none-layer_norm"]


def found(low: float, high: float, **changed: Any) -> PairedEvidence:
    given = {
        "pairs": 10,
        "difference": (low + high) / 2,
        "sd": (high - low) / 2,
        "seeds": (low, high),
        "seeds_wide": (low, high),
        "p": 0.002,
        **changed,
    }
    return PairedEvidence(**given)


def judge(cell: Cell, pairs: PairedEvidence, *, p: float = 0.002, signature: str = "", steps: int = 100) -> Judgement:
    card = {
        "alpha": 0.05,
        "margin": TASKS[cell.task].margin,
        "steps": steps,
        "seeds": list(range(10)),
        "metric": {"signature": signature},
    }
    return judge_difference(cell, cell.task, pairs, p, card, full_steps=100)


def test_the_papers_own_table_is_reproduced() -> None:
    signature = "nrefs:1|case:lc|tok:13a"
    told = []
    for cell in CELLS.values():
        if cell.kind == "difference":
            published = cell.published or 0.0
            pairs = found(published - 1e-4, published + 1e-4)
            scorer = signature if cell.metric.unit == "BLEU" else ""
            told.append(judge(cell, pairs, p=0.002 if published else 1.0, signature=scorer))
        elif cell.kind == "diverges":
            told.append(Judgement(cell=cell, task=cell.task, verdict="reproduced", because=""))
    counts = {one.cell.id: one for one in judge_counts(XU2019, told)}
    assert {name: (one.verdict, one.because.split(" data")[0]) for name, one in counts.items()} == {
        # Eight are not worse by more than our margins, as wide as most of the published differences.
        "simple-no-worse": ("reproduced", "8 of 8"),
        "simple-better": ("reproduced", "4 of 8"),
        "detach-worse": ("reproduced", "6 of 8"),
        "ada-better": ("reproduced", "7 of 8"),
    }
    verdicts = {one.cell.id: one.verdict for one in told}
    ties = {one.id for one in CELLS.values() if one.kind == "difference" and not one.published}
    assert {name for name, verdict in verdicts.items() if verdict != "reproduced"} == {
        name for name in ties if CELLS[name].metric.unit == "BLEU"
    }


def test_a_direction_is_kept_however_small_the_difference() -> None:
    cell = difference(-0.3)
    told = judge(cell, found(-0.2, -0.1))
    # Of an error less is better, and 0.5 is the margin.
    assert (told.direction, told.within_margin) == (1, True)
    told = judge(cell, found(-0.2, 0.1), p=0.4)
    assert (told.direction, told.within_margin) == (None, True)
    told = judge(cell, found(-0.9, -0.1, seeds_wide=(-1.0, 0.0)))
    assert (told.direction, told.within_margin) == (1, False)


@pytest.mark.parametrize("signature", ["nrefs:1|case:lc|tok:13a", ""])
def test_sizes_of_two_scorers_are_never_compared(signature: str) -> None:
    # The paper prints -1.5 and our margin is half a point. Near without a direction, and far away without one:
    near = judge(NONE_DE_EN, found(-1.6, -1.4), p=0.3, signature=signature)
    far = judge(NONE_DE_EN, found(-0.1, 0.1), p=0.3, signature=signature)
    for one in (near, far):
        assert one.verdict.startswith("cannot tell: needs ")
        assert one.because == "sizes are not compared: the paper does not name its scorer"
    small = judge(NONE_DE_EN, found(-0.1, -0.05), signature=signature)
    assert small.verdict == "reproduced"
    assert small.because == "the direction; sizes are not compared: the paper does not name its scorer"
    other = judge(NONE_DE_EN, found(0.05, 0.1), signature=signature)
    assert other.verdict == "not reproduced"
    tie = CELLS["iwslt14_de_en/layer_norm_simple-layer_norm"]
    for one in (judge(tie, found(-0.01, 0.01), p=1.0), judge(tie, found(5.0, 6.0))):
        assert one.verdict == "cannot tell: the scorer is not the paper's"
    assert judge(tie, found(5.0, 6.0), signature=signature).signature == signature


def test_a_scorer_that_is_named_is_compared() -> None:
    named = replace(DE_EN, metric=replace(DE_EN.metric, signature="tok:13a"))
    assert other_scorer(named, "tok:13a") == ""
    assert other_scorer(named, "tok:none") == "the paper's scorer is tok:13a"
    assert other_scorer(CELLS["rt/ada_norm-layer_norm"], "") == ""
    near = replace(NONE_DE_EN, metric=named.metric)
    assert judge(near, found(-1.6, -1.4), p=0.3, signature="tok:13a").verdict == "reproduced"
    assert judge(near, found(-1.6, -1.4), p=0.3, signature="tok:none").verdict.startswith("cannot tell: needs ")


def test_the_power_is_for_what_is_seen_where_sizes_are_not_compared() -> None:
    assert judge(NONE_DE_EN, found(-0.1, 0.1, sd=0.5), p=1.0).verdict == "cannot tell: needs over 1000 seeds"
    assert judge(NONE_DE_EN, found(-1.0, 0.2, sd=0.5), p=0.1).seeds_needed == 15


def test_two_untrained_arms_and_a_study_cut_short_are_no_evidence() -> None:
    words = "its mean is 0.3 BLEU, chance reaches 2"
    for p in (0.002, 0.9):
        told = judge(NONE_DE_EN, found(-0.05, 0.05, untrained=words), p=p)
        assert (told.verdict, told.because) == ("cannot tell: the baseline does not train", words)
        assert judge(NONE_DE_EN, found(-3.0, -1.0), p=p, steps=99).verdict == "cannot tell: cut short"
    apart = judge(NONE_DE_EN, found(-3.0, -1.0, broken=(0, 10), untrained=words))
    assert apart.verdict == "cannot tell: the baseline does not train"
