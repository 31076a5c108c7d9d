"""Which cells and tasks a request comes to."""

from pathlib import Path

import pytest

from normscope.papers import PAPERS, Request, choose, missing
from normscope.papers.cell import Paper


def test_a_slip_of_the_finger_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(LookupError, match=r"there is no paper 'xu2091': did you mean 'xu2019'\?"):
        choose(Request(paper="xu2091"))
    with pytest.raises(LookupError, match=r"no task, table or figure 'sst-5': did you mean 'sst5'\? There are wmt14"):
        choose(Request(paper="xu2019", only=("sst-5",)))
    with pytest.raises(LookupError, match=r"did you mean 'table3'\?"):
        choose(Request(paper="xu2019", only=("tabel3",)))
    with pytest.raises(LookupError, match=r"did you mean 'gradients'\?"):
        choose(Request(paper="xiong2020", only=("gradient",)))


def test_tasks_and_tables_choose_what_both_name() -> None:
    chosen = choose(Request(paper="xu2019", only=("rt", "table3")))
    assert chosen.tasks == ("rt",)
    assert "rt/ada_norm-layer_norm" in {cell.id for cell in chosen.cells}
    assert all("table3" in cell.tables and cell.task == "rt" for cell in chosen.cells)
    assert len(choose(Request(paper="xu2019", only=("rt",))).cells) == 10


def test_a_stand_in_is_run_when_it_is_named() -> None:
    chosen = choose(Request(paper="xu2019", only=("ud_ewt",)))
    assert chosen.tasks == ("ud_ewt",)
    assert {cell.task for cell in chosen.cells} == {"ptb"}


def test_without_names_a_missing_set_is_tried_on_its_first_stand_in(paper: Paper, monkeypatch) -> None:
    monkeypatch.setitem(PAPERS, paper.name, paper)
    digits, _, mnist = paper.cells
    assert choose(Request(paper=paper.name)).cells == paper.cells
    assert "digits" in choose(Request(paper=paper.name)).tasks
    lost = type(mnist)(**{**mnist.__dict__, "task": "no_such_task", "stand_ins": ("nowhere", "digits")})
    other = type(paper)(**{**paper.__dict__, "cells": (digits, lost)})
    monkeypatch.setitem(PAPERS, paper.name, other)
    assert choose(Request(paper=paper.name)).tasks == ("digits",)


def test_the_figure_alone_runs_no_study() -> None:
    chosen = choose(Request(paper="xiong2020", only=("gradients",)))
    assert (chosen.cells, chosen.tasks, chosen.figures) == ((), (), ("gradients",))


def test_missing_says_what_is_not_here() -> None:
    assert missing("digits") == ""
    assert missing("wmt_14") == "this version has no such task"


def test_folder() -> None:
    assert Request(paper="xu2019").folder == Path("runs/xu2019")
    assert Request(paper="xu2019", out=Path("there")).folder == Path("there")
