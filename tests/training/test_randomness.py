"""Named streams: what two arms share."""

import hashlib

import pytest
import torch
from torch import nn

from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.tasks import TASKS
from normscope.training.randomness import generator, initialize, seed_dropout, seed_for
from support.made_norms import NEEDS_POSITIONS


def test_seeds_are_the_documented_hash() -> None:
    want = int.from_bytes(hashlib.sha256(b"3/init/stem").digest()[:8], "big") >> 1
    assert seed_for(3, "init", "stem") == want
    assert len({seed_for(seed, name) for seed in range(50) for name in ("data", "dropout")}) == 100


@pytest.mark.parametrize("norm", [name for name in NORMS if name not in {"layer_norm", *NEEDS_POSITIONS}])
def test_arms_share_every_weight_that_they_both_have(norm: str) -> None:
    task = TASKS["digits"]
    first, second = (task.network(NORMS[name], PLACEMENTS["pre"], "small") for name in ("layer_norm", norm))
    initialize(first, 7)
    torch.randn(100)
    initialize(second, 7)
    ours, theirs = first.state_dict(), second.state_dict()
    shared = [name for name in ours if name in theirs and "norm" not in name]
    assert len(shared) == 2 * (1 + 2 * 4 + 1)
    for name in shared:
        assert torch.equal(ours[name], theirs[name]), name


def test_a_stream_begins_anew_with_every_generator() -> None:
    first, again, other = generator(3, "data", 1), generator(3, "data", 1), generator(3, "data", 2)
    assert first.initial_seed() == seed_for(3, "data", 1)
    torch.manual_seed(0)
    want = torch.randn(3)
    torch.manual_seed(0)
    drawn = torch.rand(5, generator=first)
    assert torch.equal(drawn, torch.rand(5, generator=again))
    assert not torch.equal(drawn, torch.rand(5, generator=other))
    # The global generator has given nothing.
    assert torch.equal(torch.randn(3), want)


def test_seeds_differ_and_the_global_generator_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    torch.manual_seed(0)
    want = torch.randn(3)
    torch.manual_seed(0)
    initialize(model, 1)
    assert torch.equal(torch.randn(3), want)
    first = [parameter.clone() for parameter in model.parameters()]
    assert not torch.equal(first[0], first[2])
    initialize(model, 2)
    assert not any(torch.equal(a, b) for a, b in zip(first, model.parameters(), strict=True))


def test_initial_weights_have_the_distribution_of_the_module() -> None:
    model = nn.Linear(400, 300)
    initialize(model, 0)
    bound = 1 / 400**0.5
    assert model.weight.abs().max() <= bound
    # The standard error of the deviation of 120,000 uniform numbers is below a thousandth of it.
    assert model.weight.std().item() == pytest.approx(bound / 3**0.5, rel=5e-3)


def test_a_module_that_cannot_be_reset_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

    with pytest.raises(TypeError, match=r"Odd at '0' has parameters but no reset_parameters\(\)"):
        initialize(nn.Sequential(Odd()), 0)


def test_dropout_masks_depend_on_seed_and_step_alone() -> None:
    drop = nn.Dropout(0.5)
    masks = []
    for draws in (0, 5):
        torch.randn(draws)
        seed_dropout(1, 9, torch.device("cpu"))
        masks.append(drop(torch.ones(64)))
    assert torch.equal(masks[0], masks[1])
    seed_dropout(1, 10, torch.device("cpu"))
    assert not torch.equal(masks[0], drop(torch.ones(64)))


def test_processes_of_a_run_draw_masks_of_their_own_and_the_first_those_of_a_run_alone() -> None:
    def mask(**rank: int) -> list[float]:
        seed_dropout(3, 7, torch.device("cpu"), **rank)
        return torch.rand(8).tolist()

    assert mask(rank=0) == mask()
    assert len({tuple(mask(rank=rank)) for rank in range(3)}) == 3
