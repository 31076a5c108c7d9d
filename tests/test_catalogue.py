"""The names, and what is said of a wrong one."""

import pytest
from torch import nn

from normscope import data
from normscope.catalogue import NORMS, PARAMETRIZATIONS, PLACEMENTS, TASKS, look_up
from normscope.names import parse_norm


def test_keys_are_the_names_of_the_files() -> None:
    for name, entry in NORMS.items():
        assert entry.__module__ == f"normscope.norms.{name}"


def test_a_misspelt_name_suggests_the_nearest() -> None:
    with pytest.raises(LookupError, match=r"there is no norm 'adanorm': did you mean 'ada_norm'\? There are none, "):
        look_up("norm", NORMS, "adanorm")


def test_a_strange_name_lists_them_all() -> None:
    with pytest.raises(LookupError, match="there is no placement 'zzzz': There are preactivation, post, pre"):
        look_up("placement", PLACEMENTS, "zzzz")


@pytest.mark.parametrize("name", TASKS)
def test_every_task_builds_with_every_norm_and_placement(name: str) -> None:
    task = TASKS[name]
    assert task.name == name
    assert set(task.datasets) <= set(data.SETS)
    for place in task.placements:
        for norm in NORMS:
            if norm == "frn" and name != "mnist_cnn":
                continue
            try:
                model = task.network(NORMS[norm], PLACEMENTS[place], "small")
            except data.DataNotFound as error:
                # The size of a vocabulary is known by its data, and some sets everybody must bring.
                pytest.skip(str(error))
            assert isinstance(model, nn.Module)


def test_published_figures_name_norms_that_exist() -> None:
    known = {**NORMS, **PARAMETRIZATIONS}
    for task in TASKS.values():
        for published in task.published:
            assert {parse_norm(text)[0] for text in published.rows} <= set(known)
