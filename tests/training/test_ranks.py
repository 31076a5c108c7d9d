"""A run that two processes share: the numbers of one, to rounding, and a run that goes on when one of them dies."""

import json
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from normscope.norms import BatchNorm, DetachNorm
from normscope.results.store import RunFolder, StudyFolder
from normscope.studies.plan import RunSpec, plan
from normscope.studies.run import execute
from normscope.studies.spec import make_study
from normscope.training import Interrupted, train
from normscope.training.ranks import RankDied, Ranks, check_norms, joined

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this PyTorch is built without gloo")

FILE = '''
import torch
import torch.nn.functional as F
from torch import nn

from normscope import Metric, Recipe, Trial

draw = torch.Generator().manual_seed(0)
X = torch.randn(80, 6, 4, generator=draw, dtype=torch.float64)
LENGTHS = torch.randint(1, 7, (80,), generator=draw)
TARGETS = (X.sum(-1) > 0).long()


class Network(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8, bias=False), norm(8), nn.Linear(8, 2)
        self.without_gradient = nn.Linear(1, 1)

    def forward(self, x):
        return self.last(F.relu(self.norm(self.first(x))))


def loss(model, batch):
    """The mean over tokens, of which parts of a batch have different numbers."""
    x, y, lengths = batch
    keep = torch.arange(6) < lengths[:, None]
    return F.cross_entropy(model(x)[keep], y[keep])


def batches(step):
    # Every fourth batch has one example, fewer than there are processes.
    rows = slice(step, step + (1 if step % 4 == 3 else 7))
    return X[rows], TARGETS[rows], LENGTHS[rows]


def make(norm, placement, seed):
    return Trial(
        model=Network(norm).double(),
        loss=loss,
        terms=lambda batch: int(batch[2].sum()),
        batches=batches,
        evaluate=lambda model, part: F.cross_entropy(model(X)[:, 0], TARGETS[:, 0], reduction="none"),
        metric=Metric(name="nats", unit="", higher_is_better=False),
        margin=0.1,
        recipe=Recipe(steps=20, batch_size=7, learning_rate=1e-2, evaluations=4, clip=0.5),
    )


def train(model, callback, recipe, group):
    shared = nn.parallel.DistributedDataParallel(model, process_group=group) if group else model
    rank, count = (group.rank(), group.size()) if group else (0, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(10):
        value = F.cross_entropy(shared(X[rank::count]).flatten(0, 1), TARGETS[rank::count].flatten())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        callback(step + 1, value)


def by_itself(norm, placement, seed):
    class Used(Network):
        def __init__(self):
            super().__init__(norm)
            del self.without_gradient

    return Trial(
        model=Used().double(),
        train=train,
        evaluate=lambda model, part: F.cross_entropy(model(X)[:, 0], TARGETS[:, 0], reduction="none"),
        metric=Metric(name="nats", unit="", higher_is_better=False),
        margin=0.1,
    )
'''


SHARDED = f"{Path(__file__).resolve().parents[2] / 'examples' / 'sharded.py'}:make"


def spec_of(task: str, norm: str, devices: int) -> RunSpec:
    steps = 6 if task == SHARDED else None
    (spec,) = plan(make_study(task, norms=[norm], seeds=1, steps=steps, devices_per_run=devices))
    return spec


def train_as(spec: RunSpec, folder: Path, ranks: Ranks | None, *, stop_at: int = 0) -> str:
    """Train a run as one of its processes, or alone; with ``stop_at``, stop it after that step."""
    task = spec.begin()
    folder.mkdir(exist_ok=True)
    options: dict[str, Any] = {"recipe": spec.recipe, "split": "study", "preset": "small", "identity": {}}
    with task.context():
        try:
            return train(
                task,
                lambda: spec.build(task),
                seed=0,
                folder=RunFolder(folder),
                watch=lambda step, loss: stop_at > 0,
                ranks=ranks,
                **options,
            )
        except Interrupted:
            return "interrupted"


