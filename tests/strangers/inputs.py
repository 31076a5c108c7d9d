"""Make inputs for a model of which only the signature of ``forward`` and the configuration are known."""

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

BATCH, TOKENS, FRAMES = 2, 8, 4
MOST = 24
"""How many combinations of values are tried for one set of arguments."""


class Facts:
    """Numbers of a configuration by name, wherever in it they stand; the outermost wins."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.flat: dict[str, Any] = {}
        level = [config]
        while level:
            for each in level:
                for name, value in each.items():
                    self.flat.setdefault(name, value)
            level = [inner for each in level for inner in each.values() if isinstance(inner, Mapping)]

    def number(self, *names: str, default: int) -> int:
        for name in names:
            value = self.flat.get(name)
            if isinstance(value, list | tuple) and value:
                value = value[0]
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        return default

    @property
    def width(self) -> int:
        return self.number("hidden_size", "d_model", "n_embd", "embed_dim", "dim", default=32)

    @property
    def side(self) -> int:
        return self.number("image_size", "img_size", "sample_size", "resolution", "input_size", default=64)

    @property
    def channels(self) -> int:
        return self.number("num_channels", "in_channels", "in_chans", "channels", default=3)

    @property
    def text_width(self) -> int:
        names = ("joint_attention_dim", "cross_attention_dim", "caption_channels", "text_embed_dim", "text_dim")
        return self.number(*names, "encoder_hid_dim", "cap_feat_dim", "text_hidden_dim", default=self.width)


def _ids(facts: Facts) -> list[Tensor]:
    top = min(facts.number("vocab_size", default=64), 64)
    return [torch.randint(3, max(top, 4), (BATCH, TOKENS))]


def _images(facts: Facts) -> list[Tensor]:
    side, channels = facts.side, facts.channels
    frames = facts.number("num_frames", "frames", default=FRAMES)
    patch = facts.number("patch_size", default=16)
    packed = channels * patch**2 * facts.number("temporal_patch_size", default=1)
    return [
        torch.randn(BATCH, channels, side, side),
        torch.randn(BATCH, frames, channels, side, side),
        torch.randn(BATCH, channels, 64, 64),
        torch.randn(BATCH, channels, 224, 224),
        torch.randn(16, packed),
        torch.randn(BATCH, 16, packed),
    ]


def _sounds(facts: Facts) -> list[Tensor]:
    bins = facts.number("num_mel_bins", "n_mels", "feature_size", "mel_dim", "input_dim", default=80)
    length = 2 * facts.number("max_source_positions", default=64)
    return [
        torch.randn(BATCH, bins, length),
        torch.randn(BATCH, length, bins),
        torch.randn(BATCH, 1, length, bins),
        torch.randn(BATCH, 64, facts.number("feature_projection_input_dim", "hidden_size", default=bins)),
    ]


def _waves(facts: Facts) -> list[Tensor]:
    return [
        torch.randn(BATCH, 4000),
        torch.randn(BATCH, 1, 4000),
        torch.randn(BATCH, facts.number("max_length", default=1024), facts.number("num_mel_bins", default=128)),
    ]


def _latents(facts: Facts) -> list[Tensor]:
    channels = facts.number("in_channels", "in_dim", "channels", "latent_channels", default=3)
    side = min(facts.number("sample_size", "input_size", default=32), 64)
    return [
        torch.randn(BATCH, channels, side, side),
        torch.randn(BATCH, 16, channels),
        torch.randn(BATCH, channels, 5, 32, 32),
        torch.randn(BATCH, 5, channels, 32, 32),
        torch.randn(BATCH, channels, 64),
        torch.randn(BATCH, 16, facts.width),
        torch.randn(BATCH, channels, 1, 16, 16),
    ]


MAKERS: dict[str, Callable[[Facts], list[Any]]] = {
    **dict.fromkeys(("input_ids", "decoder_input_ids", "text_input_ids", "labels_ids"), _ids),
    **dict.fromkeys(("pixel_values", "pixel_values_videos", "images", "image", "flattened_patches"), _images),
    **dict.fromkeys(("input_features", "audio_values", "input_speech_features", "spectrogram"), _sounds),
    "input_values": _waves,
    **dict.fromkeys(("sample", "hidden_states", "x"), _latents),
    "inputs_embeds": lambda facts: [torch.randn(BATCH, TOKENS, facts.width)],
    "encoder_hidden_states": lambda facts: [torch.randn(BATCH, TOKENS, facts.text_width)],
    "encoder_attention_mask": lambda facts: [torch.ones(BATCH, TOKENS, dtype=torch.bool)],
    "attention_mask": lambda facts: [torch.ones(BATCH, TOKENS, dtype=torch.long)],
    "pooled_projections": lambda facts: [torch.randn(BATCH, facts.number("pooled_projection_dim", default=32))],
    "pooled_projection": lambda facts: [torch.randn(BATCH, facts.number("pooled_projection_dim", default=32))],
    **dict.fromkeys(("timestep", "timesteps", "t"), lambda facts: [torch.tensor([3, 7]), torch.tensor([0.3, 0.7])]),
    "guidance": lambda facts: [torch.ones(BATCH)],
    "class_labels": lambda facts: [torch.zeros(BATCH, dtype=torch.long)],
    "img_ids": lambda facts: [torch.zeros(16, len(facts.flat.get("axes_dims_rope") or (0, 0, 0)))],
    "txt_ids": lambda facts: [torch.zeros(TOKENS, len(facts.flat.get("axes_dims_rope") or (0, 0, 0)))],
    "image_grid_thw": lambda facts: [torch.tensor([[1, 4, 4]])],
    "grid_thw": lambda facts: [torch.tensor([[1, 4, 4]])],
    "image_sizes": lambda facts: [torch.tensor([[facts.side, facts.side]] * BATCH)],
    "bbox": lambda facts: [torch.zeros(BATCH, TOKENS, 4, dtype=torch.long)],
    "past_values": lambda facts: [
        torch.randn(BATCH, facts.number("context_length", default=32), facts.number("num_input_channels", default=1)),
        torch.randn(BATCH, facts.number("context_length", default=32) + 7),
    ],
    "return_loss": lambda facts: [False],
}
"""From names of arguments to values that may fit, the likeliest first."""


def alternatives(forward: Callable[..., Any], config: Mapping[str, Any], main: str | None = None) -> Iterator[dict]:
    """Build keyword arguments that may fit a function, the likeliest first.

    Args:
        forward: What is to be called.
        config: Its model's configuration.
        main: An argument to give although it has a default.

    Yields:
        Keyword arguments; none if an argument without default has a name that is not known here.
    """
    facts = Facts(config)
    parameters = inspect.signature(forward).parameters
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [name for name, parameter in parameters.items() if parameter.kind not in kinds]
    needed = [name for name in named if parameters[name].default is inspect.Parameter.empty]
    firsts = [*([main] if main and main in named else []), *(n for n in ("input_ids", "pixel_values") if n in named)]
    sets = [needed] if needed else []
    sets += [[*needed, first] for first in dict.fromkeys(firsts) if first not in needed]
    decoder = "decoder_input_ids"
    if decoder in named and decoder not in needed:
        sets = [[*each, decoder] for each in sets] + sets
    if {"input_ids", "pixel_values"} <= set(named):
        sets.append([*dict.fromkeys([*needed, "input_ids", "pixel_values"])])
    extra = [name for name in ("encoder_hidden_states", "timestep", "pooled_projections") if name in named]
    if extra:
        ids = [name for name in ("img_ids", "txt_ids", "guidance", "encoder_attention_mask") if name in named]
        sets = [[*dict.fromkeys([*each, *more])] for more in ([], extra, [*extra, *ids]) for each in sets]
    for wanted in sets:
        if all(name in MAKERS for name in wanted):
            values = (MAKERS[name](facts) for name in wanted)
            fitting = itertools.islice(itertools.product(*values), MOST)
            yield from (dict(zip(wanted, chosen, strict=True)) for chosen in fitting)


def floats_in(output: Any) -> list[Tensor]:
    """List the floating-point tensors of what a model returned, in its order.

    A tensor that occurs twice is listed twice: without norms, what was normalized may be what was not.

    Args:
        output: A tensor, or dictionaries, sequences and data classes of these; whatever else is there is left out.
    """
    found: list[Tensor] = []
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() and output.numel() else []
    if isinstance(output, Mapping):
        output = list(output.values())
    elif hasattr(output, "__dataclass_fields__"):
        output = list(vars(output).values())
    for each in output if isinstance(output, list | tuple) else ():
        found += floats_in(each)
    return found
