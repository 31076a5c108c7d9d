"""Which data the tests see, and a file such as a user writes.

A test sees no data folder, unless it asks for the miniatures (``small_data``) or is marked as one of real data.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support import data_sets

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with Ctrl-C ignored; tests that press it would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is slow with an example, and not wrong.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

REAL = "NORMSCOPE_REAL_DATA"
"""Names the folder of the published sets: the user's own NORMSCOPE_DATA, or ``shared/data`` beside the checkout."""

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

if given := os.environ.pop("NORMSCOPE_DATA", str(SHARED) if SHARED.is_dir() else ""):
    # Worker processes inherit this name and not the other.
    os.environ[REAL] = given


MOST_OF_REAL_DATA = 50
"""So many tests may need the published sets; all others make do with what anybody has."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Start one process more than there are cores: a good part of the tests' time is spent waiting for others."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the number of tests that need the published sets small."""
    real = [item.nodeid for item in items if item.get_closest_marker("real_data")]
    if len(real) > MOST_OF_REAL_DATA:
        raise pytest.UsageError(f"{len(real)} tests are marked real_data, expected {MOST_OF_REAL_DATA} at most: {real}")


@pytest.fixture(scope="session")
def small_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder that holds a miniature of every data set."""
    return data_sets.folder_of(tmp_path_factory)


@pytest.fixture(scope="module")
def small_data(small_data_folder: Path) -> Iterator[Path]:
    """Use the miniatures in a module's tests, and in the processes that they start; give their folder."""
    with pytest.MonkeyPatch.context() as patch:
        data_sets.use(small_data_folder, patch)
        yield small_data_folder


@pytest.fixture(autouse=True)
def _data_of_the_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Show a test that is marked ``real_data`` the published sets that it names, or skip it where one is missing.

    A test that asks for neither them nor the miniatures sees no folder, whatever its neighbours ask for.
    """
    mark = request.node.get_closest_marker("real_data")
    if mark is None:
        if "small_data" not in request.fixturenames:
            data_sets.use_published(None, monkeypatch)
        return
    data_sets.use_published(os.environ.get(REAL), monkeypatch)
    for name, words in data_sets.missing(mark.args).items():
        pytest.skip(f"needs the published data set {name}, which is {words}; set NORMSCOPE_DATA to a folder with it")


USER_FILE = '''
import torch
import torch.nn.functional as F
from torch import nn

from normscope import Metric, Recipe, Trial


def make(norm, placement, seed):
    """Points of two kinds."""
    x = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] * x[:, 1] > 0).long()
    parts = {"valid": slice(32, 64), "test": slice(64, 96)}
    model = nn.Sequential(nn.Linear(4, 8), norm(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    def evaluate(model, part):
        return 100.0 * (model(x[parts[part]]).argmax(-1) == y[parts[part]])

    def train(model, callback):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(1, 13):
            value = loss(model, (x[:32], y[:32]))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            callback(step, value)

    return Trial(
        model=model,
        loss=loss,
        batches=list(zip(x[:32].split(4), y[:32].split(4))),
        evaluate=evaluate,
        metric=Metric(name="test accuracy", unit="%", higher_is_better=True),
        margin=1.0,
        recipe=Recipe(steps=12, batch_size=4, learning_rate=1e-2, evaluations=3),
    )
'''

LOSS_AND_BATCHES = "        loss=loss,\n        batches=list(zip(x[:32].split(4), y[:32].split(4))),\n"


@pytest.fixture
def user_file(tmp_path: Path) -> Callable[..., str]:
    """Write the file above with changes; give the name of its function, as the command line takes it.

    ``driven`` makes it train by itself.
    """

    def write(*changes: tuple[str, str], path: Path = tmp_path / "my_file.py", driven: bool = False) -> str:
        text = USER_FILE
        for old, new in (*([(LOSS_AND_BATCHES, "        train=train,\n")] if driven else []), *changes):
            assert text.count(old) == 1, f"the file has {old!r} {text.count(old)} times"
            text = text.replace(old, new)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return f"{path}:make"

    return write
