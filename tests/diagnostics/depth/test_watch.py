"""Records of one pass: the order of calls, the flow of tensors between norms, and stored outputs."""

import pytest
import torch
from torch import nn

from normscope.diagnostics.depth.watch import common_share, watch_depth
from support.planted import CASES, text


def test_events_stand_in_their_order() -> None:
    model = nn.Sequential(
        nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.LayerNorm(4)
    )
    with watch_depth(model) as watch:
        model(torch.randn(2, 4))
    assert [(event.what, event.name) for event in watch.events] == [
        ("in", "0"),
        ("norm", "0.0"),
        ("out", "0"),
        ("in", "1"),
        ("out", "1"),
        ("norm", "2"),
    ]


def test_a_norm_on_a_norm_is_seen_and_others_are_not() -> None:
    for place, want in ((0, [("1.layers.2.norm2", "1.norm")]), (1, [])):
        case = CASES["double_norm"][place](0)
        with watch_depth(case.model) as watch:
            case.loss(case.model, case.batch)
        assert [(pair.first, pair.second) for pair in watch.doubles] == want


def test_outputs_are_kept_only_when_asked_for() -> None:
    case = text(0, "pre", layers=2)
    with watch_depth(case.model) as watch:
        case.loss(case.model, case.batch)
    assert watch.outputs == []
    with watch_depth(case.model, keep=True) as watch:
        case.loss(case.model, case.batch)
    assert [tuple(z.shape) for z in watch.outputs] == [(8, 31, 32)] * 4


def test_hooks_go_when_the_block_fails() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="stop"), watch_depth(model):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_share_that_rows_have_in_common() -> None:
    row = torch.randn(16)
    assert common_share(row.expand(9, 16)) == pytest.approx(1.0)
    # Independent rows: one part in the number of rows.
    assert common_share(torch.randn(5000, 16)) == pytest.approx(1 / 5000, abs=5e-3)
