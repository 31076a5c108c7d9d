"""Another norm in timm's models, built small and without weights: found, replaced, undone, and nothing else touched."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import normscope
from normscope.inspection.find import find_norms
from normscope.norms import NORMS, ChannelsFirst
from support.architectures import PIXELS, Architecture

timm = pytest.importorskip("timm", reason="timm needs a torchvision that fits this torch", exc_type=ImportError)


def run(model: nn.Module) -> Tensor:
    return model(PIXELS)


_TOKENS = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
_MAPS = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16), "num_classes": 5}
_WINDOWS = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 4)}

TIMM = {
    # Two a block and the last.
    "vit": Architecture(
        build=partial(timm.create_model, "vit_tiny_patch16_224", **_TOKENS),
        run=run,
        kind="layer_norm",
        norms=5,
        classes=("LayerNorm",),
    ),
    # The patches; two a block; one at the only merging of patches; the last.
    "swin": Architecture(
        build=partial(timm.create_model, "swin_tiny_patch4_window7_224", **_WINDOWS, num_classes=5),
        run=run,
        kind="layer_norm",
        norms=7,
        classes=("LayerNorm",),
    ),
    # Two a block and the last.
    "mixer": Architecture(
        build=partial(
            timm.models.mlp_mixer.MlpMixer, num_classes=5, img_size=32, patch_size=8, num_blocks=2, embed_dim=32
        ),
        run=run,
        kind="layer_norm",
        norms=5,
        classes=("LayerNorm",),
    ),
    # The stem; one a block; one before each of three reductions; the head's. On maps all but those of the blocks.
    "convnext": Architecture(
        build=partial(timm.models.convnext.ConvNeXt, **_MAPS),
        run=run,
        kind="layer_norm",
        norms=9,
        classes=("LayerNorm", "LayerNorm2d"),
    ),
    "convnext_rms": Architecture(
        build=partial(timm.models.convnext.ConvNeXt, **_MAPS, norm_layer="rmsnorm2d"),
        run=run,
        kind="rms_norm",
        norms=9,
        classes=("RmsNorm", "RmsNorm2d"),
    ),
    # One behind the projection of each of 11 blocks; all others bring an activation.
    "mobilenet": Architecture(
        build=partial(timm.create_model, "mobilenetv3_small_050", num_classes=5),
        run=run,
        kind="batch_norm",
        norms=11,
        classes=("BatchNormAct2d",),
    ),
}
"""From a name to a model of timm's and the norms it has."""

every_model = pytest.mark.parametrize("name", TIMM)


def away_from_the_start(model: nn.Module) -> nn.Module:
    """Draw parameters and running moments, so that no gain is one and no bias zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return model


@every_model
def test_the_norms_are_found(name: str) -> None:
    found, unreached = find_norms(TIMM[name].build())
    assert [norm.kind for norm in found] == [TIMM[name].kind] * TIMM[name].norms
    assert sorted({type(norm.module).__name__ for norm in found}) == sorted(TIMM[name].classes)
    # The stem's; two a block, of which the first block has one; the last.
    assert len(unreached) == (23 if name == "mobilenet" else 0)


@every_model
@pytest.mark.parametrize("to", ["rms_norm", "ada_norm", "dyt"])
def test_another_norm_is_felt_trains_and_is_undone_to_the_bit(name: str, to: str) -> None:
    model = away_from_the_start(TIMM[name].build()).eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modules, text = dict(model.named_modules()), repr(model)
    with torch.no_grad():
        want = run(model)
    report = normscope.swap(model, TIMM[name].kind, to)
    replaced = [one.module for one in report.replaced]
    kinds = [type(one.norm if isinstance(one, ChannelsFirst) else one) for one in replaced]
    assert kinds == [NORMS[to]] * TIMM[name].norms
    assert report.unused(lambda: run(model)) == []
    out = run(model)
    # An RMS norm as another RMS norm is the same function, but for where its epsilon stands.
    assert torch.allclose(out, want, rtol=1e-3, atol=1e-4) == (to == "rms_norm" and TIMM[name].kind == "rms_norm")
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)))
    learned = [p for one in replaced for p in one.parameters()]
    assert all(p.grad is not None for p in learned)
    torch.optim.SGD(learned or [torch.zeros(1)], lr=0.1).step()
    report.undo()
    assert repr(model) == text
    assert dict(model.named_modules()) == modules
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(run(model), want)


@every_model
def test_the_same_kind_is_the_same_function(name: str) -> None:
    model = away_from_the_start(TIMM[name].build()).eval()
    with torch.no_grad():
        want = run(model)
        report = normscope.swap(model, TIMM[name].kind, TIMM[name].kind, preserve=True)
        got = run(model)
    assert len(report.replaced) == TIMM[name].norms
    # Float32, through all layers, at outputs of their own size.
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * want.abs().max().item())


def test_a_batch_norm_with_an_activation_stays_and_is_named() -> None:
    model = TIMM["mobilenet"].build()
    with_activation = {
        name: module
        for name, module in model.named_modules()
        if type(module).__name__ == "BatchNormAct2d" and type(module.act) is not nn.Identity
    }
    report = normscope.swap(model, "batch_norm", "rms_norm")
    assert {one.name for one in report.unreachable} == set(with_activation)
    assert all("forward does something else, too" in one.why for one in report.unreachable)
    assert all(model.get_submodule(name) is module for name, module in with_activation.items())


def test_kinds_that_stand_together_are_told_apart() -> None:
    # Two group norms a block; layer norms on maps at the stem and before the reduction, and two in the head.
    model = timm.models.metaformer.MetaFormer(
        depths=(1, 1), dims=(8, 16), num_classes=5, norm_layers=timm.layers.GroupNorm1
    )
    found, unreached = find_norms(model)
    kinds = [(norm.kind, type(norm.module).__name__) for norm in found]
    assert kinds.count(("group_norm", "GroupNorm1")) == 4
    assert [kind for kind, _ in kinds if kind != "group_norm"] == ["layer_norm"] * 4
    assert unreached == []
    report = normscope.swap(model, "group_norm", "layer_norm")
    assert {one.name for one in report.replaced} == {f"stages.{s}.blocks.0.norm{n}" for s in (0, 1) for n in (1, 2)}
    assert report.unused(lambda: run(model)) == []
    report.undo()
    assert sum(isinstance(module, timm.layers.GroupNorm1) for module in model.modules()) == 4
