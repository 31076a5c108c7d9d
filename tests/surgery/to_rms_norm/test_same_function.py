"""Running a model before and after."""

import pytest
import torch
from torch import nn

from normscope.surgery.to_rms_norm.same_function import evaluating, float64_by_default, outputs, random_call, widened
from support.architectures import ARCHITECTURES, IDS


def test_outputs_are_all_floating_tensors() -> None:
    model = ARCHITECTURES["bert"].build().eval()
    found = outputs(model, ((), {"input_ids": IDS}))
    assert {place: list(one.shape) for place, one in found.items()} == {"logits": [2, 7, 99]}


def test_there_must_be_one() -> None:
    with pytest.raises(
        ValueError, match=r"Argmax must return .* and gave torch.int64 of shape \[2\]: to_rms_norm expects"
    ):
        outputs(Argmax(), ((torch.rand(2, 3),), {}))


class Argmax(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.argmax(-1)


def test_random_calls_have_the_shapes_and_fit() -> None:
    model = ARCHITECTURES["bert"].build()
    mask = torch.ones(2, 7, dtype=torch.long)
    _, drawn = random_call(model, ((), {"input_ids": IDS, "attention_mask": mask}), torch.Generator().manual_seed(5))
    assert drawn["input_ids"].shape == IDS.shape
    assert drawn["input_ids"].max() < 99
    assert not torch.equal(drawn["input_ids"], IDS)
    assert torch.equal(drawn["attention_mask"], mask)
    places = torch.arange(7).expand(2, 7)
    _, drawn = random_call(model, ((), {"position_ids": places}), torch.Generator().manual_seed(5))
    assert drawn["position_ids"].max() < 7
    (x, flag), _ = random_call(nn.Linear(2, 2), ((torch.zeros(3), "as it is"), {}), torch.Generator().manual_seed(0))
    assert x.std() > 0
    assert flag == "as it is"


def test_wide_copies_are_apart_and_modes_come_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout().eval())
    twin, ((x,), _) = widened(model, [((torch.zeros(2),), {})])[0], widened(model, [((torch.zeros(2),), {})])[1][0]
    assert (twin[0].weight.dtype, x.dtype, model[0].weight.dtype) == (torch.float64, torch.float64, torch.float32)
    with evaluating(model):
        assert not model.training
    assert [m.training for m in model.modules()] == [True, True, False]


def test_the_default_dtype_comes_back() -> None:
    def fails() -> None:
        with float64_by_default():
            raise ValueError(str(torch.ones(()).dtype))

    with pytest.raises(ValueError, match=r"torch\.float64"):
        fails()
    assert torch.ones(()).dtype == torch.float32
