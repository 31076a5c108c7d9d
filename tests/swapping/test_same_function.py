"""Running a model before and after."""

import torch
from architectures import ARCHITECTURES, IDS
from torch import nn

from normscope.swapping.same_function import difference, evaluating, outputs, random_call, widened


def test_outputs_are_all_floating_tensors() -> None:
    model = ARCHITECTURES["bert"].build().eval()
    (logits,) = outputs(model, ((), {"input_ids": IDS}))
    assert logits.shape == (2, 7, 99)


def test_difference_is_relative_to_the_largest() -> None:
    assert difference([torch.tensor([4.0, 0.0])], [torch.tensor([4.0, 1.0])]) == 0.25
    assert difference([torch.zeros(0)], [torch.zeros(0)]) == 0
    masked = torch.tensor([2.0, float("-inf")])
    assert difference([masked], [masked.clone()]) == 0
    lost = torch.tensor([2.0, float("nan")])
    assert difference([torch.ones(2), torch.ones(2)], [torch.ones(2), lost]) == float("inf")
    assert difference([lost], [torch.ones(2)]) == float("inf")


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
