"""Running a model before and after."""

import pytest
import torch
from torch import nn

from normscope.surgery.to_rms_norm.same_function import float64_by_default, outputs, replay, widened
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


def test_wide_copies_are_apart() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout().eval())
    twin, ((x,), _) = widened(model, [((torch.zeros(2),), {})])[0], widened(model, [((torch.zeros(2),), {})])[1][0]
    assert (twin[0].weight.dtype, x.dtype, model[0].weight.dtype) == (torch.float64, torch.float64, torch.float32)


class Writes(nn.Module):
    """It counts, draws, fills a list that it is given, and adds to its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.calls = 0

    def forward(self, x: torch.Tensor, cache: list[torch.Tensor]) -> torch.Tensor:
        self.count += 1
        self.calls += 1
        cache.append(x)
        return x.add_(1) * torch.rand(x.shape) + len(cache) + self.count + self.calls


def test_runs_are_the_same_and_leave_no_trace() -> None:
    model = nn.ModuleList([Writes(), nn.Dropout().eval()])
    x, cache = torch.ones(2), [torch.ones(2)]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second, other = (replay(model[0], [((x, cache), {})], seed=seed)[0][""] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert (x.tolist(), len(cache), float(model[0].count), model[0].calls) == ([1, 1], 1, 0, 0)
    assert [m.training for m in model.modules()] == [True, True, False]


def test_modes_of_a_run() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    x = torch.ones(50)

    def largest(modes: dict[str, bool] | None) -> float:
        return float(replay(model, [((x,), {})], modes=modes)[0][""].max())

    assert [largest(modes) for modes in (None, {"0": False}, {})] == [1, 2, 4]
    assert all(module.training for module in model.modules())


def test_the_default_dtype_comes_back() -> None:
    def fails() -> None:
        with float64_by_default():
            raise ValueError(str(torch.ones(()).dtype))

    with pytest.raises(ValueError, match=r"torch\.float64"):
        fails()
    assert torch.ones(()).dtype == torch.float32