def as_one_of_two(rank: int, folder: Path, task: str, cases: list[tuple[str, str]]) -> None:
    """Compute the cases as one of two processes; each has a new group, since the first may have left the last one."""
    torch.set_num_threads(1)
    for norm, name in cases:
        with joined(folder / f"{name}.meeting", rank, 2, torch.device("cpu")) as ranks:
            tasks = {"loop": f"{task}:by_itself", "sharded": SHARDED}
            spec = spec_of(tasks.get(name, f"{task}:make"), norm, 2)
            if name == "two-then-one" and rank:
                # The first process stops after the first step, and leaves this one in the next.
                with pytest.raises(RuntimeError):
                    train_as(spec, folder / name, ranks)
                continue
            state = train_as(spec, folder / name, ranks, stop_at=1 if name == "two-then-one" else 0)
            assert state == ("interrupted" if name == "two-then-one" else "done")


def measured(folder: Path) -> list[list[float]]:
    """Return training and validation losses of a run."""
    rows = [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]
    return [[row["step"], row["train_loss"], row["valid_loss"]] for row in rows]


@pytest.mark.slow
def test_two_processes_compute_what_one_does_and_take_each_others_checkpoints(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE, encoding="utf-8")
    task, alone = f"{file}:make", tmp_path / "alone"
    alone.mkdir()
    for norm in ("layer_norm", "batch_norm"):
        assert train_as(spec_of(task, norm, 1), alone / norm, None) == "done"
    assert train_as(spec_of(f"{file}:by_itself", "layer_norm", 1), alone / "loop", None) == "done"
    assert train_as(spec_of(SHARDED, "ada_norm", 1), alone / "sharded", None) == "done"
    # One process stops this run after its first step, and two go on.
    assert train_as(spec_of(task, "layer_norm", 1), tmp_path / "one-then-two", None, stop_at=1) == "interrupted"
    cases = [("layer_norm", "plain"), ("batch_norm", "batch"), ("layer_norm", "loop"), ("ada_norm", "sharded")]
    cases += [("layer_norm", "one-then-two"), ("layer_norm", "two-then-one")]
    other = multiprocessing.get_context("spawn").Process(target=as_one_of_two, args=(1, tmp_path, str(file), cases))
    other.start()
    as_one_of_two(0, tmp_path, str(file), cases)
    other.join()
    assert other.exitcode == 0
    assert train_as(spec_of(task, "layer_norm", 1), tmp_path / "two-then-one", None) == "done"
    for norm, names in {
        "layer_norm": ("plain", "one-then-two", "two-then-one"),
        "batch_norm": ("batch",),
        "loop": ("loop",),
        "sharded": ("sharded",),
    }.items():
        for name in names:
            # A loop of the user's reports the loss of its own half.
            columns = [0, 2] if name in ("loop", "sharded") else [0, 1, 2]
            found, want = (torch.tensor(measured(path))[:, columns] for path in (tmp_path / name, alone / norm))
            # The example computes in float32.
            atol = 1e-5 if name == "sharded" else 1e-10
            torch.testing.assert_close(found, want, rtol=0, atol=atol, msg=lambda words, name=name: f"{name}: {words}")
            values = [json.loads(RunFolder(one).result.read_text())["value"] for one in (tmp_path / name, alone / norm)]
            assert values[0] == pytest.approx(values[1], abs=1e-5)


def others_of_this_process() -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True
    )
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "studies.engines.rank" in line]


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    file, study = tmp_path / "mine.py", StudyFolder(tmp_path / "study")
    file.write_text(FILE.replace("steps=20", "steps=100_000"), encoding="utf-8")
    spec = spec_of(f"{file}:make", "layer_norm", 2)
    steps: list[int] = []

    def kill(step: int, loss: float) -> bool:
        steps.append(step)
        (other,) = others_of_this_process()
        os.kill(other, signal.SIGKILL)
        return False

    with pytest.raises(RankDied, match="process 1 of the 2 that share the run ended by signal 9"):
        execute(spec, study, kill)
    # It can be resumed: no result and no error is there.
    assert not study.run(spec.id).finished()
    assert not study.run(spec.id).error.exists()
    assert json.loads(study.run(spec.id).description.read_text())["devices_per_run"] == 2
    assert not dist.is_initialized()


