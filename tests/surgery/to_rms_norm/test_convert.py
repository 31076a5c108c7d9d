"""LayerNorm to RMSNorm with the same function, proved; or why not."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import normscope
from normscope.surgery.to_rms_norm.norms import BiasedRMSNorm
from support.architectures import ARCHITECTURES, IDS, PIXELS, STATES, Classifier


class PreNorm(nn.Module):
    """torch's Pre-LN encoder between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 48, norm_first=True, batch_first=True)
        self.embed = nn.Embedding(99, 32)
        self.register_buffer("places", torch.rand(7, 32))
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(32), enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(ids) + self.places))


def away_from_the_start(model: nn.Module) -> Any:
    """Give every parameter, gains and biases with them, other numbers, with a mean."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) + 0.05)
    return model


_SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def nemotron() -> nn.Module:
    """Make a model whose layer norms are foreign: the gain is 1 + w."""
    return transformers.NemotronForCausalLM(
        transformers.NemotronConfig(**_SIZES, num_key_value_heads=2, head_dim=8, max_position_embeddings=32)
    )


def cohere() -> nn.Module:
    """Make a model whose layer norms are foreign: no bias, float32 within; the embedding is tied."""
    return transformers.CohereForCausalLM(
        transformers.CohereConfig(**_SIZES, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    )


CONVERTIBLE = {
    "gpt2": (ARCHITECTURES["gpt2"].build, {"input_ids": IDS}, 5, 10),
    "vit": (ARCHITECTURES["vit"].build, {"pixel_values": PIXELS}, 5, 12),
    "torch, Pre-LN": (PreNorm, {"ids": IDS}, 5, 10),
}


@pytest.mark.parametrize("build", [nemotron, cohere])
def test_foreign_layer_norms(build) -> None:
    model = away_from_the_start(build()).eval()
    with torch.no_grad():
        want = model(input_ids=IDS.flip(0)).logits
    report = normscope.to_rms_norm(model, input_ids=IDS)
    assert report.difference < 1e-13
    assert bool(report.biased) == (build is nemotron)
    with torch.no_grad():
        got = model(input_ids=IDS.flip(0)).logits
    # Float32, through two layers.
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * want.abs().max().item())


def test_a_batch_norm_on_the_way_does_no_harm() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 32 * 32, 8), nn.LayerNorm(8)
    )
    assert normscope.to_rms_norm(model, PIXELS).centered == ("3.bias", "3.weight")


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_the_function_is_the_same(name: str) -> None:
    build, inputs, norms, centered = CONVERTIBLE[name]
    model = away_from_the_start(build()).double().eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    others = {key: value.flip(0) if key == "input_ids" else value for key, value in inputs.items()}
    others = {key: value.double() if value.is_floating_point() else value for key, value in others.items()}

    def run() -> Tensor:
        with torch.no_grad():
            out = model(**others)
        return out if isinstance(out, Tensor) else out.logits

    want = run()
    report = normscope.to_rms_norm(model, **{k: v.to(others[k].dtype) for k, v in inputs.items()})
    assert (len(report.norms), len(report.biased), len(report.centered)) == (norms, norms, centered)
    assert not any(isinstance(module, nn.LayerNorm) for module in model.modules())
    assert sum(isinstance(module, BiasedRMSNorm) for module in model.modules()) == norms
    assert report.difference < 1e-13
    assert report.own_difference < 1e-13
    # On inputs that the conversion did not see.
    torch.testing.assert_close(run(), want, rtol=0, atol=1e-12 * want.abs().max().item())
    report.undo()
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(run(), want)


def test_gradients_are_the_same_where_nothing_was_centered() -> None:
    model = away_from_the_start(PreNorm()).double().eval()
    upstream = torch.randn(2, 7, 5, dtype=torch.float64)
    want = torch.autograd.grad(model(IDS), model.encoder.layers[0].linear1.weight, upstream)
    normscope.to_rms_norm(model, IDS)
    got = torch.autograd.grad(model(IDS), model.encoder.layers[0].linear1.weight, upstream)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def test_without_a_bias_it_is_rms_norm() -> None:
    model = PreNorm()
    model.encoder.norm.eps = 1e-3
    report = normscope.to_rms_norm(model, IDS)
    assert report.biased == ()
    assert type(model.encoder.norm) is normscope.RMSNorm
    assert model.encoder.norm.eps == 1e-3
    # Float32, five norms.
    assert 0 < report.own_difference < 1e-5
    assert model.training


def test_tied_embeddings_are_untied_and_tied_again() -> None:
    model = away_from_the_start(ARCHITECTURES["gpt2"].build())
    head = model.lm_head.weight.detach().clone()
    report = normscope.to_rms_norm(model, input_ids=IDS)
    assert report.untied == ("transformer.wte.weight",)
    assert torch.equal(model.lm_head.weight, head)
    assert model.transformer.wte.weight.mean(-1).abs().max() < 1e-7
    report.undo()
    assert model.transformer.wte.weight is model.lm_head.weight


def test_dummy_inputs_will_do() -> None:
    model = away_from_the_start(ARCHITECTURES["gpt2"].build())
    assert normscope.to_rms_norm(model).difference < 1e-13
    with pytest.raises(TypeError, match=r"to_rms_norm\(model, batch\)"):
        normscope.to_rms_norm(PreNorm())


class ReadsTheMean(PreNorm):
    def forward(self, ids: Tensor) -> Tensor:
        x = self.encoder.layers[0](self.embed(ids))
        return self.head(self.encoder.norm(x)) + x.mean(-1, keepdim=True)


@pytest.mark.parametrize(
    ("build", "inputs", "words"),
    [
        (ARCHITECTURES["bert"].build, {"input_ids": IDS}, r"the output of another layer norm, .* \(Post-LN\)"),
        (ARCHITECTURES["convnext"].build, {"pixel_values": PIXELS}, "a grouped convolution, whose channels read diff"),
        (Classifier, {"x": STATES}, "the model's own input, or a constant, is added"),
        (ReadsTheMean, {"ids": IDS}, "These did not run: encoder.layers.1.norm1"),
    ],
)
def test_why_not_and_nothing_is_changed(build, inputs, words: str) -> None:
    model = away_from_the_start(build())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    text = repr(model)
    with pytest.raises(ValueError, match=words):
        normscope.to_rms_norm(model, **inputs)
    assert repr(model) == text
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_something_else_reads_the_stream() -> None:
    model = away_from_the_start(ReadsTheMean())
    with pytest.raises(ValueError, match="All layer norms read centered rows then, but something else reads its mean"):
        normscope.to_rms_norm(model, IDS, where=lambda name, _: "layers.1" not in name)


class ReturnsTheStream(PreNorm):
    def forward(self, ids: Tensor) -> Any:
        x = self.embed(ids)
        return {"scores": super().forward(ids), "hidden": [x, self.encoder.layers[0](x)]}


def test_outputs_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match=r"reads its mean, too \(see the outputs hidden\.0, hidden\.1; encoder"):
        normscope.to_rms_norm(away_from_the_start(ReturnsTheStream()), IDS)


class Pooled(PreNorm):
    def __init__(self, pool) -> None:
        super().__init__()
        self.pool, self.last = pool, nn.LayerNorm(32)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.encoder.layers[0](self.embed(ids))
        return self.head(self.last(self.pool(x)) + self.encoder.norm(x).mean(1))


@pytest.mark.parametrize("pool", [lambda x: x.mean(1), lambda x: x.sum(1), lambda x: x[:, 1:].mean(1)])
def test_pooling_before_the_last_norm(pool) -> None:
    model = away_from_the_start(Pooled(pool))
    report = normscope.to_rms_norm(model, IDS, where=lambda name, _: "layers.1" not in name)
    assert "last" in report.norms
    assert report.difference < 1e-13
    model = away_from_the_start(Pooled(lambda x: pool(x) + x[..., :3].mean((1, 2))[:, None]))
    with pytest.raises(ValueError, match=r"a mean that no weights can be centered to remove: last\. In it: something"):
        normscope.to_rms_norm(model, IDS, where=lambda name, _: "layers.1" not in name)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_the_mode_of_autograd_does_not_matter(mode) -> None:
    model = away_from_the_start(PreNorm())
    with mode():
        report = normscope.to_rms_norm(model, IDS.clone())
        assert report.difference < 1e-13
        report.undo()
        assert normscope.to_rms_norm(PreNorm(), IDS.clone()).difference < 1e-13
    assert type(model.encoder.norm) is nn.LayerNorm
    assert not any(parameter.is_inference() for parameter in model.parameters())
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator or None, got 3"):
        normscope.to_rms_norm(model, IDS, generator=3)


def test_no_layer_norm() -> None:
    with pytest.raises(ValueError, match="LlamaForCausalLM has no layer_norm to replace; it has 5 rms_norm"):
        normscope.to_rms_norm(ARCHITECTURES["llama"].build(), input_ids=IDS)


def test_training_does_not_keep_the_weights_centered() -> None:
    # What docs/guides/swap.md warns of.
    model = away_from_the_start(PreNorm()).double().eval()
    means = []
    for _ in range(2):
        y = model(IDS)
        (gradient,) = torch.autograd.grad(y, model.encoder.layers[1].linear2.bias, torch.ones_like(y))
        means.append(float(gradient.mean().abs() / gradient.norm()))
        if len(means) == 1:
            normscope.to_rms_norm(model, IDS)
    assert means[0] < 1e-12
    assert means[1] > 1e-4


@dataclass
class Scores:
    logits: Tensor


class PostNorm(PreNorm):
    """torch's Post-LN encoder, whose last layer norm every row leaves with a mean; what it returns is told it."""

    def __init__(self, gives) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), 2)
        self.gives = gives

    def forward(self, ids: Tensor) -> Any:
        return self.gives(super().forward(ids))


