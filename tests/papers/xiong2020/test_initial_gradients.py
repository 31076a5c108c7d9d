"""Gradient norms against a whole backward pass; a file that is cut anywhere."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from normscope.norms import NORMS
from normscope.papers.xiong2020 import initial_gradients as under_test
from normscope.papers.xiong2020.initial_gradients import (
    Setting,
    feed_forward_matrices,
    measure,
    plan,
    read,
    run,
    whole,
)
from normscope.placement import PLACEMENTS
from normscope.training.randomness import initialize

pytestmark = pytest.mark.usefixtures("small_data")

SETTING = Setting(layers=(1, 2), width=16, tokens=128)


def test_norms_are_those_of_a_whole_backward_pass() -> None:
    task = under_test._task(SETTING, 1)
    data = task.load(torch.device("cpu"), "study", "reproduction")
    batch = data.batch(data.order(128, lambda of: torch.Generator().manual_seed(3 + 1000 * of)).batch(0))
    for placement in ("post", "pre"):
        model = task.network(NORMS["layer_norm"], PLACEMENTS[placement], "reproduction")
        initialize(model, 3)
        task.loss(model, batch).backward()
        row = measure(SETTING, 1, placement, 3)
        for part, named in feed_forward_matrices(model).items():
            for name, weights in named.items():
                wanted = [float(weight.grad.norm()) for weight in weights if weight.grad is not None]
                # Float32 sums in two orders.
                assert row["by_layer"][part][name] == pytest.approx(wanted, rel=1e-4)
        assert row["last"] == row["by_layer"]["decoder"]["W2"][-1]


def test_matrices_are_those_of_every_layer_in_order() -> None:
    model = under_test._task(SETTING, 3).network(NORMS["layer_norm"], PLACEMENTS["pre"], "reproduction")
    found = feed_forward_matrices(model)
    for part in ("encoder", "decoder"):
        assert [list(weight.shape) for weight in found[part]["W1"]] == [[32, 16]] * 3
        assert [list(weight.shape) for weight in found[part]["W2"]] == [[16, 32]] * 3
    assert sum(weight.numel() for part in found.values() for each in part.values() for weight in each) == 6 * 2 * 512


def test_seeds_draw_other_weights_and_sizes_share_a_batch() -> None:
    rows = [measure(SETTING, layers, "post", seed) for layers, seed in ((1, 0), (2, 0), (1, 1))]
    assert rows[0]["target_tokens"] == rows[1]["target_tokens"]
    assert rows[0]["last"] != rows[2]["last"]
    assert rows[1]["by_layer"] is None


def test_a_file_cut_anywhere_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    unbroken = tmp_path / "unbroken.jsonl"
    rows = run(SETTING, (0, 1), unbroken)
    content = unbroken.read_bytes()
    assert len(rows) == len(plan(SETTING, (0, 1))) == 8
    first = content.index(b"\n") + 1
    for cut in (0, 17, first, first + 40, len(content) - 1):
        broken = tmp_path / "broken.jsonl"
        broken.write_bytes(content[:cut])
        told: list[int] = []
        assert run(SETTING, (0, 1), broken, lambda done, of, name, told=told: told.append(done)) == rows
        assert broken.read_bytes() == content
        assert told == list(range(1, 9))


def test_rows_of_other_settings_and_half_seeds_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = run(SETTING, (0,), path)
    other = replace(SETTING, width=32)
    assert whole(other, path) == []
    assert whole(SETTING, path) == rows
    # A third size needs one more network of every placement; what is there stays of use.
    wider = replace(SETTING, layers=(1, 2, 3))
    assert whole(wider, path) == []
    assert len(run(wider, (0,), path)) == 6
    assert len(read(path)) == 6
    assert whole(SETTING, path) == rows


def test_a_line_that_is_no_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"schema": 1, "setting": "x"}\n')
    with pytest.raises(ValueError, match=r"line 1 of .*rows\.jsonl is not a row of gradient norms"):
        read(path)
    path.write_text("{]\n")
    with pytest.raises(ValueError, match=r"line 1 of .*is not valid JSON"):
        read(path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"layers": (6,)}, "layers must be two or more growing numbers"),
        ({"layers": (8, 6)}, "layers must be two or more growing numbers"),
        ({"width": 20}, "width must be a multiple of 8, got 20"),
        ({"tokens": 0}, "tokens must be at least 1, got 0"),
        ({"task": "digits"}, "expected a translation task, got digits"),
    ],
)
def test_settings_that_cannot_be(changed: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Setting(**changed)
