"""The three tables against the tasks' own copies of them, and against the differences that the paper prints itself."""

import pytest

from normscope.catalogue import TASKS
from normscope.papers.cell import PaperArm
from normscope.papers.xu2019 import FIGURES, XU2019, studies
from normscope.papers.xu2019 import TASKS as COLUMNS

CELLS = {cell.id: cell for cell in XU2019.cells}


@pytest.mark.parametrize("task", [task for task in COLUMNS if task in TASKS and TASKS[task].published])
def test_figures_are_those_that_stand_beside_the_task(task: str) -> None:
    rows = [each.rows for each in TASKS[task].published if "Xu et al." in each.source]
    assert rows
    for norm, figure in rows[0].items():
        assert CELLS[f"{task}/{norm}"].published == figure


def test_differences_are_the_improvements_of_table_2() -> None:
    # Printed there; of bits per character an improvement is a decrease.
    over_none = dict(zip(COLUMNS, (None, -0.1, -0.7, -0.08, -0.45, 1.49, -0.04, 1.48), strict=True))
    over_detach = dict(zip(COLUMNS, (None, 1.6, 3.9, 0.05, 0.26, 0.50, -0.01, -0.60), strict=True))
    for printed, pair in ((over_none, "detach_norm-none"), (over_detach, "layer_norm_simple-detach_norm")):
        for task, improvement in printed.items():
            if improvement is None:
                assert f"{task}/{pair}" not in CELLS
                continue
            cell = CELLS[f"{task}/{pair}"]
            sign = 1 if cell.metric.higher_is_better else -1
            assert cell.published == pytest.approx(sign * improvement, abs=1e-9)


def test_every_figure_is_a_cell_and_the_two_that_diverge_are_no_numbers() -> None:
    assert sum(cell.kind == "value" for cell in XU2019.cells) == 38
    assert [cell.id for cell in XU2019.cells if cell.kind == "diverges"] == [
        "wmt14_en_de/none",
        "wmt14_en_de/detach_norm",
    ]
    assert sum(cell.kind == "difference" for cell in XU2019.cells) == 5 * 8 - 3
    assert CELLS["rt/ada_norm-layer_norm"].published == 0.29


def test_counts_are_what_the_tables_count() -> None:
    for count in XU2019.counts:
        signs = []
        for name in count.cells:
            cell = CELLS[name]
            better = (cell.published or 0.0) * (1 if cell.metric.higher_is_better else -1)
            signs.append(1 if cell.kind == "diverges" else (better > 0) - (better < 0))
        assert len(signs) == 8
        assert sum(sign in count.wanted for sign in signs) == count.published
        assert sum(sign == 0 for sign in signs) == count.ties


@pytest.mark.parametrize("task", [task for task in XU2019.tasks if task in TASKS])
def test_every_task_takes_the_card_and_measures_what_the_cell_says(task: str) -> None:
    (study,) = studies(task, preset="small", seeds=(0, 1))
    assert study.card.labels()[study.card.baseline] == "layer_norm"
    assert set(study.labels.values()) == set(study.card.labels())
    assert set(study.labels) == {PaperArm(norm=norm) for norm in FIGURES}
    for cell in XU2019.cells:
        if task in cell.places:
            metric = TASKS[task].metric
            assert (metric.unit, metric.higher_is_better) == (cell.metric.unit, cell.metric.higher_is_better)


def test_every_task_that_is_named_exists() -> None:
    assert not [task for task in XU2019.tasks if task not in TASKS]


def test_stand_ins_say_what_they_are() -> None:
    named = {task for cell in XU2019.cells for task in cell.stand_ins}
    assert named == set(XU2019.stand_ins)
    assert not named & {cell.task for cell in XU2019.cells}