class ReadsTheMeanMasked(ReadsTheMean):
    def __init__(self, gives) -> None:
        super().__init__()
        self.gives = gives

    def forward(self, ids: Tensor) -> Any:
        return self.gives(super().forward(ids))


def masked(fill: float):
    return lambda y: torch.where(torch.arange(5) < 3, y, torch.finfo(y.dtype).min if fill == 0 else fill)


@pytest.mark.parametrize(
    "gives", [Scores, masked(0), masked(-1e9), lambda y: y.argmax(-1), lambda y: (y, y.argmax(-1))]
)
def test_no_return_value_makes_the_proof_empty(gives) -> None:
    for build, where in ((PostNorm, None), (ReadsTheMeanMasked, lambda name, _: "layers.1" not in name)):
        model = away_from_the_start(build(gives))
        with pytest.raises(
            ValueError,
            match=r"tensors of a floating dtype, which can be compared, and gave torch.int64|outputs would differ by",
        ):
            normscope.to_rms_norm(model, IDS, where=where)
        assert type(model.encoder.layers[0].norm1) is nn.LayerNorm


@pytest.mark.parametrize(
    "gives", [Scores, masked(0), masked(-1e9), lambda y: y + (1 - (torch.arange(5) < 1) * 1.0) * -1e9]
)
def test_nor_refuses_what_is_the_same(gives) -> None:
    class Gives(PreNorm):
        def forward(self, ids: Tensor) -> Any:
            return gives(super().forward(ids))

    assert normscope.to_rms_norm(away_from_the_start(Gives()), IDS).difference < 1e-13


