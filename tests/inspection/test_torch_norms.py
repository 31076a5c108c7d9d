"""The norms of torch, and what is derived from them."""

from torch import nn

from normscope.inspection.equation import FEATURES_ON_AXIS_1, KINDS, OVER_FEATURES, base_of


def test_every_kind_is_its_own_base() -> None:
    made = [kind(4) for kind in KINDS if kind is not nn.GroupNorm]
    assert [base_of(module) for module in [*made, nn.GroupNorm(2, 4)]] == [*(type(each) for each in made), nn.GroupNorm]


def test_derived_classes_and_others() -> None:
    class LayerNorm2d(nn.LayerNorm):
        pass

    assert base_of(LayerNorm2d(4)) is nn.LayerNorm
    assert base_of(nn.Linear(4, 4)) is None
    assert base_of(nn.LocalResponseNorm(2)) is None


def test_all_that_have_running_moments_have_features_on_axis_1() -> None:
    for kind in KINDS:
        module = kind(2, 4) if kind is nn.GroupNorm else kind(4)
        assert (kind in FEATURES_ON_AXIS_1) == hasattr(module, "affine")
    assert not OVER_FEATURES.keys() & FEATURES_ON_AXIS_1.keys()
