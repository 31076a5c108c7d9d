"""The runs of a study."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from normscope.norms import NORMS
from normscope.specs import NormSpec, PlacementSpec
from normscope.studies.compare import default_folder
from normscope.studies.plan import RunSpec, plan, spec_for
from normscope.studies.spec import make_study
from normscope.tasks import BaseTask, UserFileChanged
from support.made_norms import NEEDS_POSITIONS

STUDY_SPEC = make_study("digits", norms=["layer_norm", "ada_norm(scale=2.0)", "weight_norm"], seeds=[3, 4])


def test_a_plan_goes_seed_by_seed() -> None:
    assert [(spec.seed, spec.norm.name) for spec in plan(STUDY_SPEC)] == [
        (seed, norm) for seed in (3, 4) for norm in ("layer_norm", "ada_norm", "weight_norm")
    ]


def test_the_name_is_the_content() -> None:
    base = plan(STUDY_SPEC)[1]
    changes = [
        {"seed": 9},
        {"norm": NormSpec("ada_norm", {"scale": 2.5})},
        {"placement": PlacementSpec("post")},
        {"norm": NormSpec("dyt")},
        {"revision": 7},
        {"split": "tune"},
        {"recipe": replace(base.recipe, steps=9)},
        {"recipe": replace(base.recipe, learning_rate=9.0)},
        {"recipe": replace(base.recipe, precision="bfloat16")},
        {"recipe": replace(base.recipe, warmup=3)},
        {"recipe": replace(base.recipe, clip=1.0)},
        {"preset": "full"},
    ]
    assert len({base.id, *(replace(base, **change).id for change in changes)}) == 1 + len(changes)
    assert replace(base, label="another word for it").id == base.id


def test_a_spec_survives_the_way_to_another_process() -> None:
    for spec in plan(STUDY_SPEC):
        assert RunSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
        assert RunSpec.from_json(json.loads(json.dumps(spec.to_json()))).id == spec.id


def test_models_of_one_seed_start_equal() -> None:
    first, second, third = (spec.build() for spec in plan(STUDY_SPEC)[:3])
    assert torch.equal(first.get_parameter("stem.weight"), second.get_parameter("stem.weight"))
    x = torch.randn(4, 64)
    plain = make_study("digits", norms=["none"])
    untouched = spec_for(plain, plain.arms[0], "none", seed=3, split="study").build()
    # Weight normalization starts as the network without it, but for the rounding of v * (g / |v|).
    torch.testing.assert_close(third(x), untouched(x), rtol=1e-4, atol=1e-5)


def test_an_arm_without_effect_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = plan(STUDY_SPEC)[0]
    from normscope.tasks import TASKS

    class Deaf(BaseTask):
        def network(self, norm: object, placement: object, preset: str) -> nn.Module:
            return nn.Linear(2, 2)

    monkeypatch.setitem(TASKS, "digits", Deaf(name="digits", description="", margin=1.0, regime=""))
    with pytest.raises(ValueError, match="arm layer_norm placed layer_norm nowhere in the network of digits"):
        spec.build()


@pytest.mark.parametrize("norm", [name for name in NORMS if name not in NEEDS_POSITIONS])
def test_every_norm_can_be_drawn_from_named_streams(norm: str) -> None:
    study_spec = make_study("digits", norms=[norm], placements=["peri"])
    model = plan(study_spec)[0].build()
    assert model(torch.randn(5, 64)).isfinite().all()


def norms_of(model: nn.Module) -> dict[str, str]:
    kinds = ("LayerNorm", "AdaNorm", "RMSNorm", "NoNorm")
    return {name: type(module).__name__ for name, module in model.named_modules() if type(module).__name__ in kinds}


def built(norm: str, placement: str = "pre") -> nn.Module:
    study_spec = make_study("digits", norms=[norm], placements=[placement])
    return plan(study_spec)[0].build()


def test_norms_by_place_are_built_there() -> None:
    model = built("layer_norm+ada_norm(scale=2.5):final+rms_norm:2-3")
    assert norms_of(model) == {
        "stack.blocks.0.norm": "LayerNorm",
        "stack.blocks.1.norm": "RMSNorm",
        "stack.blocks.2.norm": "RMSNorm",
        "stack.blocks.3.norm": "LayerNorm",
        "stack.final_norm": "AdaNorm",
    }
    assert getattr(model.get_submodule("stack.final_norm"), "scale") == 2.5  # noqa: B009
    assert model(torch.randn(5, 64)).isfinite().all()


def test_placements_by_place_are_built_there() -> None:
    model = built("layer_norm", "pre+post:1-2")
    blocks = [type(block).__name__ for block in model.get_submodule("stack.blocks").children()]
    assert blocks == ["PostNorm", "PostNorm", "PreNorm", "PreNorm"]
    assert set(norms_of(model)) == {*(f"stack.blocks.{block}.norm" for block in range(4)), "stack.final_norm"}


def test_norms_by_place_share_their_first_weights_with_the_plain_arm() -> None:
    one, other = built("layer_norm").state_dict(), built("layer_norm+ada_norm:final").state_dict()
    assert set(one) - set(other) == {"stack.final_norm.weight", "stack.final_norm.bias"}
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("placement", ["rezero", "none"])
@pytest.mark.parametrize("norm", ["layer_norm", "ada_norm", "layer_norm+ada_norm:2"])
def test_a_norm_where_the_placement_has_none_is_an_error(norm: str, placement: str) -> None:
    spec = replace(plan(make_study("digits", norms=[norm]))[0], placement=PlacementSpec(placement))
    with pytest.raises(ValueError, match=r"arm \S+ placed \w+ nowhere in the network of digits"):
        spec.build()


@pytest.mark.parametrize("placement", ["rezero", "none"])
def test_without_norms_a_placement_without_norms_is_no_error(placement: str) -> None:
    spec = replace(plan(make_study("digits", norms=["none"]))[0], placement=PlacementSpec(placement))
    assert spec.build()(torch.randn(3, 64)).isfinite().all()


def test_what_acts_on_weights_needs_no_place_for_a_norm() -> None:
    spec = replace(plan(make_study("digits", norms=["weight_norm"]))[0], placement=PlacementSpec("none"))
    names = [name for name, _ in spec.build().named_parameters()]
    assert any("original" in name for name in names)


@pytest.mark.parametrize(
    ("norm", "placement"),
    [
        ("layer_norm+ada_norm:final", "post"),
        ("layer_norm+ada_norm:7", "pre"),
        ("layer_norm+ada_norm:attention", "pre"),
        ("layer_norm+ada_norm:qk", "pre"),
    ],
)
def test_a_norm_whose_place_is_not_there_is_an_error(norm: str, placement: str) -> None:
    """Built, it would be the plain layer_norm arm under another name."""
    with pytest.raises(ValueError, match="ada_norm"):
        built(norm, placement)


def test_a_placement_whose_layers_are_not_there_is_an_error() -> None:
    spec = replace(plan(make_study("digits", norms=["layer_norm"]))[0], placement=PlacementSpec("pre+post:9"))
    with pytest.raises(ValueError, match="arm layer_norm has a placement for 9, which does not occur in digits"):
        spec.build()
    assert replace(spec, placement=PlacementSpec("pre+post:4")).build()


def test_another_version_of_a_scorer_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = plan(make_study("multi30k_de_en", norms=["layer_norm"], seeds=[0]))[0]
    study_spec = make_study("multi30k_de_en", norms=["layer_norm"], seeds=[0])
    before = spec.id, study_spec.id
    monkeypatch.setattr("normscope.tasks.translation.bleu.version", lambda name: "9.9")
    assert plan(study_spec)[0].id != before[0]
    assert study_spec.id != before[1]


def test_a_users_file_is_named_without_its_folder_in_what_a_run_is(user_file: Callable[..., str]) -> None:
    study_spec = make_study(user_file(), norms=["layer_norm"], seeds=[3])
    (spec,) = plan(study_spec)
    assert spec.task == study_spec.task_name == "my_file.py:make"
    assert spec.file == study_spec.task
    assert spec.identity()["task"] == "my_file.py:make"
    assert "file" not in spec.identity()
    assert study_spec.question == "Does the norm matter on my_file.py:make?"


def test_a_study_of_a_file_is_the_same_from_everywhere(
    user_file: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_specs = [make_study(user_file(path=tmp_path / where / "my file.py")) for where in ("x", "y")]
    monkeypatch.chdir(tmp_path / "x")
    study_specs.append(make_study("my file.py:make"))
    assert len({study_spec.id for study_spec in study_specs}) == 1
    assert len({plan(study_spec)[0].id for study_spec in study_specs}) == 1
    assert len({str(default_folder(study_spec)) for study_spec in study_specs}) == 1


def test_an_edited_file_makes_another_study(user_file: Callable[..., str], tmp_path: Path) -> None:
    first = make_study(user_file(), norms=["layer_norm"], seeds=[3])
    was, spec = first.id, plan(first)[0]
    # A study keeps what it began with.
    name = user_file(("nn.ReLU", "nn.GELU"))
    assert first.id == was
    assert plan(first)[0] == spec
    second = make_study(name, norms=["layer_norm"], seeds=[3])
    assert second.id != was
    assert plan(second)[0].id != spec.id
    with pytest.raises(UserFileChanged, match=r"my_file.py, or what it imports, was changed after the study began"):
        spec.begin()
    user_file()
    assert [type(module).__name__ for module in spec.build().children()][2] == "ReLU"


def test_an_edited_neighbour_makes_another_study(user_file: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "width_of_a_plan_test.py").write_text("WIDTH = 8")
    change = ("import torch\nimport torch.nn", "import torch\nimport width_of_a_plan_test\nimport torch.nn")
    before = make_study(user_file(change)).id
    (tmp_path / "width_of_a_plan_test.py").write_text("WIDTH = 16")
    assert make_study(user_file(change)).id != before


def test_a_norm_that_draws_shifts_nothing(user_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawing(nn.LayerNorm):
        def reset_parameters(self) -> None:
            nn.init.normal_(self.weight)
            nn.init.zeros_(self.bias)

    monkeypatch.setitem(NORMS, "dyt", Drawing)
    first, second = (spec.build() for spec in plan(make_study(user_file(), norms=["layer_norm", "dyt"], seeds=[3])))
    for name in ("0.weight", "4.weight", "4.bias"):
        assert torch.equal(first.state_dict()[name], second.state_dict()[name])
    assert not torch.equal(first.get_parameter("1.weight"), second.get_parameter("1.weight"))


def test_a_users_network_without_the_norm_is_an_error(user_file: Callable[..., str]) -> None:
    spec = plan(make_study(user_file(("norm(8), ", "")), norms=["layer_norm"]))[0]
    with pytest.raises(ValueError, match=r"arm layer_norm placed layer_norm nowhere in the network of my_file.py:make"):
        spec.build()


def test_tuning_a_file_is_refused_with_the_reason(user_file: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match=r"my_file.py:make cannot be tuned: give the function a fourth parameter"):
        make_study(user_file(), tune=True)
    with pytest.raises(ValueError, match=r"my_file.py:make trains by itself, so steps"):
        make_study(user_file(driven=True), steps=5)
    make_study(user_file(("def train(model, callback)", "def train(model, callback, recipe)"), driven=True), steps=5)


def test_a_placement_that_the_file_does_not_take_is_refused(user_file: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match=r"takes the placements preactivation, got 'pre'"):
        make_study(user_file(), placements=["pre"])
