"""The report is a table that a person can read, and tells which replacements ran."""

from torch import nn

from normscope.surgery import swap
from support.architectures import ARCHITECTURES


def test_table() -> None:
    model = ARCHITECTURES["bert"].build()
    lines = str(swap(model, "layer_norm", "ada_norm", where="bert.encoder.*")).splitlines()
    assert lines[0] == "BertForMaskedLM: layer_norm -> ada_norm, 4 replaced, 20,035 -> 19,779 parameters"
    assert lines[2].split() == ["name", "old", "new", "parameters", "difference", "kept", "lost"]
    cells = [cell.strip() for cell in lines[3].split("  ") if cell]
    assert cells[:4] == ["bert.encoder.layer.*.attention.output.LayerNorm (2)", "LayerNorm", "AdaNorm", "64 -> 0"]
    assert cells[5:] == ["eps", "weight, bias"]
    assert lines[6] == "excluded by where: bert.embeddings.LayerNorm, cls.predictions.transform.LayerNorm"
    assert max(map(len, lines)) <= 120


def test_unreached_and_ties_are_in_it() -> None:
    norm = nn.LayerNorm(4)
    text = str(swap(nn.Sequential(norm, norm, nn.LocalResponseNorm(2)), "layer_norm", "rms_norm"))
    assert "0 = 1  LayerNorm  RMSNorm  8 -> 4" in text
    assert "  2 [LocalResponseNorm]: normalizes over neighbouring channels, which no key does" in text


def test_unused() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.LayerNorm(4), nn.LayerNorm(4)

        def forward(self, x):
            return self.used(x)

    model = Half()
    report = swap(model, "layer_norm", "rms_norm")
    assert report.unused(lambda: model(nn.Linear(4, 4).weight)) == ["idle"]
    assert "forward" not in vars(model.used)


def test_unused_leaves_what_else_was_put_on_a_replacement() -> None:
    model, runs = nn.Sequential(nn.LayerNorm(4)), []
    report = swap(model, "layer_norm", "rms_norm")
    norm = model[0]
    usual = norm.forward

    def mine(x):
        runs.append(1)
        return usual(x)

    norm.forward = mine
    assert report.unused(lambda: model(nn.Linear(4, 4).weight)) == []
    assert norm.forward is mine
    assert runs == [1]
