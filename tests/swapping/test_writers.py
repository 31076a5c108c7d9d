"""Writers by their names, apart from what they are tied to."""

import torch
from architectures import ARCHITECTURES, IDS

from normscope.swapping.find import find_norms
from normscope.swapping.same_function import widened
from normscope.swapping.writers import find_writers, named, owner_of, untie


def test_gpt2_by_hand() -> None:
    model = ARCHITECTURES["gpt2"].build()
    found, _ = find_norms(model)
    call = (), {"input_ids": IDS, "use_cache": False}
    twin, (wide,) = widened(model, [call])
    parts, shared = find_writers(twin, found, wide)
    writers = named(twin, parts.writers)
    projections = [f"transformer.h.{layer}.{part}.c_proj" for layer in (0, 1) for part in ("attn", "mlp")]
    want = {f"{name}.{key}" for name in projections for key in ("weight", "bias")}
    assert set(writers) == want | {"transformer.wte.weight", "transformer.wpe.weight"}
    # GPT-2's Conv1D keeps [in, out].
    assert writers["transformer.h.0.mlp.c_proj.weight"][1] == 1
    # The embedding is the output layer, too.
    assert shared == {id(twin.transformer.wte.weight)}
    assert untie(twin, writers, shared) == ["transformer.wte.weight"]
    assert twin.transformer.wte.weight is not twin.lm_head.weight
    assert torch.equal(twin.transformer.wte.weight, twin.lm_head.weight)
    assert model.transformer.wte.weight is model.lm_head.weight
    assert owner_of(model, "lm_head.weight") == (model.lm_head, "weight")
