"""Warm-up studies: the paper's numbers where its data are, scaled ones elsewhere."""

import dataclasses

import pytest

from normscope.papers.judging.cell import Setup
from normscope.papers.xiong2020.study import TASK, XIONG2020, scaled, studies
from normscope.tasks import TASKS

STAND_IN = "multi30k_de_en"


def test_scaled_keeps_the_shares_of_the_paper() -> None:
    recipe = dataclasses.replace(TASKS[STAND_IN].presets["small"], warmup=400)
    assert [scaled(recipe, warmup) for warmup in (4000, 500, 0)] == [400, 50, 0]
    with pytest.raises(ValueError, match="at least 8 updates of warm-up, got 7"):
        scaled(dataclasses.replace(recipe, warmup=7), 0)


def test_two_studies_of_six_arms_that_differ_in_nothing_else() -> None:
    made = studies(STAND_IN, Setup(preset="small", seeds=(0, 1)))
    recipe = TASKS[STAND_IN].presets["small"]
    assert [study.name for study in made] == [f"{STAND_IN}-rate-0.0005", f"{STAND_IN}-rate-0.001"]
    for study, rate in zip(made, (5e-4, 1e-3), strict=True):
        card = study.spec
        assert len(card.arms) == 6
        assert {(arm.placement.text, arm.warmup) for arm in card.arms} == {
            (place, each) for place in ("post", "pre") for each in (0, round(recipe.warmup / 8), recipe.warmup)
        }
        assert {card.recipe(arm).learning_rate for arm in card.arms} == {rate}
        assert card.recipe(card.arms[card.baseline]).warmup == recipe.warmup
        assert card.arms[card.baseline].placement.text == "post"


def test_labels_lead_to_the_arm_they_name() -> None:
    for study in studies(STAND_IN, Setup(preset="small", seeds=(0,))):
        by_label = dict(zip(study.spec.labels(), study.spec.arms, strict=True))
        longest = TASKS[STAND_IN].presets["small"].warmup
        for theirs, label in study.labels.items():
            ours = by_label[label]
            assert ours.placement.text == theirs.placement
            assert ours.warmup == round(longest * (theirs.warmup or 0) / 4000)


def test_every_claim_that_can_be_run_has_its_two_arms_in_one_study() -> None:
    made = studies(STAND_IN, Setup(preset="small", seeds=(0,)))
    for cell in XIONG2020.cells:
        if cell.never_run or STAND_IN not in cell.places:
            continue
        sides = {cell.arm} | ({cell.baseline} if cell.baseline else set())
        assert sum(sides <= study.labels.keys() for study in made) == 1, cell.id


@pytest.mark.skipif(TASK not in TASKS, reason="the paper's own task is not in this version")
def test_the_papers_own_task_in_full_takes_the_papers_numbers() -> None:
    for study, rate in zip(studies(TASK, Setup(preset="full", seeds=(0,))), (5e-4, 1e-3), strict=True):
        assert {arm.warmup for arm in study.spec.arms} == {0, 500, 4000}
        assert {arm.learning_rate for arm in study.spec.arms} == {rate}


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="preset must be one of"):
        studies(STAND_IN, Setup(preset="huge", seeds=(0,)))


def test_the_cards_take_everything_of_the_setup() -> None:
    setup = Setup(preset="full", seeds=(3,), device="cuda", precision="bfloat16", compile=True)
    for study in studies(STAND_IN, setup):
        card = study.spec
        assert (card.preset, card.seeds, card.device, card.precision, card.compile) == (
            *("full", (3,), "cuda", "bfloat16", True),
        )
        assert card.steps == TASKS[STAND_IN].presets["full"].steps
