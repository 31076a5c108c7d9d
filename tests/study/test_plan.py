"""From a card to its runs."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from normscope.catalogue import NORMS
from normscope.study import make_card
from normscope.study.plan import RunSpec, plan, spec_for

CARD = make_card("digits", norms=["layer_norm", "ada_norm(scale=2.0)", "weight_norm"], seeds=[3, 4])


def test_a_plan_goes_seed_by_seed() -> None:
    assert [(spec.seed, spec.norm) for spec in plan(CARD)] == [
        (seed, norm) for seed in (3, 4) for norm in ("layer_norm", "ada_norm", "weight_norm")
    ]


def test_the_name_is_the_content() -> None:
    base = plan(CARD)[1]
    changes = [
        {"seed": 9},
        {"arguments": {"scale": 2.5}},
        {"placement": "post"},
        {"norm": "dyt"},
        {"revision": 2},
        {"split": "tune"},
        {"recipe": replace(base.recipe, steps=9)},
        {"recipe": replace(base.recipe, learning_rate=9.0)},
        {"recipe": replace(base.recipe, precision="bfloat16")},
    ]
    assert len({base.id, *(replace(base, **change).id for change in changes)}) == 1 + len(changes)
    assert replace(base, label="another word for it").id == base.id


def test_a_spec_survives_the_way_to_another_process() -> None:
    for spec in plan(CARD):
        assert RunSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
        assert RunSpec.from_json(json.loads(json.dumps(spec.to_json()))).id == spec.id


def test_models_of_one_seed_start_equal() -> None:
    first, second, third = (spec.build() for spec in plan(CARD)[:3])
    assert torch.equal(first.get_submodule("stem").weight, second.get_submodule("stem").weight)
    x = torch.randn(4, 64)
    plain = make_card("digits", norms=["none"])
    untouched = spec_for(plain, plain.arms[0], "none", seed=3, split="study").build()
    # Weight normalization starts as the network without it, but for the rounding of v * (g / |v|).
    torch.testing.assert_close(third(x), untouched(x), rtol=1e-4, atol=1e-5)


def test_an_arm_without_effect_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = plan(CARD)[0]
    from normscope.catalogue import TASKS

    class Deaf:
        def network(self, norm: object, placement: object) -> nn.Module:
            return nn.Linear(2, 2)

    monkeypatch.setitem(TASKS, "digits", Deaf())
    with pytest.raises(ValueError, match="arm layer_norm placed no norm in the network of digits"):
        spec.build()


@pytest.mark.parametrize("norm", [name for name in NORMS if name != "frn"])
def test_every_norm_can_be_drawn_from_named_streams(norm: str) -> None:
    card = make_card("digits", norms=[norm], placements=["peri"])
    model = plan(card)[0].build()
    assert model(torch.randn(5, 64)).isfinite().all()
