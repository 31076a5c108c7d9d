"""Another norm in real architectures: felt, trained, saved, loaded, compiled."""

import io

import pytest
import torch
from torch import Tensor, nn

import normscope
from normscope.norms import NORMS, ChannelsFirst
from support.architectures import ARCHITECTURES, Architecture
from support.made_norms import NEEDS_POSITIONS

COMPILE_WARNING = pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning")


def swapped(architecture: Architecture, to) -> tuple[nn.Module, normscope.surgery.SwapReport]:
    model = architecture.build()
    return model, normscope.swap(model, architecture.kind, to)


def train(model: nn.Module, architecture: Architecture, steps: int) -> list[float]:
    """Fit fixed random outputs by a few steps; return the losses."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    aim: Tensor | None = None
    losses = []
    for _ in range(steps):
        torch.manual_seed(3)
        out = architecture.run(model)
        aim = torch.randn_like(out) if aim is None else aim
        loss = (out - aim).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def fitting(name: str) -> list[str]:
    """List the keys whose norms take what this architecture has; some need maps."""
    return [key for key in NORMS if key not in NEEDS_POSITIONS or name == "resnet"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_key_is_felt_and_trains(name: str) -> None:
    architecture = ARCHITECTURES[name]
    for key in fitting(name):
        torch.manual_seed(0)
        model, report = swapped(architecture, key)
        assert len(report.replaced) == architecture.norms
        kinds = [type(m.norm if isinstance(m, ChannelsFirst) else m) for m in (one.module for one in report.replaced)]
        assert kinds == [NORMS[key]] * architecture.norms
        assert report.parameters_after == sum(p.numel() for p in model.parameters())
        assert report.unused(lambda model=model: architecture.run(model)) == []
        losses = train(model, architecture, 4)
        assert all(loss == loss for loss in losses), (key, losses)
        # Without any norm four steps may go up; with one they go down.
        assert key == "none" or losses[-1] < losses[0], (key, losses)
        assert all(p.grad is not None for one in report.replaced for p in one.module.parameters()), key


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_same_kind_is_the_same_function(name: str) -> None:
    architecture = ARCHITECTURES[name]
    model = architecture.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        want = architecture.run(model)
        report = normscope.swap(model, architecture.kind, architecture.kind, preserve=True)
        got = architecture.run(model)
    assert all(one.difference < 1e-6 for one in report.replaced)
    # Float32, through all layers, at outputs of their own size.
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * want.abs().max().item())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_saved_and_loaded(name: str) -> None:
    architecture = ARCHITECTURES[name]
    model, _ = swapped(architecture, "dyt")
    train(model, architecture, 1)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other, _ = swapped(architecture, "dyt")
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        assert torch.equal(architecture.run(model.eval()), architecture.run(other.eval()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "llama", "convnext", "torch"])
@pytest.mark.parametrize("to", ["ada_norm", "rms_norm"])
@COMPILE_WARNING
def test_compiled(name: str, to: str) -> None:
    architecture = ARCHITECTURES[name]
    model, _ = swapped(architecture, to)
    model.eval()
    with torch.no_grad():
        want = architecture.run(model)
        got = architecture.run(torch.compile(model, backend="aot_eager"))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * want.abs().max().item())


def test_what_the_readme_says() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    report = normscope.swap(model, "layer_norm", "ada_norm(scale=2.0)")
    assert isinstance(model[1], normscope.AdaNorm)
    assert model[1].scale == 2.0
    assert (report.what, report.to, report.model) == ("layer_norm", "ada_norm(scale=2.0)", "Sequential")
    report.undo()
    assert type(model[1]) is nn.LayerNorm


def test_where_and_what_is_left_out() -> None:
    model = ARCHITECTURES["bert"].build()
    report = normscope.swap(model, "layer_norm", "rms_norm", where="*.layer.*")
    assert len(report.replaced) == 4
    assert report.skipped == ("bert.embeddings.LayerNorm", "cls.predictions.transform.LayerNorm")


def test_nothing_changes_when_it_is_refused() -> None:
    model = ARCHITECTURES["bert"].build()
    text = repr(model)
    with pytest.raises(ValueError, match=r"preserve=True wants .* 6 of 6 replacements"):
        normscope.swap(model, "layer_norm", "rms_norm", preserve=True)
    with pytest.raises(ValueError, match="has no rms_norm to replace; it has 6 layer_norm"):
        normscope.swap(model, "rms_norm", "layer_norm")
    assert repr(model) == text


def test_a_norm_that_includes_an_activation_is_noted() -> None:
    report = normscope.swap(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), "batch_norm", "frn")
    assert any("the new norm includes a nonlinearity" in note for note in report.notes)


def test_gains_are_shared_with_what_else_has_them() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4))
    model[1].weight = model[0].weight
    normscope.swap(model, "layer_norm", "rms_norm")
    assert model[1].weight is model[0].weight


def test_a_model_without_numbers() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    normscope.swap(model, "layer_norm", "dyt")
    assert {p.device.type for p in model.parameters()} == {"meta"}
