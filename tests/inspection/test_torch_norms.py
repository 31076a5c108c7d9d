"""The norms of torch, and what is derived from them."""

from torch import nn

from normscope.inspection.norm_in_model import TORCH_NORMS, torch_base


def test_every_kind_is_its_own_base() -> None:
    made = [kind(4) for kind in TORCH_NORMS if kind is not nn.GroupNorm]
    assert [torch_base(module) for module in [*made, nn.GroupNorm(2, 4)]] == [
        *(type(each) for each in made),
        nn.GroupNorm,
    ]


def test_derived_classes_and_others() -> None:
    class LayerNorm2d(nn.LayerNorm):
        pass

    assert torch_base(LayerNorm2d(4)) is nn.LayerNorm
    assert torch_base(nn.Linear(4, 4)) is None
    assert torch_base(nn.LocalResponseNorm(2)) is None


def test_all_that_have_running_moments_have_features_on_axis_1() -> None:
    for kind in TORCH_NORMS:
        module = kind(2, 4) if kind is nn.GroupNorm else kind(4)
        assert TORCH_NORMS[kind].channels_first == hasattr(module, "affine")
