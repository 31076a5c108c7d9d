"""Optimizers as arms: names, labels, what the regime says, what is refused, and the runs of today."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from normscope import compare
from normscope.results.store import StudyFolder
from normscope.studies.plan import plan, record
from normscope.studies.preflight import ArmMisfit, preflight
from normscope.studies.repeat import call_that_repeats
from normscope.studies.spec import Arm, StudySpec, make_study
from normscope.tasks import TASKS
from support.in_process import InThisProcess

NAMES = ["layer_norm", "dyt"]
TAKES = ("    def train(model, callback):\n", "    def train(model, callback, recipe):\n")
FOLLOWS = ("torch.optim.SGD(model.parameters(), lr=0.1)", "recipe.make_optimizer(model)")


def regime(study_spec: StudySpec) -> str:
    return record(study_spec, command="", tuned=None, tuning=None)["regime"].partition(";")[0]


def test_arms_are_norms_times_optimizers() -> None:
    study_spec = make_study("digits", norms=NAMES, optimizers=["adam", "muon"], seeds=1)
    assert study_spec.labels() == ("layer_norm, adam", "dyt, adam", "layer_norm, muon", "dyt, muon")
    assert [run.recipe.optimizer for run in plan(study_spec)] == ["adam", "adam", "muon", "muon"]
    assert {run.recipe.learning_rate for run in plan(study_spec)} == {2e-3}
    assert make_study("digits", norms=NAMES, optimizers=["adam", "muon"], baseline="dyt, muon").baseline == 3
    both = make_study("digits", norms=["dyt"], placements=["pre", "post"], warmups=[0, 9], optimizers=["adam", "sgd"])
    assert both.labels()[-1] == "dyt@post, warm-up 9, sgd"


def test_an_arm_has_an_optimizer() -> None:
    arm = Arm.parse("dyt", "pre", optimizer="muon")
    assert arm.content()["optimizer"] == "muon"
    assert "optimizer" not in Arm.parse("dyt", "pre").content()


def test_the_tasks_own_optimizer_is_no_other_study() -> None:
    plain, named = (make_study("digits", norms=NAMES, **given) for given in ({}, {"optimizers": ["adam"]}))
    assert named == plain
    assert named.id == plain.id
    assert make_study("digits", norms=NAMES, optimizers=["muon"]).labels() == ("layer_norm", "dyt")


def test_the_regime_names_the_optimizers() -> None:
    muon = "Muon (AdamW for embeddings, input, output, gains and biases)"
    for optimizers, words in (
        (["adam"], "Adam"),
        (["muon"], muon),
        (["adam", "muon"], f"Adam and {muon}"),
        (["sgd", "radam"], "SGD and RAdam"),
    ):
        study_spec = make_study("digits", norms=NAMES, optimizers=optimizers)
        assert regime(study_spec) == TASKS["digits"].regime.replace("Adam", words)


def test_a_regime_in_the_users_words_gets_the_optimizer_at_its_end(user_file: Callable[..., str]) -> None:
    study_spec = make_study(user_file(), norms=["layer_norm"], optimizers=["sgd"])
    assert regime(study_spec) == "my_file.py:make and its data, optimizer: SGD"


def test_the_line_that_repeats_a_study_names_them() -> None:
    study_spec = make_study("digits", norms=NAMES, optimizers=["adam", "muon"])
    assert "optimizers=['adam', 'muon']" in call_that_repeats(study_spec, None)
    assert "optimizers" not in call_that_repeats(make_study("digits", norms=NAMES), None)


def test_an_unknown_optimizer_is_named() -> None:
    with pytest.raises(ValueError, match="optimizer must be one of adam, adam_kiros2015, radam, sgd, muon, got 'lion'"):
        make_study("digits", optimizers=["lion"])
    with pytest.raises(TypeError, match=r"optimizers must be a sequence of strings, got 'muon'"):
        make_study("digits", optimizers="muon")
    with pytest.raises(ValueError, match="every arm must differ"):
        make_study("digits", norms=["dyt"], optimizers=["muon", "muon"])


def test_a_network_without_hidden_matrices_is_refused_before_the_first_run(user_file: Callable[..., str]) -> None:
    one_layer = make_study(user_file(), norms=["layer_norm"], optimizers=["muon"], seeds=1)
    with pytest.raises(ArmMisfit, match="muon is for the matrices of hidden layers, and Sequential has none"):
        preflight(one_layer)


def test_a_loop_without_a_recipe_refuses_an_optimizer(user_file: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match=r"trains by itself, so steps, warm-up, optimizer and learning rate"):
        make_study(user_file(driven=True), norms=["layer_norm"], optimizers=["sgd"])
    with pytest.raises(ArmMisfit, match=r"optimizer=sgd and did not read it, so --optimizer would change nothing"):
        preflight(make_study(user_file(TAKES, driven=True), norms=["layer_norm"], optimizers=["sgd"], seeds=1))
    name = user_file(TAKES, FOLLOWS, driven=True)
    preflight(make_study(name, norms=["layer_norm"], optimizers=["sgd"], seeds=1))


def test_card_and_runs_have_the_optimizer(tmp_path: Path) -> None:
    study_spec = make_study("digits", norms=["layer_norm"], optimizers=["adam", "muon"], steps=4, seeds=1)
    compare(study_spec, out=tmp_path, engine=InThisProcess())
    study = StudyFolder(tmp_path)
    arms = study.read_card()["arms"]
    assert [arm["optimizer"] for arm in arms] == ["adam", "muon"]
    runs = [study.run(name) for arm in arms for name in arm["runs"].values()]
    assert [run.read_description()["optimizer"] for run in runs] == ["adam", "muon"]
    assert [run.read_result()["state"] for run in runs] == ["done", "done"]
    assert json.loads((tmp_path / "summary.json").read_text())["arms"][1]["label"] == "layer_norm, muon"


@pytest.mark.parametrize(
    ("task", "norm", "run", "study"),
    [
        ("digits", "ada_norm(k=0.3)", "18a4d27ef2f09054", "67510ee5d2"),
        ("mnist_cnn", "batch_norm", "2960228b7d0bb75e", "8a0ea52b56"),
        ("rt", "layer_norm", "18ed274423128f49", "2647b0c8e1"),
        ("ud_ewt", "detach_norm", "1cd1a1f73a4fc062", "1a284a7299"),
        ("enwiki_small", "layer_norm", "f6bb74fecbcaa9c4", "ef6b70bc82"),
        ("multi30k_de_en", "layer_norm", "3c479334d7a3d05a", "7192733d49"),
    ],
)
def test_runs_and_studies_of_before_keep_their_names(task: str, norm: str, run: str, study: str) -> None:
    study_spec = make_study(task, norms=[norm], seeds=1, splits="published")
    assert (plan(study_spec)[0].id, study_spec.id) == (run, study)
