"""The cells of Ba et al. (2016) against the printed tables, and its studies."""

import re

import pytest

from normscope.papers import PAPERS
from normscope.papers.ba2016 import BA2016
from normscope.papers.ba2016.study import ARMS, studies
from normscope.papers.judging.cell import PaperArm, Setup
from normscope.tasks import TASKS

CELLS = {cell.id: cell for cell in BA2016.cells}

TABLE2 = """
Sym       45.4 -    88.7 5.8 36.3 -    85.8 9.0
OE-V      46.7 -    88.9 5.7 37.9 -    85.9 8.1
OE        46.6 79.3 89.1 5.2 37.8 73.6 85.7 7.9
OE+LN     48.5 80.6 89.8 5.1 38.9 74.3 86.3 7.6
"""
TABLE3 = """
Original  0.848 0.778 0.287 75.5 79.3 92.1 86.9
Ours      0.842 0.767 0.298 77.3 81.8 92.6 87.9
Ours+LN   0.854 0.785 0.277 79.5 82.6 93.4 89.0
Dagger    0.858 0.788 0.270 79.4 83.1 93.7 89.3
"""


def printed(table: str) -> list[list[float]]:
    return [[float(word) for word in line.split()[1:] if word != "-"] for line in table.split("\n") if line]


@pytest.mark.parametrize(("name", "table", "row"), [("table2", TABLE2, 8), ("table3", TABLE3, 7)])
def test_every_cell_of_the_tables_is_there_as_it_is_printed(name: str, table: str, row: int) -> None:
    cells = [cell for cell in BA2016.cells if cell.tables == (name,)]
    wanted = printed(table)
    values = [cell.published or 0.0 for cell in cells if cell.kind == "value"]
    assert sorted(values) == sorted(value for line in wanted for value in line)
    by_row: dict[str, list[float]] = {}
    for cell in cells:
        if cell.kind == "value":
            by_row.setdefault(cell.id.split("/")[1], []).append(cell.published or 0.0)
    assert list(by_row.values()) == wanted
    differences = [cell for cell in cells if cell.kind == "difference"]
    assert len(differences) == row
    by_name = {"table2": (wanted[3], wanted[2]), "table3": (wanted[2], wanted[1])}[name]
    assert [cell.published for cell in differences] == [round(a - b, 3) for a, b in zip(*by_name, strict=True)]
    # Higher is better but for ranks and squared errors; layer norm is better in every column.
    assert all((cell.direction > 0) is cell.metric.higher_is_better for cell in differences)


def test_the_two_bounds_and_the_figure_of_mnist() -> None:
    draw = [(cell.id, cell.published) for cell in BA2016.cells if cell.task == "draw_mnist" and cell.kind == "value"]
    assert draw == [("draw_mnist/baseline", 82.36), ("draw_mnist/layer-norm", 82.09)]
    assert CELLS["draw_mnist/layer_norm-none"].published == -0.27
    for task in ("mnist_mlp", "mnist_mlp_batch4"):
        (figure,) = TASKS[task].published
        values = [cell for cell in BA2016.cells if cell.task == task and cell.kind == "value" and not cell.never_run]
        cells = {cell.arm.norm: cell.published for cell in values}
        assert {norm: cells[norm] for norm in figure.rows} == figure.rows


def test_every_sentence_on_speed_is_a_cell_with_its_source() -> None:
    faster = {cell.id: cell for cell in BA2016.cells if cell.kind == "faster"}
    assert set(faster) == {
        "coco_order/layer_norm-faster-none",
        "cnn_cloze/layer_norm-faster-none",
        "cnn_cloze/layer_norm-faster-batch_norm",
        "cnn_cloze/layer_norm-faster-batch_norm-everywhere",
        "book_corpus_skip_thoughts/layer_norm-faster-none",
        "draw_mnist/layer_norm-faster-none",
        "iam_ondb/layer_norm-faster-none",
        "mnist_mlp/layer_norm-faster-batch_norm",
        "mnist_mlp_batch4/layer_norm-faster-batch_norm",
        "cifar10/layer_norm-faster-none",
    }
    assert all(re.match(r"Section 6\.\d.*'.+'$", cell.source) for cell in faster.values())
    ratios = {cell.task: cell.published for cell in faster.values() if cell.published is not None}
    assert ratios == {"coco_order": 0.6, "draw_mnist": 0.5}


def test_experiments_know_their_stand_ins() -> None:
    places = {cell.task: cell.places for cell in BA2016.cells}
    assert places["cifar10"] == ("cifar10", "cifar10_part", "mnist_cnn")
    assert places["iam_ondb"] == ("iam_ondb", "omniglot_strokes", "kanji_strokes")
    assert set(places) == set(ARMS)
    assert {name for others in places.values() for name in others[1:]} == set(BA2016.stand_ins)
    assert PAPERS["ba2016"] is BA2016
    for cell in BA2016.cells:
        arms = {arm for arm in (cell.arm, cell.baseline) if arm is not None}
        assert arms <= set(ARMS[cell.task]) or cell.never_run


@pytest.mark.parametrize("preset", ["small", "full"])
@pytest.mark.parametrize("task", [task for task in BA2016.tasks if task in TASKS])
def test_a_study_has_the_arms_of_the_paper_and_fits_its_cells(task: str, preset: str) -> None:
    (study,) = studies(task, Setup(preset=preset, seeds=(0,), tune=True))
    assert study.name == f"{task}-tuned"
    assert study.spec.arms[study.spec.baseline].norm.name == "none"
    assert list(study.labels.values()) == list(study.spec.labels())
    for cell in (cell for cell in BA2016.cells if task in cell.places and not cell.never_run and not cell.measure):
        metric = TASKS[task].metric
        assert (cell.metric.unit, cell.metric.higher_is_better) == (metric.unit, metric.higher_is_better)


def test_layer_norms_of_a_convnet_are_over_whole_layers() -> None:
    (study,) = studies("mnist_cnn", Setup(preset="small", seeds=(0,)))
    assert {arm.variant for arm in study.spec.arms} == {"whole_layers"}
    (study,) = studies("mnist_mlp_batch4", Setup(preset="small", seeds=None, looks=(8, 12)))
    assert study.labels[PaperArm(norm="batch_norm(unbiased=True)")] == "batch_norm(unbiased=True)"
    assert study.spec.looks is not None
    with pytest.raises(ValueError, match="preset must be one of small, full, got 'large'"):
        studies("mnist_mlp", Setup(preset="large", seeds=(0,)))
