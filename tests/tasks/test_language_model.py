"""The language model task: every byte once, memory, order; small networks on Shakespeare, in float64 where exact."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normscope.data import ByteSplits, load_bytes
from normscope.models import TransformerXL
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.results.aggregates import AGGREGATES
from normscope.results.store import RunFolder
from normscope.tasks import Recipe
from normscope.tasks.language import TINY_SHAKESPEARE, Streams, StreamSize
from normscope.training.loop import train
from normscope.training.outcome import Interrupted
from normscope.training.randomness import initialize

pytestmark = pytest.mark.usefixtures("small_data")

CPU = torch.device("cpu")
SIZE = StreamSize(
    width=16,
    heads=2,
    feed_forward=32,
    layers=2,
    dropout=0.0,
    segment=8,
    memory=8,
    test_segment=16,
    test_memory=40,
)
TASK = dataclasses.replace(
    TINY_SHAKESPEARE,
    sizes={"small": SIZE},
    presets={"small": Recipe(steps=30, batch_size=32, learning_rate=3e-3, evaluations=3)},
)


@pytest.fixture(scope="module")
def data() -> Streams:
    return TASK.load(CPU, "study", "small")


def build(task: Any = TASK, *, seed: int = 1, placement: str = "pre") -> TransformerXL:
    model = task.network(NORMS["layer_norm"], PLACEMENTS[placement], "small")
    initialize(model, seed)
    return model.double().eval()


def bits_of(model: TransformerXL, before: np.ndarray, text: np.ndarray, segment: int) -> np.ndarray:
    """Read a text after what stands before it, with a memory that forgets nothing; bits of every byte of the text."""
    whole = torch.from_numpy(np.concatenate([before, text]).astype(np.int64))[None]
    memory = model.empty_memory(1, whole.shape[1])
    nats = []
    with torch.no_grad():
        for start in range(0, whole.shape[1] - 1, segment):
            wanted = whole[0, start + 1 : start + 1 + segment]
            logits, memory = model(whole[:, start : start + len(wanted)], memory)
            nats.append(-logits[0].log_softmax(-1)[torch.arange(len(wanted)), wanted])
    return torch.cat(nats).numpy()[len(before) - 1 :] / math.log(2)


def test_the_parts_are_consecutive_and_each_knows_what_stands_before_it(data: Streams) -> None:
    text = TASK.read()
    assert [len(part) for part in (data.train, data.valid, data.test)] == [1_003_854, 55_770, 55_770]
    assert (data.before_valid == text.train[-41:]).all()
    assert (data.before_test == text.valid[-41:]).all()
    assert data.train_examples == len(text.train)
    assert all(len(digest) == 64 for digest in data.hashes.values())


def test_every_byte_of_a_part_is_judged_once(data: Streams) -> None:
    model = build()
    with torch.no_grad():
        for part in ("valid", "test"):
            loss, scores = TASK.evaluate(model, data, part)
            bits, count = scores.sum(axis=0, dtype=np.float64)
            assert (scores.dtype, scores.shape[1]) == (np.float32, 2)
            assert count == 55_770
            # Blocks are examples of the bootstrap: all of about 512 bytes.
            assert scores[:, 1].min() >= 512
            assert scores[:, 1].max() < 600
            assert bits / count == pytest.approx(loss / math.log(2), rel=1e-6)
            assert AGGREGATES[TASK.metric.aggregate].value(scores) == pytest.approx(bits / count, rel=1e-12)
    # An untrained network spreads itself over 256 bytes.
    assert loss / math.log(2) == pytest.approx(8, abs=1.5)


def test_bits_equal_a_reading_byte_by_byte(data: Streams) -> None:
    remembering = dataclasses.replace(SIZE, test_memory=400)
    task = dataclasses.replace(TASK, sizes={"small": remembering})
    text = task.load(CPU, "study", "small")
    # 41 bytes before 301: all of them stay in the memory.
    part = dataclasses.replace(text, test=text.test[:301], before_test=text.before_test[-41:])
    model = build(task)
    want = bits_of(model, part.before_test, part.test, 1)
    with torch.no_grad():
        _, scores = task.evaluate(model, part, "test")
    assert scores.tolist() == [[pytest.approx(want.sum(), rel=1e-6), 301]]
    short = dataclasses.replace(part, test=part.test[:1])
    with torch.no_grad():
        _, scores = task.evaluate(model, short, "test")
    # The first byte is predicted from the context, whose last byte matters most.
    assert scores.tolist() == [[pytest.approx(want[0], rel=1e-6), 1]]
    other = part.before_test.copy()
    other[-1] ^= 1
    with torch.no_grad():
        _, scores = task.evaluate(model, dataclasses.replace(short, before_test=other), "test")
    assert scores[0, 0] == pytest.approx(bits_of(model, other, short.test, 7)[0], rel=1e-6)
    assert abs(scores[0, 0] - want[0]) > 1e-3


def test_several_readers_share_the_text_and_each_reads_its_context_first() -> None:
    context = 60
    size = dataclasses.replace(SIZE, test_segment=550, test_memory=4400, layers=1, heads=1)
    task = dataclasses.replace(TASK, sizes={"small": size})
    data = task.load(CPU, "study", "small")
    # 8,197 bytes are two readers' shares, of 4,098 and 4,099 bytes.
    part = dataclasses.replace(data, test=data.test[:8197], before_test=data.before_test[-context:])
    model = build(task)
    with torch.no_grad():
        loss, scores = task.evaluate(model, part, "test")
    first = bits_of(model, part.before_test, part.test[:4098], 700)
    second = bits_of(model, part.test[4098 - context : 4098], part.test[4098:], 700)
    assert scores[:, 1].sum() == 8197
    want = [block.sum() for share in (first, second) for block in np.array_split(share, 8)]
    assert scores[:, 0].tolist() == pytest.approx(want, rel=1e-6)
    assert loss / math.log(2) == pytest.approx(np.concatenate([first, second]).mean(), rel=1e-6)


def test_a_short_memory_forgets(data: Streams) -> None:
    part = dataclasses.replace(data, test=data.test[:500])
    model = build()
    with torch.no_grad():
        _, scores = TASK.evaluate(model, part, "test")
    whole = bits_of(model, part.before_test, part.test, 50).sum()
    # 40 bytes of memory against 541: the figures are near each other, and not equal.
    assert 1e-4 < abs(scores[0, 0] - whole) < 0.05 * whole


def test_targets_are_the_inputs_shifted_by_one(data: Streams) -> None:
    order = data.order(32, lambda number: torch.Generator().manual_seed(number))
    symbols, first = data.batch(order.batch(0))
    assert (symbols.shape, symbols.dtype, first) == ((4, 9), torch.int64, True)
    model = build()
    with torch.no_grad():
        loss = TASK.loss(model, (symbols, True))
        logits, _ = model(symbols[:, :8], model.empty_memory(4, 8))
    nats = [-logits[row, t].log_softmax(-1)[symbols[row, t + 1]] for row in range(4) for t in range(8)]
    assert loss.item() == pytest.approx(torch.stack(nats).mean().item(), rel=1e-6)


def test_every_reader_goes_on_where_it_stopped(data: Streams) -> None:
    short = dataclasses.replace(data, train=data.train[:300])
    order = short.order(32, lambda number: torch.Generator().manual_seed(number))
    # 299 bytes for 4 readers are 74 each: 8 segments of 8, of which one is spare for the offset.
    assert order.segments == 8
    before, anew = None, []
    for step in range(20):
        begins = order.batch(step)[0]
        symbols, first = short.batch(order.batch(step))
        anew.append(first)
        for row, begin in zip(symbols, begins.tolist(), strict=True):
            assert row.tolist() == short.train[begin : begin + 9].tolist()
        if not first:
            assert before is not None
            assert torch.equal(symbols[:, 0], before[:, -1])
        before = symbols
    assert [step for step, first in enumerate(anew) if first] == [0, 8, 16]


def test_a_batch_must_be_whole_segments(data: Streams) -> None:
    with pytest.raises(ValueError, match="batch_size must be a multiple of the segment, 8 bytes, got 36"):
        data.order(36, lambda number: torch.Generator())
    with pytest.raises(ValueError, match="batch_size must be a multiple of the segment, 8 bytes, got 0"):
        data.order(0, lambda number: torch.Generator())


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be 'study' or 'tune', got 'test'"):
        TASK.load(CPU, "test", "small")


def test_tuning_sees_the_training_part_alone(data: Streams) -> None:
    tuning = TASK.load(CPU, "tune", "small")
    assert len(tuning.test) == 0
    assert (np.concatenate([tuning.train, tuning.valid]) == data.train).all()
    assert len(tuning.valid) == pytest.approx(len(data.train) / 20, abs=1)
    assert (tuning.before_valid == tuning.train[-41:]).all()


def segments(data: Streams, count: int) -> list[Tensor]:
    order = data.order(32, lambda number: torch.Generator().manual_seed(number))
    return [data.batch(order.batch(step))[0] for step in range(count)]


def test_a_pass_begins_with_nothing_and_goes_on_with_its_memory(data: Streams) -> None:
    first, second = segments(data, 2)
    model = build()
    TASK.loss(model, (second, True))  # something to forget
    losses = [TASK.loss(model, (first, True)).item(), TASK.loss(model, (second, False)).item()]
    # Eight bytes of memory are the whole first segment: as if both had been read at once.
    whole = torch.cat([first, second[:, 1:]], dim=1)
    with torch.no_grad():
        logits, _ = build()(whole[:, :-1], model.empty_memory(4, 0))
        nats = F.cross_entropy(logits.transpose(1, 2), whole[:, 1:], reduction="none")
    assert losses == pytest.approx([nats[:, :8].mean().item(), nats[:, 8:].mean().item()], rel=1e-6)


def test_an_earlier_segment_matters_through_the_memory_alone(data: Streams) -> None:
    first, second = segments(data, 2)
    changed = first.clone()
    changed[:, :-1] ^= 1

    def later(before: Tensor, forgets: bool) -> tuple[float, list[Tensor]]:
        model = build()
        TASK.loss(model, (before, True))
        loss = TASK.loss(model, (second, forgets))
        loss.backward()
        return loss.item(), [p.grad for p in model.parameters() if p.grad is not None]

    remembered, gradients = later(first, False)
    other, other_gradients = later(changed, False)
    assert abs(remembered - other) > 1e-4
    assert any(not torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))
    begun, gradients = later(first, True)
    again, other_gradients = later(changed, True)
    assert begun == again
    assert all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))


def test_evaluation_leaves_the_training_memory_alone(data: Streams) -> None:
    model = build()
    TASK.loss(model, (segments(data, 1)[0], True))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert before["memory"].abs().sum() > 0
    with torch.no_grad():
        TASK.evaluate(model, dataclasses.replace(data, valid=data.valid[:200]), "valid")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("placement", ["pre", "post", "peri", "residual_dual"])
def test_no_byte_is_seen_before_its_time(data: Streams, placement: str) -> None:
    model = build(placement=placement)
    symbols = torch.from_numpy(data.test[:12].astype(np.int64))[None]
    changed = symbols.clone()
    changed[0, 7] ^= 1
    memory = model.empty_memory(1, 8)
    with torch.no_grad():
        (ours, _), (theirs, _) = model(symbols, memory), model(changed, memory)
    assert torch.equal(ours[0, :7], theirs[0, :7])
    assert (ours[0, 7:] - theirs[0, 7:]).abs().amax(-1).min() > 1e-6


def read_little() -> ByteSplits:
    """Give the beginnings of the parts."""
    text = load_bytes("text-small")
    return ByteSplits(train=text.train[:300], valid=text.valid[:200], test=text.test[:300], hashes=text.hashes)


LITTLE = dataclasses.replace(TASK, read=read_little)


def run(folder: Path, stop: int | None = None) -> None:
    def model() -> nn.Module:
        network = LITTLE.network(NORMS["layer_norm"], PLACEMENTS["pre"], "small")
        initialize(network, 5)
        return network

    folder.mkdir(parents=True, exist_ok=True)
    train(
        LITTLE,
        model,
        seed=5,
        recipe=LITTLE.presets["small"],
        split="study",
        preset="small",
        folder=RunFolder(folder),
        identity={"id": "test"},
        watch=lambda step, loss: step == stop,
    )


def lasting(folder: Path) -> tuple[Any, Any, bytes]:
    result = json.loads((folder / "result.json").read_text())
    rows = RunFolder(folder).read_metrics()
    return (
        {key: value for key, value in result.items() if key not in {"step_ms", "peak_bytes", "seconds"}},
        [{key: value for key, value in row.items() if key != "seconds"} for row in rows],
        (folder / "examples.npy").read_bytes(),
    )


def test_a_resumed_run_remembers_what_it_had_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normscope.training.loop.PROGRESS_SECONDS", 0.0)
    run(tmp_path / "whole")
    # A pass has 8 segments: in the middle of one, at its end, and in the middle of another.
    for stop in (5, 16, 21):
        with pytest.raises(Interrupted, match=f"stopped at step {stop} of 30"):
            run(tmp_path / "broken", stop)
        state = torch.load(tmp_path / "broken" / "checkpoint.pt", weights_only=True)["model"]
        assert state["memory"].shape == (2, 4, 8, 16)
        assert state["memory"].abs().sum() > 0
        assert state["memory_count"] == 8
    run(tmp_path / "broken")
    assert lasting(tmp_path / "broken") == lasting(tmp_path / "whole")


def test_a_resumed_run_without_its_memory_would_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normscope.training.loop.PROGRESS_SECONDS", 0.0)
    run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "robbed", 5)
    path = tmp_path / "robbed" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state["model"]["memory"].zero_()
    state["model"]["memory_count"].zero_()
    torch.save(state, path)
    run(tmp_path / "robbed")
    assert lasting(tmp_path / "robbed")[1] != lasting(tmp_path / "whole")[1]
