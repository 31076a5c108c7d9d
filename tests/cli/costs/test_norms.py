import pytest
import torch
from torch import nn

from normscope import AdaNorm, DetachNorm, LayerNorm
from normscope.cli.costs import timing
from normscope.cli.costs.norms import bench_norms


def test_every_norm_has_its_cost_and_its_yardstick() -> None:
    costs = bench_norms(["none", "layer_norm", "rms_norm", "batch_norm"], [(4, 8)], [torch.float32], seconds=0.02)
    assert [cost.norm for cost in costs.costs] == ["none", "layer_norm", "rms_norm", "batch_norm"]
    assert [cost.against for cost in costs.costs] == ["nn.LayerNorm", "nn.LayerNorm", "nn.RMSNorm", "nn.BatchNorm1d"]
    for cost in costs.costs:
        assert min(cost.forward_us, cost.backward_us, cost.ratio, cost.forward_limit, cost.backward_limit) > 0
        assert cost.quartiles[0] <= cost.ratio <= cost.quartiles[1]


def test_what_does_more_takes_longer() -> None:
    x = torch.randn(256, 256)
    times, _ = timing.time_in_rounds(
        {"once": x.exp, "ten times": lambda: [x.exp() for _ in range(10)]}, threads=1, seconds=0.2
    )
    ratio = sorted(timing.ratios(times["ten times"], times["once"]))
    assert 5 < ratio[len(ratio) // 2] < 20


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    bench_norms(["layer_norm"], [(2, 8)], [torch.float32], threads=2, seconds=0.01)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("module", "bytes_saved"),
    [
        # The input, and two numbers a row in float32.
        (LayerNorm(64), 16 * 64 * 4 + 2 * 16 * 4),
        (AdaNorm(64), 16 * 64 * 4 + 2 * 16 * 4),
        # One number a row.
        (DetachNorm(64), 16 * 4),
        (nn.Tanh(), 16 * 64 * 4),
        # Of a view all of its memory stays.
        (lambda x: (x + 1)[:1].sin(), 16 * 64 * 4),
    ],
)
def test_saved_bytes_are_counted(module, bytes_saved: int) -> None:
    assert timing.saved_bytes(module, torch.randn(16, 64, requires_grad=True)) == bytes_saved


def test_an_output_without_a_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="has no gradient"):
        timing.passes(lambda x: x.detach(), torch.randn(2, requires_grad=True), torch.randn(2))
