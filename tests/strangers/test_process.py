"""A tiny architecture through the whole trial, in a process of its own; and every way in which one can fail."""

import sys
from typing import Any

import pytest

from strangers import process

PROVIDER = "strangers.tiny:LIBRARIES"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the limits are those of POSIX"),
]


@pytest.fixture(scope="module")
def made() -> Any:
    return process.context(["strangers.tiny"])


def tried(made: Any, *names: str, targets: tuple[str, ...] = ("rms_norm",), **limits: float) -> dict[str, dict]:
    """Try tiny models, two at a time, and return their records by name."""
    orders = [
        process.Order(
            library="tiny",
            name=name,
            targets=targets,
            compiled=targets[:1] if name == "Plain" else (),
            backend="aot_eager",
            limits=process.Limits(**{"seconds": 300, **limits}),
            provider=PROVIDER,
        )
        for name in names
    ]
    records: list[dict] = []
    process.run_all(iter(orders), made, workers=2, done=records.append)
    return {record["name"]: record for record in records}


def statuses(record: dict) -> dict[str, str]:
    return {cell["cell"]: cell["status"] for cell in record["cells"]}


def test_names_come_from_another_process(made: Any) -> None:
    assert "Plain" in process.names(made, "tiny", PROVIDER)
    with pytest.raises(RuntimeError, match="is it installed"):
        process.names(made, "no_such_library", PROVIDER)


def test_a_good_model_passes_every_check(made: Any) -> None:
    record = tried(made, "Plain", targets=("rms_norm", "layer_norm", "dyt"))["Plain"]
    assert (record["built"], record["norms"]) == ("Plain", ["layer_norm"])
    checks = ("swap", "undo", "train", "save", "diagnose")
    expected = {"own/repeat", "own/find", "own/train", "own/diagnose", "to_rms_norm/convert", "rms_norm/compile"}
    expected |= {f"{target}/{check}" for target in ("rms_norm", "dyt") for check in checks}
    passed = {cell for cell, status in statuses(record).items() if status == "ok"}
    assert passed == expected
    assert statuses(record)["layer_norm/swap"] == "skipped"


def test_each_fault_is_told_as_what_it_is(made: Any) -> None:
    records = tried(
        made,
        "WantsLayerNorm",
        "DividesByZeroAfterASwap",
        "TakesMemoryAfterASwap",
        "DiesAfterASwap",
        "DoesNotTrain",
        "NotTheSameTwice",
    )
    wrong = records["WantsLayerNorm"]["cells"][-1]
    assert (wrong["cell"], wrong["status"]) == ("rms_norm/swap", "failed")
    assert wrong["error"] == "CheckFailed: shapes were [(4, 3)] and are [(4, 2)]"
    divided = records["DividesByZeroAfterASwap"]["cells"][-1]
    assert (divided["cell"], divided["status"]) == ("rms_norm/swap", "theirs")
    memory = records["TakesMemoryAfterASwap"]["cells"][-1]
    assert (memory["cell"], memory["status"]) == ("rms_norm/swap", "failed")
    assert "memory" in memory["error"]
    died = records["DiesAfterASwap"]["cells"][-1]
    # to_rms_norm comes first, and puts another norm in, too.
    killed = ("to_rms_norm/convert", "killed", "the process ended with 3")
    assert (died["cell"], died["status"], died["error"]) == killed
    untrained = statuses(records["DoesNotTrain"])
    assert untrained["own/train"] == "theirs"
    assert untrained["rms_norm/undo"] == "ok"
    assert not {"rms_norm/train", "rms_norm/diagnose"} & set(untrained)
    assert statuses(records["NotTheSameTwice"]) == {"own/repeat": "theirs"}


def test_a_hanging_model_is_cut_at_its_limit_and_the_next_one_runs(made: Any) -> None:
    records = tried(made, "HangsAfterASwap", "WithoutNorm", seconds=30)
    cut = records["HangsAfterASwap"]["cells"][-1]
    limit = ("to_rms_norm/convert", "timeout", "over the time limit of 30 s")
    assert (cut["cell"], cut["status"], cut["error"]) == limit
    assert statuses(records["HangsAfterASwap"])["own/train"] == "ok"
    assert records["WithoutNorm"]["norms"] == []
    assert statuses(records["WithoutNorm"])["own/train"] == "ok"


def test_what_is_not_built_says_why(made: Any) -> None:
    records = tried(made, "TakesLongToBuild", "CannotBeCalled", build_seconds=0.5)
    assert records["TakesLongToBuild"]["not_built"] == "build: TimeoutError: more than 0.5 s of processor time"
    assert records["CannotBeCalled"]["not_built"] == "call: NotImplementedError: no forward here"
    assert all(record["cells"] == [] for record in records.values())
