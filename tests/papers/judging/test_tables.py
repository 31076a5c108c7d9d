"""Rows of words: the paper's decimals, nothing invented, nothing that breaks the page."""

from normscope.papers import PAPERS
from normscope.papers.judging.agreement import Judgement, not_run
from normscope.papers.judging.cell import Epsilon
from normscope.papers.judging.tables import (
    LISTED,
    RESULT,
    audit_rows,
    gradient_rows,
    list_rows,
    markdown,
    number,
    obstacle_rows,
    result_rows,
)
from support.digits_paper import difference, diverges, value

COSTS = {"label": "ada_norm", "parameters": 5, "step_ms": 1.25, "peak_bytes": None, "saved_bytes": 2_000_000}


def told(**changed: object) -> dict:
    given = {"cell": difference(0.29), "task": "digits", "verdict": "reproduced", "because": "near", **changed}
    return Judgement(**given).to_dict()  # pyright: ignore[reportArgumentType]


def test_numbers_have_the_papers_decimals() -> None:
    cells = {cell.id: cell for cell in PAPERS["xu2019"].cells}
    wanted = {
        "rt/ada_norm-layer_norm": "+0.29",
        "rt/layer_norm": "77.21",
        "iwslt14_de_en/ada_norm-layer_norm": "+0.1",
        "enwik8/detach_norm-none": "+0.08",
        "wmt14_en_de/none": "diverges",
    }
    for name, words in wanted.items():
        assert number(cells[name].published, {"kind": cells[name].kind, "unit": cells[name].metric.unit}) == words
    assert number(31.16, {"kind": "value", "unit": "BLEU"}) == "31.16"
    assert number(1e-7, {"kind": "value", "unit": "nats"}) == "1e-07"
    assert number(0.0, {"kind": "difference", "unit": "%"}) == "+0.00"


def test_rows_show_the_interval_and_leave_out_what_is_not_known() -> None:
    whole = told(ours=0.1, interval=(-0.5, 0.7), epsilon=Epsilon(value=1.8, reason="its error"))
    assert result_rows([whole]) == [(whole["says"], "+0.29", "+0.10 (-0.50 to +0.70)", "±1.8", "reproduced", "near")]
    assert result_rows([told(cell=value(97.5), ours=None)])[0][1:4] == ("97.50", "", "")
    assert result_rows([told(cell=diverges())])[0][1] == "diverges"
    assert len(RESULT) == 6


def test_a_cell_is_audited_once() -> None:
    assert len(audit_rows([told(), told(task="rt")])) == 1


def test_list_says_where_a_cell_can_be_run() -> None:
    paper = PAPERS["xu2019"]
    lacking = {task: "" if task in ("rt", "ud_ewt") else "not here" for task in paper.tasks}
    rows = {row[0]: row for row in list_rows(paper.cells, paper.counts, lacking)}
    assert all(len(row) == len(LISTED) for row in rows.values())
    assert rows["LayerNorm on RT"][3] == "yes"
    assert rows["LayerNorm on PTB"][3] == "stand-in: ud_ewt"
    assert rows["LayerNorm on Enwiki8"][3] == "no"
    assert rows["AdaNorm is better than LayerNorm on 7 of 8 data sets"][1] == "7"
    other = PAPERS["xiong2020"]
    never = [row[3] for row in list_rows(other.cells, (), dict.fromkeys(other.tasks, ""))]
    assert "no: 3.4 billion words and weeks of GPUs" in never


