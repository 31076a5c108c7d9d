"""What a swap does not reach is told, and what code asks of a norm is still there."""

import torch
from architectures import ARCHITECTURES
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.swapping import swap


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.list = [self.norm]

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(self.norm(x), (4,), self.norm.weight)


def test_calls_and_lists_are_in_the_report() -> None:
    report = swap(nn.Sequential(Block(), Block()), "layer_norm", "rms_norm")
    code, first, second = report.unreached
    assert code.why.startswith(
        "normalizes by a call, `F.layer_norm(self.norm(x), (4,), self.norm.weight)`, in the code"
    )
    assert code.why.endswith("of Block and 1 more Block")
    assert code.where.startswith(f"{__file__}:")
    assert (first.name, second.name) == ("0.list", "1.list")
    assert first.why == "a plain list holds the old one of 0.norm, too"
    (note,) = [note for note in report.notes if "reads" in note]
    assert note.startswith("Block reads self.norm.weight itself")


def test_mamba_asks_its_norm_for_a_dtype() -> None:
    mamba = ARCHITECTURES["mamba"]
    model = mamba.build()
    keys = [key for key in model.state_dict() if "norm" not in key]
    report = swap(model, "rms_norm", "ada_norm")
    assert any("MambaBlock reads self.norm.weight for its dtype" in note for note in report.notes)
    assert list(model.state_dict()) == keys
    with torch.no_grad():
        assert mamba.run(model).isfinite().all()
        model.to(torch.bfloat16)
        assert model.backbone.layers[0].norm.weight.dtype == torch.bfloat16
        assert mamba.run(model).isfinite().all()
