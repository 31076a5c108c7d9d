"""What a type checker says of a call: a tensor, with a residual a pair, and never Any."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TAKE_A_RESIDUAL = ("LayerNorm", "LayerNormSimple", "RMSNorm", "ScaleNorm", "DetachNorm", "AdaNorm")
PLAIN = ("BatchNorm", "DyT", "Derf", "FRN", "NoNorm")


@pytest.mark.slow
def test_calls_and_forwards_are_typed(tmp_path: Path) -> None:
    lines = ["from torch import Tensor", "import normscope.norms as n", "def check(x: Tensor, r: Tensor) -> None:"]
    wanted = {}
    for name in (*TAKE_A_RESIDUAL, *PLAIN):
        for call in ("norm(x)", "norm.forward(x)"):
            lines.append(f"    norm = n.{name}(8); reveal_type({call})")
            wanted[len(lines)] = "Tensor"
        if name in TAKE_A_RESIDUAL:
            for call in ("norm(x, r)", "norm.forward(x, r)", "norm(x, residual=r)"):
                lines.append(f"    norm = n.{name}(8); reveal_type({call})")
                wanted[len(lines)] = "tuple[Tensor, Tensor]"
    file = tmp_path / "calls.py"
    file.write_text("\n".join(lines) + "\n")
    source = Path(__file__).resolve().parents[2] / "src"
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(source)]}))
    told = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(tmp_path), "--outputjson"],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(told.stdout)["generalDiagnostics"]
    revealed = {
        entry["range"]["start"]["line"] + 1: entry["message"].rpartition(" is ")[2].strip('"')
        for entry in report
        if entry["severity"] == "information"
    }
    assert revealed == wanted
    assert [entry["message"] for entry in report if entry["severity"] == "error"] == []