class FixedHead(PreNorm):
    def forward(self, ids: Tensor) -> Tensor:
        return 0 * super().forward(ids)


def test_what_no_output_depends_on_is_not_proved() -> None:
    with pytest.raises(ValueError, match="no output depends on what the layer norms give"):
        normscope.to_rms_norm(FixedHead(), IDS)
    # Zero at the start alone: proved with other values.
    model = PreNorm()
    with torch.no_grad():
        model.head.weight.zero_()
    assert 0 < normscope.to_rms_norm(model, IDS).difference < 1e-13


def test_norms_that_did_not_run_and_what_was_not_reached() -> None:
    config = transformers.GPT2Config(n_layer=1, n_embd=32, n_head=4, vocab_size=99, add_cross_attention=True)
    model = away_from_the_start(transformers.GPT2LMHeadModel(config)).double().eval()
    with pytest.raises(
        ValueError, match=r"These did not run: transformer.h.0.ln_cross_attn. Call to_rms_norm with inputs"
    ):
        normscope.to_rms_norm(model, input_ids=IDS)
    report = normscope.to_rms_norm(model, input_ids=IDS, where=lambda name, _: "cross" not in name)
    assert "transformer.h.0.crossattention.c_proj.weight" in report.unreached
    assert "transformer.h.0.crossattention.c_proj.weight" not in report.centered
    report.undo()
    others = {"input_ids": IDS.flip(0), "encoder_hidden_states": STATES.double().flip(0)}
    with torch.no_grad():
        want = model(**others).logits
    report = normscope.to_rms_norm(model, input_ids=IDS, encoder_hidden_states=STATES.double())
    assert report.unreached == ()
    with torch.no_grad():
        torch.testing.assert_close(model(**others).logits, want, rtol=0, atol=1e-12 * want.abs().max().item())


def test_a_branch_that_did_not_run_is_named() -> None:
    config = ARCHITECTURES["vit"].build().config
    model = away_from_the_start(transformers.ViTModel(config, use_mask_token=True, add_pooling_layer=False))
    assert normscope.to_rms_norm(model, PIXELS).unreached == ("embeddings.mask_token",)


def test_training_with_dropout_on_the_stream_is_another_function() -> None:
    # What docs/guides/swap.md warns of, and what is not warned of: dropout within a branch.
    changed = []
    for p in (0.1, 0.0):
        model = away_from_the_start(PreNorm()).double()
        for layer in model.encoder.layers:
            layer.dropout1.p = layer.dropout2.p = p
        runs = []
        for _ in range(2):
            torch.manual_seed(1)
            runs.append(model(IDS).detach())
            if len(runs) == 1:
                report = normscope.to_rms_norm(model, IDS)
        assert report.same_in_training is not bool(p)
        # The first norm reads the embedding.
        assert ("gives rows a mean, which 4 of 5 norms read" in report.training) == bool(p)
        changed.append(float((runs[0] - runs[1]).abs().max()))
    assert changed[0] > 0.01
    assert changed[1] < 1e-12


