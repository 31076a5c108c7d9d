"""What all seeds share although the seed should decide it: found before the first run, and in the runs."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from normscope import compare, make_study
from normscope.results.seeding import shared
from normscope.results.store import StudyFolder
from normscope.studies.plan import plan
from normscope.studies.preflight import preflight
from normscope.studies.rehearsal import rehearse
from normscope.tasks import CustomTask
from support.in_process import InThisProcess

Write = Callable[..., str]
BATCHES = "batches=list(zip(x[:32].split(4), y[:32].split(4)))"
LOSS = "value = loss(model, (x[:32], y[:32]))"
LOOP = "        for step in range(1, 13):\n"
DRAWN = (LOSS, "rows = torch.randperm(32)[:8]\n            value = loss(model, (x[rows], y[rows]))")
OWN = (LOSS, "rows = torch.randperm(32, generator=own)[:8]\n            value = loss(model, (x[rows], y[rows]))")
LOADER = "torch.utils.data.DataLoader(list(zip(x[:32], y[:32])), batch_size=4, shuffle=True{})"


def before(line: str) -> tuple[str, str]:
    """Put a line before the loop over the steps."""
    return (LOOP, f"        {line}\n{LOOP}")


def drawn(call: str) -> tuple[str, str]:
    return (LOSS, f"rows = list({call})\n            value = loss(model, (x[rows], y[rows]))")


def loaded(rest: str = "") -> tuple[str, str]:
    return (
        LOOP + f"            {LOSS}\n",
        f"{LOOP[:-1]}\n".replace("range(1, 13)", "range(1, 3)")
        + f"          for batch in {LOADER.format(rest)}:\n            value = loss(model, batch)\n",
    )


FIXED = "torch.Generator().manual_seed(0)"
EVERYWHERE = "import random, numpy; random.seed(42); numpy.random.seed(42); torch.manual_seed(42)"
CASES: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "right": ([DRAWN], []),
    "right, with a loader": ([loaded()], []),
    "right, seeded with the run's seed": ([DRAWN, before("torch.manual_seed(seed)")], []),
    "the whole data at once": ([], []),
    "the whole data at once, and dropout": ([before("torch.manual_seed(0)")], ["torch"]),
    "torch": ([DRAWN, before("torch.manual_seed(0)")], ["batches", "torch"]),
    "torch within fork_rng": (
        [
            (
                LOSS,
                "with torch.random.fork_rng():\n                torch.manual_seed(step)\n                "
                "rows = torch.randperm(32)[:8]\n                value = loss(model, (x[rows], y[rows]))",
            )
        ],
        ["batches", "torch"],
    ),
    "a loader": ([before("torch.manual_seed(0)"), loaded()], ["batches", "torch"]),
    "Python": ([drawn("random.sample(range(32), 8)"), before("import random; random.seed(0)")], ["batches", "python"]),
    "NumPy": (
        [drawn("np.random.permutation(32)[:8]"), before("import numpy as np; np.random.seed(0)")],
        ["batches", "numpy"],
    ),
    "everywhere, as transformers' set_seed": ([DRAWN, before(EVERYWHERE)], ["batches", "torch", "numpy", "python"]),
    "a generator of its own": ([OWN, before(f"own = {FIXED}")], ["batches"]),
    "a generator of its own, from the seed": ([OWN, before("own = torch.Generator().manual_seed(seed)")], []),
    "a loader's generator": ([loaded(f", generator={FIXED}")], ["batches"]),
    "NumPy's new generator": (
        [drawn("own.permutation(32)[:8]"), before("import numpy as np; own = np.random.default_rng(0)")],
        ["batches"],
    ),
    "the same order on purpose": ([drawn("range(step, step + 8)")], ["batches"]),
    "two batches in a random order": (
        [
            (
                LOSS,
                "at = 16 * int(torch.randint(2, ()))\n            value = loss(model, (x[at:][:16], y[at:][:16]))",
            )
        ],
        [],
    ),
    "make, once": ([DRAWN, ("    x = torch", "    torch.manual_seed(0)\n    x = torch")], ["weights"]),
    "make, and back": ([DRAWN, ("    y = ", "    torch.manual_seed(0)\n    torch.manual_seed(seed)\n    y = ")], []),
    "weights that came from a file": (
        [
            DRAWN,
            (
                "    def loss",
                "    [nn.init.constant_(p, 0.1 * i) for i, p in enumerate(model.parameters())]\n\n    def loss",
            ),
        ],
        [],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_all_seeds_of_a_loop_share_is_found_before_the_first_run(name: str, user_file: Write) -> None:
    changes, found = CASES[name]
    study_spec = make_study(user_file(*changes, driven=True), norms=["layer_norm"], seeds=2)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        assert preflight(study_spec) == found
    assert len(given) == bool(found)
    assert all("the same in all seeds" in str(each.message) for each in given)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ([], []),
        ([(BATCHES, "batches=lambda step: (x[torch.randperm(32)[:4]], y[:4])")], []),
        ([(BATCHES, "batches=lambda step: (x[step : step + 4], y[step : step + 4])")], ["batches"]),
        ([("        return F.cross", "        torch.manual_seed(0)\n        return F.cross")], ["torch"]),
        (
            [(BATCHES, "batches=lambda step: (torch.manual_seed(step), x[torch.randperm(32)[:4]], y[:4])[1:]")],
            ["batches", "torch"],
        ),
    ],
)
def test_where_we_train_the_users_parts_are_looked_at(
    changes: list[tuple[str, str]], found: list[str], user_file: Write
) -> None:
    study_spec = make_study(user_file(*changes), norms=["layer_norm"], seeds=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert preflight(study_spec) == found


def test_first_batches_that_are_equal_by_chance_are_compared_again(user_file: Write) -> None:
    name = user_file(*CASES["two batches in a random order"][0], driven=True)
    study_spec = make_study(name, norms=["layer_norm"], seeds=[3, 4, 5])
    records = []
    for spec in plan(study_spec):
        task = spec.begin()
        assert isinstance(task, CustomTask)
        with task.context():
            records.append(rehearse(spec, task, torch.device("cpu")).draws)
    assert shared(records) == ["batches"]
    assert preflight(study_spec) == []


def test_one_seed_shares_nothing(user_file: Write) -> None:
    assert preflight(make_study(user_file(DRAWN, before("torch.manual_seed(0)"), driven=True), seeds=1)) == []


def test_the_table_and_the_page_have_the_warning(user_file: Write, tmp_path: Path) -> None:
    name = user_file(DRAWN, before("torch.manual_seed(0)"), driven=True)
    told = "The order of the data and all that is drawn from the generators of torch, such as dropout, are the same in"
    with pytest.warns(UserWarning, match="are the same in all seeds, so the spread over seeds understates"):
        summary = compare(name, norms=["layer_norm"], seeds=2, out=tmp_path / "study", engine=InThisProcess())
    assert [words.startswith(told) for words in summary.warnings] == [True]
    study = StudyFolder(tmp_path / "study")
    assert study.read_card()["shared"] == ["batches", "torch"]
    assert told in study.report.read_text()
    # Seeds that are added later are part of the same study.
    with pytest.warns(UserWarning, match="are the same in all seeds"):
        more = compare(name, norms=["layer_norm"], seeds=3, out=tmp_path / "study", engine=InThisProcess())
    assert more.warnings == summary.warnings


def test_what_is_seeded_late_is_found_in_the_runs(user_file: Write, tmp_path: Path) -> None:
    late = (LOOP, f"{LOOP}            if step == 11: torch.manual_seed(0)\n")
    for number, changes in enumerate(([DRAWN, late], [DRAWN])):
        name = user_file(*changes, driven=True)
        out = tmp_path / str(number)
        summary = compare(name, norms=["layer_norm"], seeds=2, out=out, engine=InThisProcess())
        assert StudyFolder(out).read_card()["shared"] == []
        assert len(summary.warnings) == 1 - number