@pytest.mark.slow
def test_an_error_of_another_process_is_the_runs(tmp_path: Path) -> None:
    file, study = tmp_path / "mine.py", StudyFolder(tmp_path / "study")
    broken = "    if step == 3 and torch.distributed.get_rank():\n        raise KeyError('only here')\n"
    file.write_text(FILE.replace("def batches(step):\n", f"def batches(step):\n{broken}"), encoding="utf-8")
    spec = spec_of(f"{file}:make", "layer_norm", 2)
    assert execute(spec, study, lambda step, loss: False) == "failed"
    result = json.loads(study.run(spec.id).result.read_text())
    assert "process 1 of the run: " in result["reason"]
    assert "only here" in result["reason"]
    assert not others_of_this_process()


def test_a_norm_of_the_whole_batch_is_refused_unless_it_spans_processes() -> None:
    for norm, words in {
        nn.BatchNorm1d(4): "BatchNorm1d at '0' depends on all rows",
        DetachNorm(4, hold_size=True): "DetachNorm at '0'",
    }.items():
        model = nn.Sequential(norm)
        check_norms(model, 1)
        with pytest.raises(ValueError, match=words):
            check_norms(model, 2)
    check_norms(nn.Sequential(BatchNorm(4), nn.SyncBatchNorm(4), nn.LayerNorm(4)), 2)


def test_a_recurrent_batch_norm_is_refused_before_the_first_run() -> None:
    (spec,) = plan(make_study("sequential_mnist", norms=["batch_norm"], seeds=1, devices_per_run=2))
    with pytest.raises(ValueError, match=r"StepBatchNorm at .* use normscope\.BatchNorm"):
        spec.build()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("        terms=lambda batch: int(batch[2].sum()),\n", ""), "Trial(terms="),
        (lambda text: text.replace("def make", "def other").replace("recipe, group):", "recipe):\n    group = None")
         .replace("def by_itself", "def make"), "must take the process group"),
    ],
)  # fmt: skip
def test_a_trial_that_does_not_say_how_is_refused(tmp_path: Path, change: Callable[[str], str], words: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(change(FILE), encoding="utf-8")
    assert spec_of(f"{file}:make", "layer_norm", 1)
    with pytest.raises(ValueError, match="devices per run") as raised:
        spec_of(f"{file}:make", "layer_norm", 2)
    assert words in str(raised.value)


def test_the_number_of_devices_names_a_run_only_where_it_is_not_one() -> None:
    one, two = (spec_of("digits", "layer_norm", devices) for devices in (1, 2))
    assert "devices_per_run" not in one.identity()
    assert two.identity()["devices_per_run"] == 2
    assert one.id != two.id
    # Of a study from before there was such a choice.
    assert one.id == "37d32aef40c7ee17"
    studies = [make_study("digits", norms=["layer_norm"], seeds=1, devices_per_run=devices).id for devices in (1, 2)]
    assert studies[0] == "ed58e7e39c" != studies[1]
    assert RunSpec.from_json(json.loads(json.dumps(two.to_json()))).id == two.id
    with pytest.raises(ValueError, match="a run on 2 devices cannot be on cuda:1 alone"):
        make_study("digits", device="cuda:1", devices_per_run=2)


def test_a_process_in_a_group_cannot_join_another(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    with (
        joined(tmp_path / "meeting", 0, 1, cpu) as ranks,
        pytest.raises(RuntimeError, match="is in a process group"),
        joined(tmp_path / "other", 0, 1, cpu),
    ):
        raise AssertionError
    assert (ranks.rank, ranks.count) == (0, 1)
