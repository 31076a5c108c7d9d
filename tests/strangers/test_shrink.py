"""Configurations made small by the names of their fields, and inputs from the names of arguments."""

import dataclasses

import pytest
import torch
import transformers
from torch import Tensor, nn

from strangers.inputs import alternatives, floats_in
from strangers.libraries import Attempt, Call, CannotBuild, first_that_runs
from strangers.process import processor_time
from strangers.shrink import SCALES, Scale, shrink
from strangers.tiny import BATCH, Plain


def test_a_configuration_keeps_what_is_no_size_and_shrinks_what_is() -> None:
    small = shrink(transformers.LlamaConfig().to_dict(), Scale())
    assert small["hidden_size"] == 32
    assert small["num_attention_heads"] == 4
    assert small["num_hidden_layers"] == 2
    assert small["vocab_size"] == 128
    assert not {"rms_norm_eps", "pretraining_tp", "bos_token_id", "initializer_range"} & set(small)


def test_experts_and_the_parts_of_a_latent_head_fit_together() -> None:
    small = transformers.DeepseekV3Config(**shrink(transformers.DeepseekV3Config().to_dict(), Scale()))
    assert small.n_routed_experts % small.n_group == 0
    assert small.num_key_value_heads == small.num_attention_heads
    assert small.head_dim == small.qk_rope_head_dim


def test_nested_configurations_keep_their_kind() -> None:
    small = shrink(transformers.CLIPConfig().to_dict(), Scale())
    assert small["text_config"]["model_type"] == "clip_text_model"
    assert small["vision_config"]["hidden_size"] == 32
    assert small["vision_config"]["image_size"] == 64


def test_tokens_stay_within_a_small_vocabulary_and_apart() -> None:
    small = shrink({"vocab_size": 50000, "eos_token_id": 49999, "image_token_index": 49998, "pad_token_id": 1}, Scale())
    assert small == {"vocab_size": 128, "eos_token_id": 127, "image_token_index": 126}


def test_parts_of_a_head_fill_it() -> None:
    for scale in SCALES:
        if scale.narrow:
            assert sum(shrink({"mrope_section": [16, 24, 24]}, scale)["mrope_section"]) == scale.head // 2
            assert sum(shrink({"axes_dims_rope": (16, 56, 56)}, scale)["axes_dims_rope"]) == scale.head


def test_widths_in_a_list_keep_their_ratios() -> None:
    assert shrink({"hidden_sizes": [96, 192, 384, 768]}, Scale())["hidden_sizes"] == [24, 48, 96, 192]
    assert shrink({"depths": [3, 3, 9, 3]}, Scale())["depths"] == [1, 1, 1, 1]


def test_inputs_fit_what_a_forward_asks_for() -> None:
    def forward(input_ids: Tensor, attention_mask: Tensor | None = None) -> None: ...

    made = list(alternatives(forward, {"text_config": {"vocab_size": 20}}))
    assert [list(each) for each in made] == [["input_ids"]]
    assert made[0]["input_ids"].max() < 20

    def unknown(what_is_this: Tensor) -> None: ...

    assert list(alternatives(unknown, {})) == []


def test_floats_are_found_wherever_they_are_and_as_often() -> None:
    @dataclasses.dataclass
    class Output:
        first: Tensor
        rest: tuple

    one, other = torch.ones(2), torch.zeros(3)
    given = Output(one, ({"a": other, "b": one}, torch.ones(2, dtype=torch.long), "text"))
    assert [id(each) for each in floats_in(given)] == [id(one), id(other), id(one)]


def test_the_first_attempt_that_runs_is_taken() -> None:
    def attempt(how: str, build: type[nn.Module], *calls) -> Attempt:
        return Attempt(how=how, build=build, calls=lambda model: calls)

    bad, good = Call(nothing=1), Call(BATCH)
    attempts = [attempt("bad", Plain, bad), attempt("good", Plain, bad, good), attempt("later", Plain, good)]
    subject = first_that_runs(attempts, limited=lambda: processor_time(2))
    assert (subject.how, subject.call) == ("good", good)
    with pytest.raises(CannotBuild, match=r"call: TypeError: .*unexpected keyword argument 'nothing'"):
        first_that_runs(attempts[:1], limited=lambda: processor_time(2))
    with pytest.raises(CannotBuild, match=r"^build: CannotBuild: 99 parameters: not small"):
        first_that_runs(attempts[2:], limited=lambda: processor_time(2), largest=50)
