"""Other inputs than the given ones, as far as the model accepts them, and other parameters."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normscope
from normscope.surgery.to_rms_norm.variations import redraw, varied_call
from support.architectures import ARCHITECTURES, IDS

IMAGE, END = 95, 2
PROMPT = torch.tensor([[5, IMAGE, IMAGE, 7, 8, 9, END], [IMAGE, 11, IMAGE, 4, 5, 6, END]])


def drawn(model: nn.Module, *args: Any, **inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    call, kept = varied_call(model, (args, inputs), lambda call: True, torch.Generator().manual_seed(5))
    assert kept == []
    return call


def test_random_calls_have_the_shapes_and_fit() -> None:
    model = ARCHITECTURES["bert"].build()
    mask = torch.ones(2, 7, dtype=torch.long)
    _, inputs = drawn(model, input_ids=IDS, attention_mask=mask)
    assert inputs["input_ids"].shape == IDS.shape
    assert inputs["input_ids"].max() < 99
    assert not torch.equal(inputs["input_ids"], IDS)
    assert torch.equal(inputs["attention_mask"], mask)
    _, inputs = drawn(model, position_ids=torch.arange(7).expand(2, 7))
    assert inputs["position_ids"].max() < 7
    (x, flag, pair), _ = drawn(nn.Linear(2, 2), torch.zeros(3), "as it is", [torch.zeros(2), None])
    assert x.std() > 0
    assert flag == "as it is"
    assert (pair[0].std() > 0, pair[1]) == (True, None)


def test_what_the_model_does_not_accept_is_permuted_or_stays() -> None:
    places = torch.arange(7)

    def runs(call: Any) -> bool:
        ids, grid = call[1]["input_ids"], call[1]["grid"]
        return int((ids == IMAGE).sum()) == 4 and grid.tolist() == [[1, 2, 2]]

    given = {"input_ids": PROMPT, "places": places, "grid": torch.tensor([[1, 2, 2]]), "x": torch.zeros(3)}
    (_, inputs), kept = varied_call(nn.Identity(), ((), given), runs, torch.Generator().manual_seed(0))
    assert kept == ["grid"]
    assert inputs["input_ids"].sort().values.equal(PROMPT.sort().values)
    assert not torch.equal(inputs["input_ids"], PROMPT)
    assert not torch.equal(inputs["places"], places)
    assert inputs["x"].std() > 0

    # All are permuted in the same order if that is accepted.
    def aligned(call: Any) -> bool:
        ids, mask = call[1]["ids"], call[1]["mask"]
        return torch.equal(ids == IMAGE, mask == 1)

    given = {"ids": PROMPT, "mask": (PROMPT == IMAGE).long()}
    (_, inputs), kept = varied_call(nn.Identity(), ((), given), aligned, torch.Generator().manual_seed(0))
    assert kept == []
    assert not torch.equal(inputs["ids"], PROMPT)
    (_, inputs), kept = varied_call(nn.Identity(), ((), given), lambda call: False, torch.Generator().manual_seed(0))
    assert kept == ["ids", "mask"]
    assert inputs["ids"] is PROMPT
    (args, _), kept = varied_call(nn.Identity(), ((PROMPT,), {}), lambda call: False, torch.Generator())
    assert (kept, args[0] is PROMPT) == (["argument 0"], True)


class Multimodal(nn.Module):
    """Image features take the places of image tokens; the scores are those at the end tokens."""

    def __init__(self, strict: bool = True) -> None:
        super().__init__()
        self.strict = strict
        self.config = type("Config", (), {"vocab_size": 99})()
        self.embed, self.image, self.places = nn.Embedding(99, 32), nn.Linear(12, 32), nn.Embedding(8, 32)
        self.norms, self.layer = nn.ModuleList(nn.LayerNorm(32) for _ in range(2)), nn.Linear(32, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, input_ids: Tensor, pixels: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(input_ids)
        tokens, features = input_ids == IMAGE, self.image(pixels)
        if self.strict and int(tokens.sum()) != len(features):
            raise ValueError(f"image features and image tokens do not match: {int(tokens.sum())}, {len(features)}")
        if len(torch.unique_consecutive((input_ids == END).sum(1))) > 1:
            raise ValueError("all examples must have the same number of <eos> tokens")
        x = x.masked_scatter(tokens[..., None].expand_as(x), features) + self.places(positions)
        h = self.norms[0](x)
        weights = (h @ h.mT).masked_fill(mask[:, None] == 0, float("-inf")).softmax(-1)
        x = x + self.layer(weights @ h)
        return self.head(self.norms[1](x)[input_ids == END].view(len(x), -1, 32)[:, -1])


GIVEN = {"pixels": torch.randn(4, 12), "positions": torch.arange(7), "mask": torch.ones(2, 7, dtype=torch.long)}


def test_image_tokens() -> None:
    model = Multimodal().double()
    inputs = {**GIVEN, "pixels": GIVEN["pixels"].double()}
    with torch.no_grad():
        want = model(PROMPT.flip(1), **inputs)
    report = normscope.to_rms_norm(model, PROMPT, **inputs)
    assert set(report.centered) == {f"{n}.weight" for n in ("embed", "image", "places", "layer")} | {
        "image.bias",
        "layer.bias",
    }
    assert (report.unvaried, report.difference < 1e-13) == ((), True)
    with torch.no_grad():
        torch.testing.assert_close(model(PROMPT.flip(1), **inputs), want, rtol=0, atol=1e-12)


def test_a_mask_whose_permutation_leaves_a_row_without_keys() -> None:
    # Random masks hide every key of a row, and its scores are not numbers.
    mask = torch.zeros(2, 7, dtype=torch.long)
    mask[:, 0] = 1
    report = normscope.to_rms_norm(Multimodal(), PROMPT, **{**GIVEN, "mask": mask})
    assert (report.unvaried, report.difference < 1e-13) == ((), True)


class Fixed(Multimodal):
    def forward(self, input_ids: Tensor, pixels: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        if not torch.equal(input_ids, PROMPT):
            raise KeyError("no other prompt is known")
        return super().forward(input_ids, pixels, positions, mask)


def test_an_argument_that_cannot_be_varied_is_named() -> None:
    report = normscope.to_rms_norm(Fixed(), PROMPT, **GIVEN)
    assert report.unvaried == ("argument 0",)
    assert "not varied: argument 0, for the model does not accept random or permuted values" in str(report)
    with pytest.raises(KeyError, match="no other prompt is known"):
        normscope.to_rms_norm(Fixed(), PROMPT.flip(1), **GIVEN)


class Cache:
    """Keys and values of the past, which a model appends to."""

    def __init__(self) -> None:
        self.states = [torch.randn(2, 3, 32)]

    def append(self, h: Tensor) -> Tensor:
        self.states.append(h)
        return torch.cat(self.states, 1)


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(99, 32), nn.LayerNorm(32), nn.Linear(32, 5)
        self.out, self.last = nn.Linear(32, 32), nn.LayerNorm(32)

    def forward(self, ids: Tensor, cache: Cache) -> Tensor:
        x = self.embed(ids)
        h = self.norm(x)
        past = cache.append(h)
        if past.shape[1] != ids.shape[1] + 3:
            raise RuntimeError(f"the cache was used before: {past.shape[1]} states")
        return self.head(self.last(x + self.out((h @ past.mT).softmax(-1) @ past)))


def test_arguments_that_the_model_fills_are_copied_for_every_run() -> None:
    cache = Cache()
    cache.states = [(cache.states[0] * torch.ones((), requires_grad=True))]
    states = list(cache.states)
    assert normscope.to_rms_norm(Cached(), IDS, cache).difference < 1e-13
    assert cache.states == states


def test_other_values_keep_signs_and_ties_and_none_is_zero_or_constant() -> None:
    model: Any = nn.Sequential(nn.Embedding(9, 16), nn.LayerNorm(16), nn.BatchNorm1d(16), nn.Linear(16, 9, bias=False))
    model[3].weight = model[0].weight
    with torch.no_grad():
        model[0].weight[0] = 0
        model[3].weight[1, 0] = float("inf")
    model.register_buffer("places", torch.zeros(16))
    old = model[0].weight.detach().clone()
    redraw(model)
    new = model[0].weight.detach()
    assert model[3].weight is model[0].weight
    assert new[1:].sign().equal(old[1:].sign())
    assert bool((new[0] != 0).all() and new[0].isfinite().all())
    assert new[1, 0] == float("inf")
    ratio = new[2:] / old[2:]
    assert 0.5 <= float(ratio.min()) < 0.6 < 1.4 < float(ratio.max()) <= 1.5
    for tensor in (*model[1].parameters(), *model[2].parameters(), model[2].running_mean, model[2].running_var):
        assert tensor.std() > 0.02
        assert bool((tensor != 0).all())
    assert bool((model[2].running_var > 0).all())
    assert float(model.places.abs().max()) == 0
