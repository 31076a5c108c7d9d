"""The names, and what is said of a wrong one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from normscope import data
from normscope.norms import NORMS, PARAMETRIZATIONS
from normscope.placement import PLACEMENTS
from normscope.registry import look_up
from normscope.specs import NormSpec, find_task
from normscope.tasks import TASKS, UserFileChanged
from support.made_norms import MIXES_POSITIONS


def test_keys_are_the_names_of_the_files() -> None:
    for name, entry in NORMS.items():
        assert entry.__module__ == f"normscope.norms.{name}"


def test_a_misspelt_name_suggests_the_nearest() -> None:
    with pytest.raises(LookupError, match=r"there is no norm 'adanorm': did you mean 'ada_norm'\? There are none, "):
        look_up("norm", NORMS, "adanorm")


def test_of_names_that_a_misspelt_one_begins_with_the_longest_is_suggested() -> None:
    with pytest.raises(LookupError, match="did you mean 'tiny_shakespeare_lstm'"):
        look_up("task", TASKS, "tiny_shakespeare_lstmm")


def test_a_strange_name_lists_them_all() -> None:
    with pytest.raises(LookupError, match="there is no placement 'zzzz': There are preactivation, post, pre"):
        look_up("placement", PLACEMENTS, "zzzz")


@pytest.mark.slow
@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("name", TASKS)
def test_every_task_builds_with_every_norm_and_placement(name: str) -> None:
    task = TASKS[name]
    assert task.name == name
    assert set(task.datasets) <= set(data.SETS)
    for place in task.placements:
        for norm in NORMS:
            if norm in MIXES_POSITIONS and name != "mnist_cnn":
                continue
            # Batch norm has moments of every time step, and texts, drawings and glimpses have none.
            stepless = ("tiny_shakespeare_", "omniglot_", "kanji_", "iam_", "coco_order", "multi30k_order", "draw_")
            if norm == "batch_norm" and (name.startswith(stepless) or name.endswith("_skip_thoughts")):
                continue
            assert isinstance(task.network(NORMS[norm], PLACEMENTS[place], "small"), nn.Module)


def test_published_figures_name_norms_that_exist() -> None:
    known = {**NORMS, **PARAMETRIZATIONS}
    for task in TASKS.values():
        for published in task.published:
            assert {NormSpec.parse(text).name for text in published.rows} <= set(known)


def test_a_users_file_is_read_once_until_it_is_asked_for_anew(user_file: Callable[..., str]) -> None:
    name = user_file()
    first = find_task(name)
    user_file(("margin=1.0", "margin=2.0"))
    assert find_task(name) is first
    again = find_task(name, anew=True)
    assert (first.margin, again.margin) == (1.0, 2.0)
    assert find_task(name) is again
    assert find_task(name, anew=True) is again


def test_a_file_that_is_not_what_it_was_is_not_even_read(user_file: Callable[..., str], tmp_path: Path) -> None:
    revision = find_task(user_file()).revision
    name = user_file(path=tmp_path / "other" / "my_file.py")
    assert find_task(name, revision=revision).revision == revision
    edited = user_file(("margin=1.0", "margin=1.0 / 0"), path=tmp_path / "third" / "my_file.py")
    with pytest.raises(UserFileChanged, match="put it back"):
        find_task(edited, revision=revision)


@pytest.mark.parametrize("name", ["my_file.py", "my_file.py:", "my_file.py:a-b"])
def test_a_file_without_its_function_is_no_misspelt_task(name: str) -> None:
    with pytest.raises(ValueError, match=r"such as my_file.py:make, got"):
        find_task(name)


@pytest.mark.parametrize("name", ["a:make", "a.py::make", "a.ipynb:make"])
def test_half_the_name_of_a_function_in_a_file_is_told(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"expected a file and a function in it, such as my_file\.py:make, got '{name}'"
    ):
        find_task(name)
