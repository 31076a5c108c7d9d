"""Real architectures, small, built from their configurations: nothing is downloaded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

IDS = torch.randint(0, 99, (2, 7), generator=torch.Generator().manual_seed(0))
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
STATES = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(2))
_SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model to swap in, and how to run it."""

    build: Callable[[], nn.Module]
    run: Callable[[nn.Module], Tensor]
    kind: str
    """Of its norms."""
    norms: int
    """How many of that kind, counted by hand from the architecture."""
    classes: tuple[str, ...]
    """Of the norms."""


def _named(model: str, config: str, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**settings))


def _logits(field: str = "logits", **inputs: Any) -> Callable[[nn.Module], Tensor]:
    return lambda model: getattr(model(**inputs), field)


class Classifier(nn.Module):
    """torch's encoder with an embedding before and a head behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(32, 4, 2, 2, 48, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.transformer(x, x))


ARCHITECTURES = {
    # Embeddings; two a layer; the head's transform.
    "bert": Architecture(
        build=_named("BertForMaskedLM", "BertConfig", **_SIZES, intermediate_size=48, max_position_embeddings=16),
        run=_logits(input_ids=IDS),
        kind="layer_norm",
        norms=6,
        classes=("LayerNorm",),
    ),
    # Two a layer and the last.
    "gpt2": Architecture(
        build=_named("GPT2LMHeadModel", "GPT2Config", vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=16),
        run=_logits(input_ids=IDS),
        kind="layer_norm",
        norms=5,
        classes=("LayerNorm",),
    ),
    "llama": Architecture(
        build=_named("LlamaForCausalLM", "LlamaConfig", **_SIZES, intermediate_size=48, num_key_value_heads=2),
        run=_logits(input_ids=IDS),
        kind="rms_norm",
        norms=5,
        classes=("LlamaRMSNorm",),
    ),
    # Four a layer (before and behind both branches), q and k in each, and the last; the gain is 1 + w.
    "gemma3": Architecture(
        build=_named(
            "Gemma3ForCausalLM",
            "Gemma3TextConfig",
            **_SIZES,
            intermediate_size=48,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=32,
        ),
        run=_logits(input_ids=IDS),
        kind="rms_norm",
        norms=13,
        classes=("Gemma3RMSNorm",),
    ),
    # Encoder: two a layer and the last; decoder: three a layer and the last.
    "t5": Architecture(
        build=_named(
            "T5ForConditionalGeneration",
            "T5Config",
            vocab_size=99,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
        ),
        run=_logits(input_ids=IDS, decoder_input_ids=IDS),
        kind="rms_norm",
        norms=12,
        classes=("T5LayerNorm",),
    ),
    "vit": Architecture(
        build=_named(
            "ViTForImageClassification",
            "ViTConfig",
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            image_size=32,
            patch_size=8,
            num_labels=5,
        ),
        run=_logits(pixel_values=PIXELS),
        kind="layer_norm",
        norms=5,
        classes=("LayerNorm",),
    ),
    # The stem, one a block (2 + 1), one before the only reduction, and the last of the pooled features.
    "convnext": Architecture(
        build=_named(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            hidden_sizes=[16, 24],
            depths=[2, 1],
            num_stages=2,
            num_labels=5,
            patch_size=2,
        ),
        run=_logits(pixel_values=PIXELS),
        kind="layer_norm",
        norms=6,
        classes=("ConvNextLayerNorm", "LayerNorm"),
    ),
    # The stem; two a basic block; the projection of the second stage.
    "resnet": Architecture(
        build=_named(
            "ResNetForImageClassification",
            "ResNetConfig",
            embedding_size=8,
            hidden_sizes=[8, 16],
            depths=[1, 1],
            layer_type="basic",
            num_labels=5,
        ),
        run=_logits(pixel_values=PIXELS),
        kind="batch_norm",
        norms=6,
        classes=("BatchNorm2d",),
    ),
    # No attention: one a block and the last.
    "mamba": Architecture(
        build=_named(
            "MambaForCausalLM", "MambaConfig", vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=4
        ),
        run=_logits(input_ids=IDS),
        kind="rms_norm",
        norms=3,
        classes=("MambaRMSNorm",),
    ),
    # Encoder layers two, decoder layers three, and one behind each.
    "torch": Architecture(
        build=Classifier, run=lambda model: model(STATES), kind="layer_norm", norms=12, classes=("LayerNorm",)
    ),
}
"""From a name to a model and the norms it has by its paper."""
