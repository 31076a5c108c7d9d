"""The three tables as the poster prints them, and the differences that it prints itself."""

import pytest

from normscope.papers.judging.cell import PaperArm, Setup
from normscope.papers.xu2019.study import COLUMNS, NORMS, RELEASED, XU2019, figures, studies
from normscope.tasks import TASKS

CELLS = {cell.id: cell for cell in XU2019.cells}


def test_figures_are_the_posters() -> None:
    # Typed off the poster, row by row: En-De, De-En, En-Vi, Enwiki8, RT, SST5, MNIST, PTB; None diverges.
    rows = {
        "none": (None, 34.0, 28.4, 1.04, 76.85, 38.55, 99.14, 88.31),
        "layer_norm": (28.3, 35.5, 31.2, 1.07, 77.21, 39.23, 99.13, 89.12),
        "layer_norm_simple": (28.4, 35.5, 31.6, 1.07, 76.66, 40.54, 99.09, 89.19),
        "detach_norm": (None, 33.9, 27.7, 1.12, 76.40, 40.04, 99.10, 89.79),
        "ada_norm": (28.5, 35.6, 31.4, 1.07, 77.50, 40.54, 99.35, 89.23),
    }
    assert tuple(rows) == NORMS
    for norm, row in rows.items():
        assert tuple(figures(task)[norm] for task in COLUMNS) == row
        assert tuple(CELLS[f"{task}/{norm}"].published for task in COLUMNS) == row


def test_a_task_without_the_column_has_no_figures() -> None:
    with pytest.raises(LookupError, match=r"digits should have the figures of .* beside it once, it has 0"):
        figures("digits")


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
    (study,) = studies(task, Setup(preset="small", seeds=(0, 1)))
    assert study.spec.labels()[study.spec.baseline] == "layer_norm"
    assert set(study.labels.values()) == set(study.spec.labels())
    assert set(study.labels) == {PaperArm(norm=norm) for norm in NORMS}
    for cell in XU2019.cells:
        if task in cell.places:
            metric = TASKS[task].metric
            assert (metric.unit, metric.higher_is_better) == (cell.metric.unit, cell.metric.higher_is_better)


@pytest.mark.parametrize("task", RELEASED)
def test_the_final_norms_alone_are_a_study_of_their_own(task: str) -> None:
    (everywhere,) = studies(task, Setup(preset="small", seeds=(0,)))
    (final,) = studies(task, Setup(preset="small", seeds=(0,), norms_at="final"))
    assert (everywhere.name, everywhere.norms_at, final.name, final.norms_at) == (task, "all", f"{task}-final", "final")
    assert everywhere.labels.keys() == final.labels.keys()
    assert everywhere.labels[PaperArm(norm="ada_norm")] == "ada_norm"
    assert final.labels[PaperArm(norm="ada_norm")] == "layer_norm+ada_norm:final"
    assert final.labels[PaperArm(norm="none")] == "layer_norm+none:final"
    assert final.labels[PaperArm(norm="layer_norm")] == "layer_norm" == final.spec.labels()[final.spec.baseline]


def test_only_de_en_has_a_released_code() -> None:
    assert set(RELEASED) == set(CELLS["iwslt14_de_en/none"].places)
    (study,) = studies("rt", Setup(preset="small", seeds=(0,), norms_at="final"))
    assert (study.name, study.norms_at) == ("rt", "all")


def test_the_card_takes_everything_of_the_setup() -> None:
    setup = Setup(preset="full", seeds=(3, 4), steps=9000, device="cuda", precision="bfloat16", compile=True)
    card = studies("iwslt14_de_en", setup)[0].spec
    assert (card.preset, card.seeds, card.steps, card.device, card.precision, card.compile) == (
        *("full", (3, 4), 9000, "cuda", "bfloat16", True),
    )


def test_what_diverges_has_layer_norm_as_what_trains() -> None:
    broken = [cell for cell in XU2019.cells if cell.kind == "diverges"]
    assert {cell.baseline for cell in broken} == {PaperArm(norm="layer_norm")}


def test_every_task_that_is_named_exists() -> None:
    assert not [task for task in XU2019.tasks if task not in TASKS]


def test_stand_ins_say_what_they_are() -> None:
    named = {task for cell in XU2019.cells for task in cell.stand_ins}
    assert named == set(XU2019.stand_ins)
    assert not named & {cell.task for cell in XU2019.cells}
