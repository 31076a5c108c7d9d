"""In evaluation torch's encoder layer computes with the norms' numbers: a swap must be felt there, too."""

import pytest
import torch
from torch import nn

from normscope.norms import AdaNorm
from normscope.surgery import swap
from normscope.surgery.guards import disable_fast_path


def encoder() -> nn.TransformerEncoder:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True), 2).eval()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_without_the_guard_a_norm_of_ours_is_not_called() -> None:
    # What torch does: the reason for this file. When it changes, the guard may go.
    model, calls = encoder(), []
    for layer in model.layers:
        for name in ("norm1", "norm2"):
            norm = nn.LayerNorm(16)
            norm.forward = lambda x: calls.append(1) or x
            setattr(layer, name, norm)
    with torch.no_grad():
        model(torch.randn(3, 5, 16))
    assert not calls
    disable_fast_path(model, {id(layer.norm1) for layer in model.layers})
    with torch.no_grad():
        model(torch.randn(3, 5, 16))
    assert len(calls) == 4


@pytest.mark.parametrize("to", ["layer_norm", "ada_norm", "rms_norm", "dyt", "scale_norm", "none", "batch_norm"])
@pytest.mark.parametrize("padded", [False, True])
def test_evaluation_and_training_are_one_function(to: str, padded: bool) -> None:
    model = encoder()
    report = swap(model, "layer_norm", to)
    x = torch.randn(3, 5, 16)
    mask = torch.arange(5) >= torch.tensor([[5], [3], [4]]) if padded else None
    with torch.no_grad():
        assert report.unused(lambda: model(x, src_key_padding_mask=mask)) == []
        fast = model(x, src_key_padding_mask=mask)
    slow = model(x, src_key_padding_mask=mask)
    # Attention has a fused path of its own: another order of float32 sums, at outputs of order one.
    torch.testing.assert_close(fast, slow, rtol=0, atol=16 * torch.finfo(torch.float32).eps)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_path_comes_back() -> None:
    model = encoder()
    report = swap(model, "layer_norm", lambda width: AdaNorm(width), where="layers.1.norm2")
    assert [layer.activation_relu_or_gelu for layer in model.layers] == [1, 0]
    assert not model.use_nested_tensor
    assert report.notes[0] == "the fused path of 1 nn.TransformerEncoderLayer, which reads norm1.weight itself, is off"
    report.undo()
    assert [layer.activation_relu_or_gelu for layer in model.layers] == [1, 1]
    assert model.use_nested_tensor


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("first", [0, 1])
def test_the_path_stays_off_until_the_last_swap_is_undone(first: int) -> None:
    model = encoder()
    reports = [
        swap(model, "layer_norm", to, where=f"*{name}") for to, name in (("rms_norm", "norm1"), ("dyt", "norm2"))
    ]
    reports.pop(first).undo()
    assert [layer.activation_relu_or_gelu for layer in model.layers] == [0, 0]
    assert not model.use_nested_tensor
    with torch.no_grad():
        assert reports[0].unused(lambda: model(torch.randn(3, 5, 16))) == []
    reports.pop().undo()
    assert [layer.activation_relu_or_gelu for layer in model.layers] == [1, 1]
    assert model.use_nested_tensor


@pytest.mark.parametrize("of", [lambda model: model.layers, lambda model: model.layers[0]])
def test_an_encoder_that_is_not_seen_is_told_of(of) -> None:
    report = swap(of(encoder()), "layer_norm", "batch_norm")
    assert any("an nn.TransformerEncoder that holds this from outside was not seen" in note for note in report.notes)
    assert not any("from outside" in note for note in swap(encoder(), "layer_norm", "batch_norm").notes)
