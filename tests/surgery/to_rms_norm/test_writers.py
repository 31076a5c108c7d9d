"""Writers by their names, apart from what they are tied to."""

from typing import Any

import torch
from torch import Tensor, nn

from normscope.inspection.find import find_norms
from normscope.surgery.to_rms_norm.convert import register_conversion
from normscope.surgery.to_rms_norm.same_function import widened
from normscope.surgery.to_rms_norm.variations import redraw
from normscope.surgery.to_rms_norm.writers import find_writers, named, owner_of, settle, untie
from support.architectures import ARCHITECTURES, IDS


def test_gpt2_by_hand() -> None:
    model: Any = ARCHITECTURES["gpt2"].build()
    found, _ = find_norms(model, for_replacement=True)
    call = (), {"input_ids": IDS, "use_cache": False}
    twin: Any
    twin, (wide,) = widened(model, [call])
    parts = find_writers(twin, found, [wide])
    writers = named(twin, parts.sources.writers)
    projections = [f"transformer.h.{layer}.{part}.c_proj" for layer in (0, 1) for part in ("attn", "mlp")]
    want = {f"{name}.{key}" for name in projections for key in ("weight", "bias")}
    assert set(writers) == want | {"transformer.wte.weight", "transformer.wpe.weight"}
    # GPT-2's Conv1D keeps [in, out].
    assert writers["transformer.h.0.mlp.c_proj.weight"][1] == 1
    # The embedding is the output layer, too.
    assert parts.shared == {id(twin.transformer.wte.weight)}
    assert untie(twin, writers, parts.shared) == ["transformer.wte.weight"]
    assert twin.transformer.wte.weight is not twin.lm_head.weight
    assert torch.equal(twin.transformer.wte.weight, twin.lm_head.weight)
    assert model.transformer.wte.weight is model.lm_head.weight
    assert owner_of(model, "lm_head.weight") == (model.lm_head, "weight")


class Branches(nn.Module):
    """An expert and a head that run when asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.types = nn.Embedding(9, 4), nn.Embedding(2, 4)
        self.norm, self.out = nn.LayerNorm(4), nn.Linear(4, 4)
        self.last, self.head = nn.LayerNorm(4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, types: Tensor | None = None) -> Tensor:
        x = self.embed(ids)
        if types is not None:
            x = x + self.types(types)
        return self.last(x + self.out(self.out(self.norm(x)).relu()))


def test_what_was_reached() -> None:
    ids = torch.tensor([[1, 2, 3]])
    model = Branches()
    found, _ = find_norms(model, for_replacement=True)
    twin: Any
    twin, (plain, typed) = widened(model, [((ids,), {}), ((ids, ids % 2), {})])
    parts = find_writers(twin, found, [plain])
    assert id(twin.types.weight) not in parts.reached
    assert id(twin.out.weight) in parts.reached
    both = find_writers(twin, found, [plain, typed])
    assert id(twin.types.weight) in both.reached
    assert set(named(twin, both.sources.writers)) == {"embed.weight", "types.weight", "out.weight", "out.bias"}
    # The head did not run, and must not be centered either.
    assert untie(twin, named(twin, both.sources.writers), set()) == ["embed.weight"]


def test_what_is_centered_but_for_roundings_is_settled() -> None:
    model: Any = nn.Sequential(nn.Embedding(9, 64), nn.Linear(64, 64))
    with torch.no_grad():
        model[0].weight.sub_(model[0].weight.mean(-1, keepdim=True))
    twin: Any
    twin, _ = widened(model, [])
    writers = {"0.weight": (twin[0].weight, -1), "1.weight": (twin[1].weight, 0)}
    with torch.no_grad():
        assert twin[0].weight.mean(-1).abs().max() > 1e-11
        settle(twin, model, writers)
    assert twin[0].weight.mean(-1).abs().max() < 1e-15
    assert torch.equal(twin[1].weight, model[1].weight.double())


def test_other_values_of_what_is_centered_are_centered_and_a_bias_of_zero_is_not() -> None:
    model: Any = nn.Sequential(nn.Embedding(9, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    with torch.no_grad():
        model[0].weight.sub_(model[0].weight.mean(-1, keepdim=True))
        model[1].bias.zero_()
        model[2].bias.zero_()
    register_conversion([model[2].bias])
    twin: Any
    twin, _ = widened(model, [])
    redraw(twin)
    with torch.no_grad():
        settle(twin, model, {"0.weight": (twin[0].weight, -1), **{f"{n}.bias": (twin[n].bias, -1) for n in (1, 2)}})
    assert twin[0].weight.mean(-1).abs().max() < 1e-15
    assert twin[1].bias.mean().abs() > 1e-3
    assert twin[2].bias.mean().abs() < 1e-15
