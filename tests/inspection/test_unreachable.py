"""What a swap does not reach is told, and what code asks of a norm is still there."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.surgery import swap
from support.architectures import ARCHITECTURES


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.list = [self.norm]

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(self.norm(x), (4,), self.norm.weight)


def test_calls_and_lists_are_in_the_report() -> None:
    report = swap(nn.Sequential(Block(), Block()), "layer_norm", "rms_norm")
    code, first, second = report.unreachable
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


class Reading(nn.Module):
    """Reads numbers past norms that stand in a list, behind a local name and deeper down."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)])
        self.norm, self.inner = nn.LayerNorm(4), nn.ModuleDict({"norm": nn.LayerNorm(4)})

    def forward(self, x: Tensor) -> Tensor:
        for one in self.norms:
            x = one(x.to(one.weight.dtype))
        last = self.norm
        self.norm.train(self.training)
        return last(x) * last.normalized_shape[0] + self.inner["norm"](x).to(self.inner["norm"].weight.device)


def test_what_code_asks_of_norms_in_lists_and_behind_names_is_there() -> None:
    model = Reading()
    notes = sorted(note for note in swap(model, "layer_norm", "ada_norm").notes if "reads" in note)
    assert model(torch.randn(2, 4)).isfinite().all()
    starts = [
        "Reading reads self.inner.*.weight for its dtype",
        "Reading reads self.norm.normalized_shape itself: if that line runs",
        "Reading reads self.norms.*.weight for its dtype",
    ]
    assert [note[: len(start)] for note, start in zip(notes, starts, strict=True)] == starts


def test_numbers_that_are_gone_are_told() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(4)])

        def forward(self, x: Tensor) -> Tensor:
            return x * self.norms[0].weight

    (note,) = [note for note in swap(Fused(), "layer_norm", "ada_norm").notes if "reads" in note]
    assert note.startswith(
        "Fused reads self.norms.*.weight itself, which the new norm does not have: if that line runs, it fails ("
    )


def test_code_that_cannot_be_read_is_no_hindrance() -> None:
    space: dict = {}
    exec("def forward(self, x):\n    return x", space)
    model = nn.Sequential(type("Generated", (nn.Module,), {"forward": space["forward"]})(), nn.LayerNorm(4))
    assert len(swap(model, "layer_norm", "rms_norm").replaced) == 1
