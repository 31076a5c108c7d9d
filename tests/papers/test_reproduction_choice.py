"""Which cells and tasks a request comes to."""

import sys
from pathlib import Path

import pytest

from normscope.papers import PAPERS, ReproductionRequest, choose, missing
from normscope.papers.judging.cell import Paper, Setup
from normscope.papers.request import missing_packages

pytestmark = pytest.mark.usefixtures("small_data")


def test_a_slip_of_the_finger_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(LookupError, match=r"there is no paper 'xu2091': did you mean 'xu2019'\?"):
        choose(ReproductionRequest(paper="xu2091"))
    with pytest.raises(LookupError, match=r"no task, table or figure 'sst-5': did you mean 'sst5'\? There are wmt14"):
        choose(ReproductionRequest(paper="xu2019", only=("sst-5",)))
    with pytest.raises(LookupError, match=r"did you mean 'table3'\?"):
        choose(ReproductionRequest(paper="xu2019", only=("tabel3",)))
    with pytest.raises(LookupError, match=r"did you mean 'gradients'\?"):
        choose(ReproductionRequest(paper="xiong2020", only=("gradient",)))


def test_tasks_and_tables_choose_what_both_name() -> None:
    chosen = choose(ReproductionRequest(paper="xu2019", only=("rt", "table3")))
    assert chosen.tasks == ("rt",)
    assert "rt/ada_norm-layer_norm" in {cell.id for cell in chosen.cells}
    assert all("table3" in cell.tables and cell.task == "rt" for cell in chosen.cells)
    assert len(choose(ReproductionRequest(paper="xu2019", only=("rt",))).cells) == 10


def test_a_stand_in_is_run_when_it_is_named() -> None:
    chosen = choose(ReproductionRequest(paper="xu2019", only=("ud_ewt",)))
    assert chosen.tasks == ("ud_ewt",)
    assert {cell.task for cell in chosen.cells} == {"ptb"}


def test_without_names_a_missing_set_is_tried_on_its_first_stand_in(paper: Paper, monkeypatch) -> None:
    monkeypatch.setitem(PAPERS, paper.name, paper)
    digits, _, mnist = paper.cells
    assert choose(ReproductionRequest(paper=paper.name)).cells == paper.cells
    assert "digits" in choose(ReproductionRequest(paper=paper.name)).tasks
    lost = type(mnist)(**{**mnist.__dict__, "task": "no_such_task", "stand_ins": ("nowhere", "digits")})
    other = type(paper)(**{**paper.__dict__, "cells": (digits, lost)})
    monkeypatch.setitem(PAPERS, paper.name, other)
    assert choose(ReproductionRequest(paper=paper.name)).tasks == ("digits",)


def test_the_figure_alone_runs_no_study() -> None:
    chosen = choose(ReproductionRequest(paper="xiong2020", only=("gradients",)))
    assert (chosen.cells, chosen.counts, chosen.tasks, chosen.figures) == ((), (), (), ("gradients",))


def test_counts_go_with_their_cells_and_tables() -> None:
    assert [one.id for one in choose(ReproductionRequest(paper="xu2019", only=("rt", "table3"))).counts] == [
        "ada-better"
    ]
    assert len(choose(ReproductionRequest(paper="xu2019", only=("ud_ewt",))).counts) == 4


def test_norms_that_a_paper_does_not_replace_are_refused() -> None:
    assert choose(ReproductionRequest(paper="xu2019", norms_at="final")).paper.name == "xu2019"
    with pytest.raises(ValueError, match="xiong2020 replaces norms at: all; got 'final'"):
        choose(ReproductionRequest(paper="xiong2020", norms_at="final"))


def test_the_setup_is_the_requests() -> None:
    request = ReproductionRequest(
        paper="xu2019", seeds=(1, 2), preset="full", steps=5, device="cuda", precision="bfloat16"
    )
    given = {"preset": "full", "seeds": (1, 2), "steps": 5, "device": "cuda", "precision": "bfloat16"}
    assert request.setup == Setup(**given, tune=True)


def test_a_package_that_is_not_here_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sentencepiece", "sacrebleu"):
        # What the import system itself holds for a package that cannot be imported.
        monkeypatch.setitem(sys.modules, name, None)
    words = "it needs sentencepiece and sacrebleu: `pip install normscope[text]` brings them"
    assert missing("multi30k_de_en") == missing_packages("multi30k_de_en") == words
    assert missing_packages("rt") == ""
    assert "multi30k_de_en" not in choose(ReproductionRequest(paper="xu2019")).tasks


def test_missing_says_what_is_not_here() -> None:
    assert missing("digits") == ""
    assert missing("wmt_14") == "this version has no such task"


def test_folder() -> None:
    assert ReproductionRequest(paper="xu2019").folder == Path("runs/xu2019")
    assert ReproductionRequest(paper="xu2019", out=Path("there")).folder == Path("there")
