"""Cells that contradict themselves are refused when they are written down."""

from dataclasses import replace

import pytest

from normscope.papers.judging.cell import Paper, PaperArm, PaperStudy
from normscope.studies import make_study
from support.digits_paper import NORMED, difference, diverges, value


def test_everything_but_a_value_has_a_baseline() -> None:
    with pytest.raises(ValueError, match=r"digits/none-layer_norm/1\.0: a cell has a baseline unless it is a value"):
        difference(1.0, baseline=None)
    with pytest.raises(ValueError, match="digits/none: a cell has a baseline unless it is a value"):
        diverges(baseline=None)
    with pytest.raises(ValueError, match="a cell has a baseline unless it is a value"):
        value(2.5, baseline=NORMED)
    assert diverges().published is None


def test_printed_figures_must_give_the_difference() -> None:
    assert difference(0.5, printed=(3.0, 2.5)).printed == (3.0, 2.5)
    with pytest.raises(ValueError, match=r"3\.0 - 2\.4 is not 0\.5"):
        difference(0.5, printed=(3.0, 2.4))
    with pytest.raises(ValueError, match="needs its published number"):
        value(1.0, published=None)


def test_ids_are_unique_and_counts_know_their_cells(paper: Paper) -> None:
    with pytest.raises(ValueError, match=r"\['digits/layer_norm'\] occur twice"):
        replace(paper, cells=(*paper.cells, paper.cells[1]))
    with pytest.raises(ValueError, match=r"no cells \['elsewhere'\]"):
        replace(paper, counts=(replace(paper.counts[0], cells=("elsewhere",)),))


def test_tasks_leave_out_what_nothing_can_run(paper: Paper) -> None:
    assert paper.tasks == ("digits", "mnist_mlp")
    never = replace(paper.cells[2], never_run="too large")
    assert replace(paper, cells=(*paper.cells[:2], never)).tasks == ("digits",)
    assert paper.tables == ("table1",)
    assert replace(paper.cells[0], stand_ins=("rt",)).places == ("digits", "rt")


def test_a_study_says_which_of_its_arms_is_which_of_the_paper() -> None:
    spec = make_study("digits", norms=["none", "layer_norm"], seeds=2)
    arms = [PaperArm(norm="none"), PaperArm(norm="layer_norm")]
    study = PaperStudy(name="digits", spec=spec, labels=dict(zip(arms, spec.labels(), strict=True)))
    assert study.labels[PaperArm(norm="layer_norm")] == "layer_norm"
    assert PaperArm(norm="none", warmup=500) not in study.labels
    assert study.norms_at == "all"
