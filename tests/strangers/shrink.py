"""Make a small configuration out of a library's own defaults, by what its fields are called."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of a small model."""

    width: int = 32
    heads: int = 4
    kv_heads: int = 2
    layers: int = 2
    experts: int = 4
    vocabulary: int = 128
    image: int = 64
    narrow: bool = True
    """Whether widths are reduced at all, or only counts of layers, experts and tokens."""
    cut: bool = False
    """Whether lists with an entry per layer are cut, which most configurations make themselves."""

    @property
    def head(self) -> int:
        return self.width // self.heads


SCALES = (
    Scale(),
    Scale(width=64, kv_heads=4, layers=4, cut=True),
    Scale(width=64, heads=2, kv_heads=2, layers=3, image=224),
    Scale(narrow=False),
    Scale(width=32, heads=2, kv_heads=2, cut=True),
)
"""Tried one after another: what refuses the first often wants wider heads, more layers, or its own image size."""

Rule = Callable[[Any, Scale], Any]


def _at_most(size: str, factor: float = 1) -> Rule:
    return lambda default, scale: min(default, max(1, int(getattr(scale, size) * factor)))


def _width(factor: float = 1) -> Rule:
    return lambda default, scale: min(default, int(scale.width * factor)) if scale.narrow else default


def _widths(default: list[int], scale: Scale) -> list[int]:
    """Divide by one power of two, so that ratios stay; no width falls below 8."""
    if not scale.narrow:
        return default
    step = 2 ** max(0, int(math.log2(max(1, min(default)) / (scale.width // 2))))
    return [max(8, value // step) for value in default]


def _parts(default: list[int], scale: Scale, of: int) -> list[int]:
    """Divide a head's width into as many even parts as there were."""
    if not scale.narrow:
        return default
    small = max(1, of // (2 * len(default)))
    small -= small % 2 if of % 4 == 0 and small > 1 else 0
    return [of - small * (len(default) - 1), *[small] * (len(default) - 1)]


def _rope_sections(default: list[int], scale: Scale) -> list[int]:
    return _parts(default, scale, scale.head // 2)


def _axes(default: list[int], scale: Scale) -> list[int]:
    if not scale.narrow:
        return default
    rest = scale.head - 2 * (len(default) - 1)
    return [rest, *[2] * (len(default) - 1)]


def _head(default: int, scale: Scale) -> int:
    return min(default, scale.head) if scale.narrow else default


def _heads(default: int, scale: Scale) -> int:
    return min(default, scale.heads) if scale.narrow else default


def _kv_heads(default: int, scale: Scale) -> int:
    if not scale.narrow:
        return default
    return default if default == 1 else min(default, scale.kv_heads)


SINGLE: tuple[tuple[str, Rule], ...] = (
    (r"experts_per_tok|top_?k|moe_k|topk_group|^n_group$", lambda default, scale: min(default, 2)),
    # Never touched: what is called like a size and is none.
    (r"kernel|stride|dilation|padding|loss|coefficient|_cost|window_layers|pretraining|chunk|theta|groups?$", None),
    (r"^(in|out|num|latent|input|output|audio)_(channels|dim|chans)$|^channels$", None),
    (r"label|temperature|merge_size|out_indices|_frames$|num_frames|sliding|window|buckets|per_second|freq", None),
    (r"vocab_size|num_embeddings$|num_embeds$|codebook_size", _at_most("vocabulary")),
    (r"max_.*position|n_positions|max_seq|context_length|max_source_positions", _at_most("vocabulary", 4)),
    (r"image_size$|^img_size|^sample_size|^resolution|^input_size$|crop_size", _at_most("image")),
    (r"patch_size$", lambda default, scale: min(default, 16)),
    (r"(num|n)_(local_|routed_)?experts$|moe_num_experts|num_local_experts", _at_most("experts")),
    (r"first_k_dense|nextn|kv_shared_layers", lambda default, scale: min(default, 1)),
    (r"key_value_heads|kv_heads|multi_query_group|linear_num_key_heads", _kv_heads),
    (r"layers?$|_depth$|^depth$|num_blocks|num_encoder_blocks|^n_layer|num_stages_|layers_per", _at_most("layers")),
    (r"qk_rope_head_dim|rotary_dim", lambda default, scale: min(default, scale.head // 2) if scale.narrow else default),
    (r"qk_nope_head_dim", lambda default, scale: min(default, scale.head // 2) if scale.narrow else default),
    (r"head_(dim|size)|d_kv|dim_head|d_head|kv_channels|query_pre_attn|_head_dim$|v_head", _head),
    (r"heads$|n_head$|num_head$", _heads),
    (r"lora_rank|state_size|d_state|dt_rank|time_step_rank", lambda d, scale: min(d, 8) if scale.narrow else d),
    (r"intermediate|ffn_dim|d_ff$|mlp_dim|d_inner|ffn_hidden|feedforward_dim|linear_units|dim_feedforward", _width(2)),
    (
        r"hidden_size|d_model|n_embd|embed|hidden_dim|projection_dim|model_dim|cross_attention_dim|attention_dim",
        _width(),
    ),
    (r"_dim$|^dim$|_size$|feature_size|caption_channels|base_channels|conv_channels|inner_dim|_channels_", _width()),
    (r"num_queries|num_query_tokens|num_denoising|num_latents|num_image_tokens", lambda d, scale: min(d, 10)),
)
"""From a pattern of names to what becomes of a whole number; the first that fits; None leaves it."""

SEVERAL: tuple[tuple[str, Rule | None], ...] = (
    (r"kernel|stride|dilation|padding|ratio|rates|sizes_pool|pool_scales|window|indices|index", None),
    (r"mrope_section|rope_section", _rope_sections),
    (r"axes_dim|axes_dims", _axes),
    (r"depths|num_blocks|layers_per_block|^layers$|stage_num|num_block|blocks_per", lambda d, scale: [1] * len(d)),
    (r"heads", lambda d, scale: [min(value, scale.heads) for value in d] if scale.narrow else d),
    (r"image_size|img_size|sample_size", lambda d, scale: [min(value, scale.image) for value in d]),
    (r"channels|hidden_sizes|embed_dims?|conv_dim|dims$|widths|_dim$", _widths),
)


def shrink(defaults: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
    """Return the fields to change, with new values; nested configurations become nested dictionaries.

    Args:
        defaults: Fields of a configuration as plain values.
        scale: How small.

    Returns:
        Only what changes, but for ``model_type``, by which a nested configuration is known.
    """
    changed: dict[str, Any] = {}
    layers = {
        value for name, value in defaults.items() if re.search(r"layers$|^n_layer$", str(name)) and _is_int(value)
    }
    special = iter(range(scale.vocabulary - 1, 0, -1))
    for name, value in defaults.items():
        if not isinstance(name, str) or name in ("id2label", "label2id") or name.startswith("_"):
            continue
        if isinstance(value, Mapping):
            inner = shrink(value, scale)
            if inner and value.get("rope_type"):
                inner = {**value, **inner}
            elif inner and value.get("model_type"):
                inner = {"model_type": value["model_type"], **inner}
            if inner:
                changed[name] = inner
        elif re.search(r"token_(id|index)$", name):
            if isinstance(value, int) and value >= scale.vocabulary:
                changed[name] = next(special)
        elif isinstance(value, list | tuple) and value and all(_is_int(each) for each in value):
            new = _apply(SEVERAL, name, list(value), scale)
            if new != list(value):
                changed[name] = type(value)(new)
        elif scale.cut and isinstance(value, list) and len(value) in layers:
            changed[name] = value[: scale.layers]
        elif _is_int(value) and value > 0:
            new = _apply(SINGLE, name, value, scale)
            if new != value:
                changed[name] = new
    if {"qk_rope_head_dim", "head_dim"} <= set(changed):
        changed["head_dim"] = changed["qk_rope_head_dim"]  # the part of a head that turns, where there are two
    if "kv_lora_rank" in defaults and "num_key_value_heads" in changed:
        changed["num_key_value_heads"] = changed.get("num_attention_heads", defaults.get("num_attention_heads"))
    return changed


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _apply(rules: tuple[tuple[str, Rule | None], ...], name: str, value: Any, scale: Scale) -> Any:
    rule = next((rule for pattern, rule in rules if re.search(pattern, name)), None)
    return value if rule is None else rule(value, scale)
