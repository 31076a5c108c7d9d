"""The specification of a study: names, labels, and invalid arguments."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normscope.results.store import StudyFolder, write_json
from normscope.studies.compare import StudyMismatch, check_folder
from normscope.studies.options import StudyOptions
from normscope.studies.plan import plan, record
from normscope.studies.repeat import call_that_repeats
from normscope.studies.spec import GRID, PAPER_NORMS, Arm, StudySpec, make_study
from normscope.tasks import TASKS, ImageClassification, Recipe


def test_defaults_are_the_main_job() -> None:
    study_spec = make_study("digits")
    assert [arm.norm.name for arm in study_spec.arms] == list(PAPER_NORMS)
    assert study_spec.seeds == tuple(range(10))
    assert study_spec.labels()[study_spec.baseline] == "layer_norm"
    assert {arm.placement.text for arm in study_spec.arms} == {"pre"}


def test_labels_are_as_brief_as_keeps_arms_apart() -> None:
    study_spec = make_study("digits", norms=["ada_norm", "ada_norm(scale=2.0)"], placements=["pre", "post"])
    assert study_spec.labels() == (
        "ada_norm@pre",
        "ada_norm(scale=2.0)@pre",
        "ada_norm@post",
        "ada_norm(scale=2.0)@post",
    )
    assert make_study("digits", norms=["dyt"]).labels() == ("dyt",)


def test_equal_content_is_one_study() -> None:
    assert make_study("digits").id == make_study("digits").id
    base = make_study("digits")
    others = [
        make_study("digits", seeds=range(9)),
        make_study("digits", steps=7),
        make_study("digits", margin=0.3),
        make_study("digits", norms=PAPER_NORMS[:-1]),
        make_study("digits", placements=["post"]),
        make_study("digits", precision="bfloat16"),
        make_study("digits", tune=True),
        make_study("digits", baseline="none"),
    ]
    assert len({base.id, *(study_spec.id for study_spec in others)}) == 1 + len(others)


def test_a_changed_task_is_another_study(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["digits"]
    assert isinstance(task, ImageClassification)
    base, tuned = make_study("digits").id, make_study("digits", tune=True).id
    for change in ({"revision": 3}, {"batch_size": 16}, {"learning_rate": 1e-3}):
        monkeypatch.setitem(TASKS, "digits", dataclasses.replace(task, **change))
        assert make_study("digits", steps=1000).id != base
    monkeypatch.setitem(TASKS, "digits", task)
    monkeypatch.setattr("normscope.studies.spec.GRID", (*GRID, 10.0))
    assert make_study("digits").id == base
    assert make_study("digits", tune=True).id != tuned


@pytest.mark.parametrize("seeds", [[0.5, 1.0], [True, False], ["0"]])
def test_seeds_are_whole_numbers(seeds: list[Any]) -> None:
    with pytest.raises(TypeError, match="seeds must be a whole number or a sequence of whole numbers or None, got"):
        make_study("digits", seeds=seeds)


def test_numpys_seeds_are_seeds() -> None:
    study_spec = make_study("digits", seeds=np.arange(3))  # pyright: ignore[reportArgumentType]
    assert study_spec == make_study("digits", seeds=range(3))
    assert study_spec.id == make_study("digits", seeds=range(3)).id


def test_a_text_is_no_list() -> None:
    with pytest.raises(TypeError, match=r"norms must be a sequence of strings, got .*: write \['layer_norm'\]"):
        make_study("digits", norms="layer_norm")
    with pytest.raises(TypeError, match=r"placements must be a sequence of strings, got 'pre' .*: write \['pre'\]"):
        make_study("digits", placements="pre")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"norms": ["adanorm"]}, LookupError, "did you mean 'ada_norm'"),
        ({"placements": ["prenorm"]}, LookupError, "did you mean 'pre'"),
        ({"placements": ["preactivation"]}, ValueError, "takes the placements pre, post, output, peri, got 'preactiv"),
        ({"norms": ["ada_norm(scale=-1.0)"]}, ValueError, "scale"),
        ({"norms": ["ada_norm(skale=1.0)"]}, ValueError, "ada_norm has no argument .skale."),
        ({"norms": ["dyt", "dyt"]}, ValueError, "every arm must differ from the others, got dyt, dyt"),
        ({"norms": []}, ValueError, "at least one arm"),
        ({"seeds": [1, 1]}, ValueError, r"different whole numbers from 0 up, got \[1, 1\]"),
        ({"seeds": []}, ValueError, "seeds must be different"),
        ({"margin": 0.0}, ValueError, "margin must be positive and finite, in % of test error, got 0.0"),
        ({"steps": 0}, ValueError, "steps must be a whole number of at least 1, got 0"),
        ({"baseline": "frn"}, ValueError, "baseline must be one of the arms none, layer_norm"),
        ({"tune": True, "seeds": [1000]}, ValueError, "are reserved for tuning"),
        ({"norms": ["weight_norm(dim=1)"]}, ValueError, "weight_norm takes no arguments"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make_study("digits", **options)


def test_an_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(LookupError, match="did you mean 'mnist_mlp'"):
        make_study("mnistmlp")


def test_alpha_must_be_a_probability() -> None:
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 0.5, got 1\.5"):
        dataclasses.replace(make_study("digits"), alpha=1.5)


def test_learning_rates_reach_the_recipe() -> None:
    study_spec = make_study("digits", norms=["none", "dyt"])
    tuned = study_spec.with_learning_rates({"none": 0.5, "dyt": 0.25})
    assert [tuned.recipe(arm).learning_rate for arm in tuned.arms] == [0.5, 0.25]
    assert isinstance(tuned, StudySpec)
    assert isinstance(tuned.arms[0], Arm)


def test_warm_ups_are_arms() -> None:
    study_spec = make_study("digits", norms=["none", "layer_norm"], warmups=[0, 50])
    assert study_spec.labels() == (
        "none, warm-up 0",
        "layer_norm, warm-up 0",
        "none, warm-up 50",
        "layer_norm, warm-up 50",
    )
    assert [study_spec.recipe(arm).warmup for arm in study_spec.arms] == [0, 0, 50, 50]
    assert study_spec.labels()[study_spec.baseline] == "layer_norm, warm-up 0"
    both = make_study(
        "digits", norms=["none"], placements=["pre", "post"], warmups=[0, 50], baseline="none@post, warm-up 50"
    )
    assert both.labels() == (
        "none@pre, warm-up 0",
        "none@pre, warm-up 50",
        "none@post, warm-up 0",
        "none@post, warm-up 50",
    )
    assert both.labels()[both.baseline] == "none@post, warm-up 50"


def test_one_warm_up_for_all_is_no_difference_of_arms() -> None:
    study_spec = make_study("digits", norms=["none", "layer_norm"], warmups=[50])
    assert study_spec.labels() == ("none", "layer_norm")
    assert {study_spec.recipe(arm).warmup for arm in study_spec.arms} == {50}
    assert study_spec.id != make_study("digits", norms=["none", "layer_norm"]).id


@pytest.mark.parametrize(
    ("warmups", "words"),
    [
        ([0, 0], "every arm must differ from the others, got layer_norm, layer_norm"),
        ([-1], "warmup must be a whole number of at least 0, got -1"),
    ],
)
def test_warm_ups_that_make_no_sense_are_refused(warmups: list[Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_study("digits", norms=["layer_norm"], warmups=warmups)


def test_an_arm_with_the_tasks_own_warm_up_is_no_other_arm() -> None:
    arm = Arm.parse("layer_norm", "pre")
    study_spec = make_study("digits", norms=["layer_norm"])
    with pytest.raises(ValueError, match="every arm must differ from the others"):
        dataclasses.replace(study_spec, arms=(arm, dataclasses.replace(arm, warmup=0)))


def test_tuned_rates_go_to_the_arm_with_their_warm_up() -> None:
    study_spec = make_study("digits", norms=["layer_norm"], warmups=[0, 50], tune=True)
    tuned = study_spec.with_learning_rates({"layer_norm, warm-up 0": 0.5, "layer_norm, warm-up 50": 0.25})
    found = [(tuned.recipe(arm).warmup, tuned.recipe(arm).learning_rate) for arm in tuned.arms]
    assert found == [(0, 0.5), (50, 0.25)]
    assert tuned.labels() == study_spec.labels()


def test_a_preset_is_everything_that_the_specification_omits() -> None:
    small, full = make_study("digits"), make_study("digits", preset="full")
    assert (small.preset, full.preset) == ("small", "full")
    presets = TASKS["digits"].presets
    assert (small.steps, full.steps) == (presets["small"].steps, presets["full"].steps)
    assert full.recipe(full.arms[0]) == presets["full"]
    # As many updates as the small one, and yet another study.
    assert make_study("digits", preset="full", steps=small.steps).id != small.id


def test_a_preset_keeps_its_own_optimizer_and_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Recipe(
        steps=70,
        batch_size=8,
        learning_rate=0.5,
        optimizer="sgd",
        schedule="inverse_sqrt",
        warmup=7,
        clip=0.25,
        average=2,
        weight_decay=0.1,
    )
    task = TASKS["digits"]

    class Large:
        def __init__(self, recipe: Recipe) -> None:
            self.presets = {"large": recipe}

        def __getattr__(self, name: str) -> Any:
            return getattr(task, name)

    monkeypatch.setitem(TASKS, "digits", Large(own))
    study_spec = make_study("digits", norms=["none", "layer_norm"], preset="large", precision="bfloat16")
    assert study_spec.recipe(study_spec.arms[0]) == dataclasses.replace(own, precision="bfloat16")
    other = make_study("digits", norms=["none", "layer_norm"], preset="large", warmups=[7])
    assert other.recipe(other.arms[0]) == own
    changed = dataclasses.replace(own, clip=0.5)
    before = study_spec.id
    monkeypatch.setitem(TASKS, "digits", Large(changed))
    assert make_study("digits", norms=["none", "layer_norm"], preset="large", precision="bfloat16").id != before


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="preset must be one of small, full, got 'huge'"):
        make_study("digits", preset="huge")
    for study_spec in (make_study("digits"), make_study("digits", norms=["none"], warmups=[0, 5])):
        with pytest.raises(ValueError, match="preset must be one of small, full, got 'huge'"):
            dataclasses.replace(study_spec, preset="huge")


def test_several_placements_in_one_network_are_an_arm() -> None:
    study_spec = make_study(
        "digits", norms=["layer_norm"], placements=["pre", "pre+post:1-2", "peri+output:feed_forward"]
    )
    assert study_spec.labels() == ("layer_norm@pre", "layer_norm@pre+post:1-2", "layer_norm@peri+output:feed_forward")


@pytest.mark.parametrize("placement", ["pre+deepnorm:1", "mix", "mix(share=0.5)+pre:1", "none", "pre+post:1+rezero:2"])
def test_every_part_of_a_placement_must_be_one_that_the_task_takes(placement: str) -> None:
    strange = next(name for name in ("deepnorm", "mix", "rezero", "none") if name in placement)
    with pytest.raises(ValueError, match=f"task digits takes the placements pre, post, output, peri, got '{strange}'"):
        make_study("digits", placements=[placement])


def test_several_norms_in_one_network_are_an_arm() -> None:
    study_spec = make_study("digits", norms=["layer_norm", "layer_norm+ada_norm(scale=2.0):final"])
    assert study_spec.labels() == ("layer_norm", "layer_norm+ada_norm(scale=2.0):final")
    assert study_spec.arms[1].norm.arguments == {}
    with pytest.raises(LookupError, match="there is no norm 'adanorm': did you mean 'ada_norm'"):
        make_study("digits", norms=["layer_norm+adanorm:final"])


def test_a_placement_without_norms_is_one_arm() -> None:
    study_spec = make_study("rt", norms=["layer_norm", "ada_norm", "none"], placements=["pre", "rezero", "none"])
    assert study_spec.labels() == ("layer_norm@pre", "ada_norm@pre", "none@pre", "none@rezero", "none@none")


def test_the_options_of_compare_are_those_of_make_study() -> None:
    parameters = inspect.signature(make_study).parameters
    assert list(StudyOptions.__annotations__) == [name for name in parameters if name != "task"]
    for name, kind in StudyOptions.__annotations__.items():
        assert kind == parameters[name].annotation, name


def test_targets_belong_to_the_question() -> None:
    plain = make_study("digits", norms=["layer_norm", "rms_norm"], seeds=8)
    study = make_study("digits", norms=["layer_norm", "rms_norm"], seeds=8, targets=["12", "baseline"])
    assert study.targets is not None
    assert (study.targets.values, study.targets.margin) == ((12.0, "baseline"), 1.1)
    wide = make_study("digits", norms=["layer_norm", "rms_norm"], seeds=8, targets=[12, "baseline"], target_margin=1.2)
    assert len({plain.id, study.id, wide.id}) == 3
    card = record(study, command="", tuned=None, tuning=None)
    assert card["targets"] == {"values": [12.0, "baseline"], "margin": 1.1}
    assert "targets" not in record(plain, command="", tuned=None, tuning=None)
    # The runs are the same, so that they can be reused.
    assert [spec.id for spec in plan(study)] == [spec.id for spec in plan(plain)]
    assert "targets=[12.0, 'baseline'], target_margin=1.2" in call_that_repeats(wide, None)
    assert "target" not in call_that_repeats(plain, None)
    for wrong in (["best"], [12, 12.0]):
        with pytest.raises(ValueError, match="target"):
            make_study("digits", targets=wrong)


def test_a_folder_takes_more_seeds_and_no_other_targets(tmp_path: Path) -> None:
    norms = ["layer_norm", "rms_norm"]
    study, folder = make_study("digits", norms=norms, seeds=8, targets=[12]), StudyFolder(tmp_path)
    write_json(folder.card, record(study, command="", tuned=None, tuning=None))
    check_folder(make_study("digits", norms=norms, seeds=9, targets=[12]), folder)
    for other in ({"targets": [13]}, {"targets": [12, "baseline"]}, {}, {"targets": [12], "target_margin": 1.3}):
        with pytest.raises(StudyMismatch, match="only more seeds may be added"):
            check_folder(make_study("digits", norms=norms, seeds=9, **other), folder)


def test_a_number_of_seeds_means_the_first_ones() -> None:
    assert make_study("digits", seeds=3).seeds == (0, 1, 2)
    assert make_study("digits", seeds=[0, 1, 2]) == make_study("digits", seeds=3)
    for wrong in (True, 0, -1):
        with pytest.raises((TypeError, ValueError), match="seeds must be"):
            make_study("digits", seeds=wrong)


def test_labels_show_learning_rates_where_arms_differ_in_nothing_else() -> None:
    rates = (5e-4, 1e-3)
    arms = tuple(Arm.parse("layer_norm", "post", learning_rate=rate, warmup=0) for rate in rates)
    spec = dataclasses.replace(make_study("rt", norms=["layer_norm"]), arms=arms)
    assert spec.labels() == ("layer_norm, rate 0.0005", "layer_norm, rate 0.001")
    # Tuned rates are no part of a label: tuned and untuned arms share theirs.
    tuned = make_study("rt", norms=["layer_norm", "rms_norm"]).with_learning_rates({"layer_norm": 0.1, "rms_norm": 0.2})
    assert tuned.labels() == ("layer_norm", "rms_norm")
    with pytest.raises(ValueError, match="every arm must differ from the others, got layer_norm, layer_norm"):
        dataclasses.replace(spec, arms=(arms[0], arms[0]))
