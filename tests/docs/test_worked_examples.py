"""The worked examples, each through the real command with worker processes, at a tiny size."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ("characters", "digits", "sentences")


def test_every_example_is_tested() -> None:
    # tests/training/test_ranks.py runs the one on several devices.
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*NAMES, "sharded"}
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"normscope compare examples/{name}.py:make" in page for name in (*NAMES, "sharded"))


@pytest.mark.slow
@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("name", NAMES)
def test_an_example_gives_a_whole_comparison(name: str, tmp_path: Path) -> None:
    if name == "sentences" and importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not here")
    out = tmp_path / "study"
    words = [
        "compare",
        f"{EXAMPLES / name}.py:make",
        "--norms",
        "layer_norm,rms_norm",
        "--seeds",
        "0-1",
        "--workers",
        "2",
    ]
    told = subprocess.run(
        [sys.executable, "-m", "normscope.cli.main", *words, "--out", str(out), "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        env={**os.environ, "EXAMPLE_STEPS": "4"},
    )
    assert told.returncode == 0, told.stderr
    summary = json.loads(told.stdout)
    assert summary["complete"]
    assert summary["task"] == f"{name}.py:make"
    assert [arm["pairs"] for arm in summary["arms"]] == [2, 2]
    assert all((run["state"], run["steps"]) == ("done", 4) for arm in summary["arms"] for run in arm["runs"])
    # So short a training may end at chance, all runs at the same; their losses differ.
    rows = [json.loads(path.read_text().splitlines()[-1]) for path in (out / "runs").glob("*/metrics.jsonl")]
    assert len({row["train_loss"] for row in rows}) == 4
    assert (out / "report.html").exists()
