"""Arms that are variants of a task."""

import json
from pathlib import Path

import pytest
import torch

from normscope import compare, make_study, summarize
from normscope.norms import LayerNorm
from normscope.recurrent.places import PLACES
from normscope.registry import UnknownName
from normscope.results.store import StudyFolder
from normscope.results.summary import read_summary
from normscope.specs import PlacementSpec
from normscope.studies.plan import RunSpec, plan
from normscope.studies.repeat import call_that_repeats
from normscope.tasks import TASKS
from normscope.tasks.recurrent import VARIANTS, PixelSequences
from support.in_process import InThisProcess

TWO = {"norms": ["none", "layer_norm"], "variants": ["default", "kiros"], "seeds": 2}


def test_arms_are_norms_times_variants() -> None:
    spec = make_study("sequential_mnist", **TWO)
    labels = ("none, default", "layer_norm, default", "none, kiros", "layer_norm, kiros")
    assert spec.labels() == labels
    assert spec.baseline == 1
    assert make_study("sequential_mnist", **TWO, baseline="layer_norm, kiros").baseline == 3
    assert [run.variant for run in plan(spec)[:4]] == [None, None, "kiros", "kiros"]
    assert make_study("sequential_mnist", norms=["none"], variants=["kiros"]).labels() == ("none",)
    repeated = call_that_repeats(spec, None)
    assert "variants=['default', 'kiros']" in repeated
    assert "variants" not in call_that_repeats(make_study("sequential_mnist", norms=["none", "layer_norm"]), None)


def test_a_variant_changes_the_run_and_only_its_own() -> None:
    spec, plain = make_study("sequential_mnist", **TWO), make_study("sequential_mnist", norms=TWO["norms"], seeds=2)
    runs, others = plan(spec), plan(plain)
    assert [run.id for run in others] == [run.id for run in runs if run.variant is None]
    assert len({run.id for run in runs}) == len(runs)
    assert RunSpec.from_json(runs[-1].to_json()) == runs[-1]
    assert runs[-1].identity()["variant"] == "kiros"
    assert "variant" not in runs[0].identity()
    assert spec.id != plain.id
    assert make_study("sequential_mnist", **{**TWO, "variants": ["default"]}).id == plain.id


def test_the_network_of_a_variant_is_the_variant_s() -> None:
    runs = plan(make_study("sequential_mnist", **TWO))
    x = torch.randn(2, 5, 1)
    outputs = []
    for run in runs[:4]:
        model = run.build()
        with torch.no_grad():
            for bias in (model.layer.bias_ih_l0, model.layer.bias_hh_l0):
                bias.copy_(torch.linspace(-1, 1, len(bias)))
        outputs.append(model(x))
    # Without norms nothing is added twice.
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.allclose(outputs[1], outputs[3])


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if isinstance(task, PixelSequences)])
def test_every_variant_builds(name: str) -> None:
    task = TASKS[name]
    for variant in task.variants:
        model = task.varied(variant).network(LayerNorm, PlacementSpec("preactivation").build(), "small")
        assert model.layer.places == PLACES[task.cell][variant.replace("_", " ")]
    assert tuple(task.variants) == tuple(VARIANTS[task.cell])


def test_a_variant_that_does_not_exist_is_named() -> None:
    with pytest.raises(
        UnknownName,
        match=r"no variant of sequential_mnist 'kirros': did you mean 'kiros'.* There are default, kiros, per_gate",
    ):
        make_study("sequential_mnist", norms=["none"], variants=["kirros"])
    with pytest.raises(ValueError, match="task digits has no variants, got 'kiros'"):
        make_study("digits", norms=["none"], variants=["kiros"])


def test_card_runs_and_summary_have_the_variant(tmp_path: Path, small_data: Path) -> None:
    spec = make_study("sequential_mnist", norms=["layer_norm"], variants=["default", "kiros"], steps=2, seeds=1)
    summary = compare(spec, out=tmp_path, engine=InThisProcess())
    study = StudyFolder(tmp_path)
    arms = study.read_card()["arms"]
    assert [arm.get("variant") for arm in arms] == [None, "kiros"]
    runs = [study.run(name) for arm in arms for name in arm["runs"].values()]
    assert [run.read_description().get("variant") for run in runs] == [None, "kiros"]
    assert [arm.variant for arm in summary.arms] == [None, "kiros"]
    assert [arm.state for one in summary.arms for arm in one.runs] == ["done", "done"]
    stored = json.loads((tmp_path / "summary.json").read_text())["arms"]
    assert [arm.get("variant") for arm in stored] == [None, "kiros"]
    assert summarize(tmp_path) == read_summary(tmp_path)
