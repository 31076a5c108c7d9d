"""Stacked training: a member is the run of its seed alone, up to rounding, and harms no other."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from normscope.results.store import RunFolder, StudyFolder
from normscope.studies.plan import RunSpec, plan, stacked_with
from normscope.studies.run import execute
from normscope.studies.spec import StudySpec, make_study
from normscope.tasks import ImageClassification
from normscope.training import stacked

SEEDS = range(4)


def study(
    task: str = "digits", norm: str = "layer_norm", *, stack: bool = True, steps: int = 8, **options: object
) -> StudySpec:
    return make_study(task, norms=[norm], seeds=list(SEEDS), steps=steps, stack_seeds=stack, **options)


def runs_of(*given: object, **options: object) -> list[RunSpec]:
    """Return the runs of a study with two evaluations: between them the members are computed together."""
    return [replace(spec, recipe=replace(spec.recipe, evaluations=2)) for spec in plan(study(*given, **options))]


def go_on(step: int, loss: float) -> bool:
    return False


def compute(specs: list[RunSpec], folder: Path, watch: Callable[[int, float], bool] = go_on) -> StudyFolder:
    execute(specs[0], StudyFolder(folder), watch, beside=specs[1:])
    return StudyFolder(folder)


def alone(spec: RunSpec, folder: Path) -> RunFolder:
    single = replace(spec, stacked=False)
    execute(single, StudyFolder(folder), go_on)
    return StudyFolder(folder).run(single.id)


def assert_same_run(got: RunFolder, want: RunFolder, atol: float = 2e-5) -> None:
    """Compare two runs, whose sums of some hundred float32 numbers were added in another order for a few updates."""
    ours, theirs = got.read_result(), want.read_result()
    for key in ("state", "selected_step", "steps", "parameters", "reason"):
        assert ours[key] == theirs[key], key
    assert ours["valid_value"] == pytest.approx(theirs["valid_value"], abs=1e-9)
    rows, others = got.read_metrics(), want.read_metrics()
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others, strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], abs=atol)
        assert row["valid_loss"] == pytest.approx(other["valid_loss"], abs=atol)
        assert row["gradient"].keys() == other["gradient"].keys()
        for name, shares in row["gradient"].items():
            assert shares == pytest.approx(other["gradient"][name], abs=100 * atol)
    if ours["state"] == "done":
        assert np.array_equal(got.read_examples(), want.read_examples())


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(
    ("task", "norm"), [("digits", "layer_norm"), ("digits", "batch_norm"), ("mnist_mlp_batch4", "rms_norm")]
)
def test_a_seed_of_several_is_the_seed_alone(task: str, norm: str, tmp_path: Path) -> None:
    specs = runs_of(task, norm, steps=5)[:3]
    if norm == "batch_norm":
        # The gradients of biases in front of a batch norm are rounding alone, which Adam would divide by their size.
        specs = [replace(spec, recipe=replace(spec.recipe, optimizer="sgd")) for spec in specs]
    folder = compute(specs, tmp_path / "together")
    assert_same_run(folder.run(specs[2].id), alone(specs[2], tmp_path / "alone"))


TASKS = ("digits", "mnist_mlp", "mnist_mlp_batch4", "mnist_cnn", "cifar10_part")
NORMS = ("none", "layer_norm", "rms_norm", "ada_norm", "dyt", "batch_norm", "group_norm(num_groups=2)")


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(
    ("task", "norm"),
    [*(("digits", norm) for norm in NORMS), *((task, "layer_norm") for task in TASKS[1:]), ("mnist_cnn", "batch_norm")],
)
def test_an_update_of_a_stack_is_that_of_each_member(task: str, norm: str, tmp_path: Path) -> None:
    specs = runs_of(task, norm)[:2]
    runs = []
    for spec in specs:
        folder, made = RunFolder(tmp_path / spec.id), spec.begin()
        folder.path.mkdir()
        member = stacked.Member(
            task=made, build=partial(spec.build, made), seed=spec.seed, folder=folder, identity=spec.identity()
        )
        runs.append(stacked._Run(member, replace(spec.recipe, batch_size=4), spec.split, "small"))
    found = []
    for way in ("_gradients", "_gradients_one_by_one"):
        stack = stacked._Stack(runs, runs, runs[0].outcome.recipe, stacked._Clock(go_on))
        before = {name: kept.clone() for name, kept in stack.buffers.items()}
        getattr(stack, way)()
        moved = {f"moved {name}": kept - before[name] for name, kept in stack.buffers.items()}
        slopes = {name: weight.grad for name, weight in stack.weights.items()}
        found.append({"loss": torch.tensor([run.loss for run in runs]), **moved, **slopes})
        for name, kept in stack.buffers.items():
            kept.copy_(before[name])
    assert found[0].keys() == found[1].keys()
    for name, got in found[0].items():
        # Sums of some hundred numbers in float32, in another order.
        torch.testing.assert_close(
            got, found[1][name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_stacked_run_has_another_name_and_no_costs_and_plain_runs_keep_theirs(tmp_path: Path) -> None:
    specs, plain = (runs_of(stack=stack, steps=4) for stack in (True, False))
    assert not {spec.id for spec in specs} & {spec.id for spec in plain}
    assert "stacked" not in plain[0].identity()
    # The name of this run before there were stacks.
    assert plan(make_study("digits", norms=["layer_norm"], seeds=[0], steps=20))[0].id == "c0d3d59d0105d8e4"
    folder = compute(specs, tmp_path)
    described = json.loads(folder.run(specs[1].id).description.read_text())
    assert described["stacked"] is True
    result = folder.run(specs[1].id).read_result()
    assert [result[key] for key in ("step_ms", "peak_bytes", "saved_bytes", "seconds")] == [None] * 4
    assert all(row["seconds"] is None for row in folder.run(specs[1].id).read_metrics())


def test_a_member_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    specs = runs_of(steps=6)[:3]
    begin, poisoned = RunSpec.build, specs[1].seed

    def build(spec: RunSpec, task: object = None) -> nn.Module:
        model = begin(spec, task)
        if spec.seed == poisoned:
            with torch.no_grad():
                model.stem.weight[0, 0] = math.nan
        return model

    with patch.object(RunSpec, "build", build):
        folder = compute(specs, tmp_path / "together")
        failed = folder.run(specs[1].id).read_result()
        assert failed["state"] == "diverged"
        assert failed["reason"] == "the training loss was nan at step 1"
    for spec in (specs[0], specs[2]):
        assert_same_run(folder.run(spec.id), alone(spec, tmp_path / "alone"))


@pytest.mark.parametrize("rule", ["norm", "tensor", "reader2016"])
def test_clipping_and_decay_are_per_member(rule: str, tmp_path: Path) -> None:
    specs = [
        replace(spec, recipe=replace(spec.recipe, clip=0.3, clip_rule=rule, weight_decay=0.1, warmup=3))
        for spec in runs_of(steps=5)[:3]
    ]
    folder = compute(specs, tmp_path / "together")
    assert_same_run(folder.run(specs[2].id), alone(specs[2], tmp_path / "alone"))


@pytest.mark.parametrize("optimizer", ["sgd", "radam", "adam_kiros2015"])
def test_optimizers_are_per_member(optimizer: str, tmp_path: Path) -> None:
    specs = runs_of(steps=5, optimizers=[optimizer])[:2]
    folder = compute(specs, tmp_path / "together")
    assert_same_run(folder.run(specs[1].id), alone(specs[1], tmp_path / "alone"))


def test_a_stopped_stack_goes_on_also_where_its_members_are_at_different_steps(tmp_path: Path) -> None:
    specs = runs_of(steps=8)[:3]
    with patch.object(stacked, "PROGRESS_SECONDS", 0.0):
        compute(specs, tmp_path, lambda step, loss: step == 3)
        folder = StudyFolder(tmp_path)
        assert all(folder.run(spec.id).checkpoint.exists() and not folder.run(spec.id).finished() for spec in specs)
        behind = folder.run(specs[1].id).checkpoint.read_bytes()
        compute(specs, tmp_path, lambda step, loss: step == 5)
        folder.run(specs[1].id).checkpoint.write_bytes(behind)
        folder.run(specs[2].id).checkpoint.write_bytes(b"damaged")
        with pytest.warns(UserWarning, match="begins again"):
            compute(specs, tmp_path)
    for spec in specs:
        assert_same_run(folder.run(spec.id), alone(spec, tmp_path / "alone"))
        assert not folder.run(spec.id).checkpoint.exists()


def test_only_missing_runs_are_stacked_and_those_held_elsewhere_are_left(tmp_path: Path) -> None:
    specs = runs_of(steps=2)[:3]
    compute(specs[1:2], tmp_path)
    before = StudyFolder(tmp_path).run(specs[1].id).result.stat().st_mtime_ns
    assert execute(specs[0], StudyFolder(tmp_path), go_on, beside=specs[1:]) == "done"
    assert StudyFolder(tmp_path).run(specs[1].id).result.stat().st_mtime_ns == before
    assert StudyFolder(tmp_path).run(specs[2].id).state() == "done"
    assert execute(specs[0], StudyFolder(tmp_path), go_on) == "elsewhere"


def test_an_error_fails_every_run_that_has_not_ended(tmp_path: Path) -> None:
    specs = runs_of(steps=6)[:2]
    with patch.object(ImageClassification, "stacked_losses", side_effect=RuntimeError("no such loss")):
        compute(specs, tmp_path)
    for spec in specs:
        folder = StudyFolder(tmp_path).run(spec.id)
        assert folder.read_result()["reason"] == "RuntimeError: no such loss"
        assert "stacked_losses" in folder.error.read_text()


def test_workers_share_the_seeds_of_an_arm() -> None:
    specs = plan(make_study("digits", norms=["layer_norm", "rms_norm"], seeds=10, stack_seeds=True))
    study_folder, (first, *waiting) = StudyFolder(Path("none")), specs
    assert [one.seed for one in stacked_with(first, waiting, study_folder, 1)] == [1, 2, 3, 4]
    assert {one.label for one in stacked_with(first, waiting, study_folder, 1)} == {"layer_norm"}
    assert [one.seed for one in stacked_with(first, waiting, study_folder, 10)] == [1]
    assert stacked_with(replace(first, stacked=False), waiting, study_folder, 1) == []


@pytest.mark.parametrize(
    ("task", "options", "reason"),
    [
        ("rt", {}, "dropout; tasks that can: .*digits"),
        ("sequential_mnist", {}, "sequential_mnist cannot be stacked"),
        ("digits", {"compile": True}, "torch.compile"),
        ("digits", {"precision": "bfloat16"}, "bfloat16"),
        ("digits", {"norms": ["weight_norm"]}, "weight_norm"),
        ("digits", {"optimizers": ["muon"]}, "muon does not update every entry"),
    ],
)
def test_what_cannot_be_stacked_is_refused(task: str, options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_study(task, **{"norms": ["layer_norm"], "stack_seeds": True, **options})


def test_a_study_of_stacked_seeds_is_summarized(tmp_path: Path) -> None:
    import normscope

    folder = tmp_path / "study"
    options = {"norms": ["layer_norm", "rms_norm"], "looks": [6, 7], "steps": 4, "stack_seeds": True}
    summary = normscope.compare("digits", out=folder, workers=1, **options)
    results = [RunFolder(run).read_result() for run in (folder / "runs").iterdir()]
    assert len(results) >= 12
    assert {result["state"] for result in results} == {"done"}
    assert all(arm.step_ms is None for arm in summary.arms)
    assert json.loads((folder / "card.json").read_text())["stack_seeds"] is True
    with pytest.raises(normscope.studies.StudyMismatch):
        normscope.compare("digits", out=folder, **{**options, "stack_seeds": False})