def test_page_names_the_stand_in_and_escapes_what_would_break_it() -> None:
    stand_in = told(task="rt", because="a | b <script>")
    lost = not_run(difference(1.0), "no data").to_dict()
    content = {
        "title": "Nobody (1998)",
        "command": "normscope reproduce digits1998",
        "stand_ins": {"rt": "films in place of digits"},
        "studies": [
            {
                **{"task": "rt", "folder": "there", "regime": "small", "seeds": [0, 1], "steps": 5, "preset_steps": 9},
                **{"signature": "nrefs:1|tok:13a", "norms_at": "final", "costs": [COSTS]},
                **{"runs": [{"label": "ada_norm", "done": 1, "planned": 2}], "exploratory": ""},
                "looks": {"pairs": [1, 2], "spending": "pocock"},
                "tuning": {"grid": [0.1, 0.3], "seeds": [1000], "arms": {"ada_norm": {"chosen": 0.3}}},
                "without_norms": {
                    "chosen": "fixup",
                    "candidates": {
                        "rezero": {"learning_rate": 0.1, "value": None},
                        "fixup": {"learning_rate": 0.3, "value": 12.5},
                    },
                    **{"metric": "validation error", "unit": "%", "trials": 4},
                },
            }
        ],
        "cells": [stand_in, lost],
        "gradients": None,
        "not_drawn": "",
    }
    page = markdown(content)
    assert "**A stand-in for digits**: films in place of digits" in page
    assert "a \\| b &lt;script>" in page
    assert "**Cut short**: 5 of the preset's 9 updates" in page
    assert "## Over data sets, and what was not run" in page
    assert "Differences from the paper's setting: nothing" in page
    assert "Our scorer: nrefs:1|tok:13a.  " in page
    assert "Norms replaced: the final norms, one at the end of each stream; layer norm elsewhere" in page
    assert "| ada_norm | 5 | 1.25 |  | 2.0 |" in page
    assert "## Evidence behind the published figures" in page
    assert "seeds 0, 1 at most, looks at 1, 2 (pocock) planned; runs that are done: ada_norm 1 of 2" in page
    assert "over 0.1, 0.3 with seed 1000: ada_norm 0.3; verdicts are those of the tuned arms" in page
    assert "is fixup, the best validation error (%) of 2 initializations made for it, on the tuning split, in 4" in page
    assert "rezero failed at 0.1, fixup 12.5 at 0.3; the plain one, without any, stands beside it" in page


def test_other_conditions_stand_behind_the_reason() -> None:
    untuned = Judgement(
        cell=difference(1.0), task="digits", verdict="cannot tell", because="", ours=0.5, interval=(0.1, 0.9)
    )
    row = told(beside=(("untuned", untuned), ("plain initialization", not_run(difference(1.0), "no study"))))
    (cells,) = result_rows([row])
    assert cells[-1].endswith("untuned: +0.50 (+0.10 to +0.90), cannot tell; plain initialization: not run here")
    assert row["beside"][0]["interval"] == [0.1, 0.9]


def test_open_claims_have_a_table() -> None:
    row = told(obstacle={"kind": "time", "words": "9 more seeds", "minutes": 3.0, "examples": None})
    assert obstacle_rows([row, told()]) == [(row["says"], "digits", row["verdict"], "9 more seeds")]


def test_a_page_of_the_figure_alone_has_no_empty_table() -> None:
    content = {"title": "T", "command": "c", "stand_ins": {}, "studies": [], "cells": [], "gradients": None}
    page = markdown({**content, "not_drawn": "it needs sentencepiece"})
    assert "Evidence behind" not in page
    assert page.endswith("## Gradients at initialization\n\nNot run here: it needs sentencepiece.\n")


def test_a_cell_names_which_norms_were_replaced() -> None:
    assert result_rows([told(norms_at="final")])[0][0] == "w/o Norm - LayerNorm on digits (ours: the final norms)"
    assert told(signature="tok:13a")["signature"] == "tok:13a"


def test_slopes_are_rows_too() -> None:
    line = {"says": "flat", "published": 0.0, "ours": 0.012, "interval": [-0.02, 0.04], "epsilon": 0.1, "growth": False}
    (row,) = gradient_rows([{**line, "verdict": "reproduced", "because": "near"}])
    assert row == ("flat", "+0.000", "+0.012 (-0.020 to +0.040)", "±0.1", "reproduced", "near")
    assert gradient_rows([{**line, "ours": None, "interval": None, "verdict": "x", "because": "y"}])[0][2] == ""
    (grows,) = gradient_rows([{**line, "growth": True, "verdict": "reproduced", "because": "it grows"}])
    assert (grows[1], grows[3]) == ("above 0", "")