def test_a_forward_on_an_instance() -> None:
    model = away_from_the_start(PreNorm())
    original = model.forward
    model.forward = lambda ids: original(ids).float()
    with pytest.raises(ValueError, match="the forward of the PreNorm itself was put on the instance"):
        normscope.to_rms_norm(model, IDS)
    del model.forward
    model.head.forward = model.head.forward
    with pytest.raises(ValueError, match="the forward of its part 'head' was put on the instance"):
        normscope.to_rms_norm(model, IDS)


def test_a_model_that_does_not_do_what_its_copy_does_is_rolled_back() -> None:
    model = away_from_the_start(PreNorm()).eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}

    def looks_at_the_model(module: nn.Module, given: Any, z: Tensor) -> Tensor:
        # In the copy, too, for a closure is not copied.
        return z + (0.0 if type(model.encoder.norm) is nn.LayerNorm else 5.0)

    model.head.register_forward_hook(looks_at_the_model)
    with pytest.raises(ValueError, match="but not in the model itself: after the change its outputs differ by"):
        normscope.to_rms_norm(model, IDS)
    assert type(model.encoder.norm) is nn.LayerNorm
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


class FailsLater(PreNorm):
    """It runs out of memory after it was changed."""

    def forward(self, ids: Tensor) -> Tensor:
        if type(self.encoder.norm) is not nn.LayerNorm and self.head.weight.dtype == torch.float32:
            raise MemoryError("no more")
        return super().forward(ids)


def test_any_failure_is_rolled_back() -> None:
    model = away_from_the_start(FailsLater())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(MemoryError, match="no more"):
        normscope.to_rms_norm(model, IDS)
    assert type(model.encoder.norm) is nn.LayerNorm
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    # Nothing of it is left that another conversion would wait for.
    model.__class__ = PreNorm
    normscope.to_rms_norm(model, IDS).undo()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@torch.no_grad()
def test_in_steps_and_undone_last_in_first_out(dtype: torch.dtype) -> None:
    model = away_from_the_start(PreNorm()).to(dtype).eval()
    want = model(IDS)
    first = normscope.to_rms_norm(model, IDS, where="encoder.layers.0.*")
    second = normscope.to_rms_norm(model, IDS)
    assert second.difference < 1e-13
    both = model(IDS)
    torch.testing.assert_close(both, want, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-4)
    with pytest.raises(RuntimeError, match=r"a later to_rms_norm stands on 4 of the 4 tensors .* undo it first"):
        first.undo()
    assert torch.equal(model(IDS), both)
    second.undo()
    first.undo()
    assert torch.equal(model(IDS), want)
    with pytest.raises(RuntimeError, match="undone already"):
        first.undo()


def test_hooks_are_kept_and_are_part_of_the_function() -> None:
    model = away_from_the_start(PreNorm()).double().eval()
    felt = []
    handle = model.encoder.norm.register_forward_hook(lambda module, given, z: felt.append(1))
    model.encoder.layers[0].norm1.register_forward_hook(lambda module, given, z: 2 * z + 1)
    want = model(IDS)
    report = normscope.to_rms_norm(model, IDS)
    felt.clear()
    torch.testing.assert_close(model(IDS), want, rtol=0, atol=1e-12)
    assert felt == [1]
    assert report.lost == ()
    handle.remove()
    model(IDS)
    assert felt == [1]


def test_meta() -> None:
    with torch.device("meta"):
        model = PreNorm()
    with pytest.raises(
        ValueError, match="places of the PreNorm itself is on the meta device and has no numbers to center"
    ):
        normscope.to_rms_norm(model, IDS)


class OwnLimit(PreNorm):
    """It makes the lowest number of the dtype it works in, in the default dtype."""

    def forward(self, ids: Tensor) -> Tensor:
        y = super().forward(ids)
        return torch.maximum(y, torch.full((), torch.finfo(y.dtype).min).to(y))


class Narrow(PreNorm):
    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(ids)).float())


def test_models_with_dtypes_of_their_own() -> None:
    assert normscope.to_rms_norm(away_from_the_start(OwnLimit()), IDS).difference < 1e-13
    model = away_from_the_start(Narrow())
    with pytest.raises(ValueError, match="a copy of Narrow that runs in float64, and there was a RuntimeError: "):
        normscope.to_rms_norm(model, IDS)
    assert type(model.encoder.norm) is nn.LayerNorm
