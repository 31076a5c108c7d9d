"""A norm of ours is added with two files and its test: its module, and one entry with its import in the registry."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "normscope"
CONTRACT = Path(__file__).with_name("test_norms.py")
TRAITS = Path(__file__).with_name("test_traits.py")
PEAK_NORM = '''
"""PeakNorm: RMSNorm with eps outside the root."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from normscope.norms.checks import Shape, as_shape, check_eps, check_input
from normscope.norms.traits import NormTraits


class PeakNorm(nn.Module):
    """Divide a row by its root mean square plus eps; a weight per feature."""

    traits: ClassVar[NormTraits] = NormTraits(
        centers=False, scales=True, statistics="features", eps_place="deviation", has_weight=True, has_bias=False
    )

    def __init__(self, normalized_shape: Shape, eps: float = 1e-5, *, device=None, dtype=None) -> None:
        super().__init__()
        self.normalized_shape = as_shape(normalized_shape)
        self.eps = check_eps(eps)
        self.weight = nn.Parameter(torch.ones(self.normalized_shape, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.normalized_shape)
        return self.weight * x / (x.square().mean(-1, keepdim=True).sqrt() + self.eps)
'''


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_new_norm_touches_two_files_and_its_test(tmp_path: Path) -> None:
    copy = tmp_path / "normscope"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = contents(copy)
    (copy / "norms" / "peak_norm.py").write_text(PEAK_NORM.lstrip())
    registry = copy / "norms" / "__init__.py"
    text = registry.read_text()
    for old, new in (
        (
            "from normscope.norms.none import NoNorm\n",
            "from normscope.norms.none import NoNorm\nfrom normscope.norms.peak_norm import PeakNorm\n",
        ),
        ('        "frn": FRN,\n', '        "frn": FRN,\n        "peak_norm": PeakNorm,\n'),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    registry.write_text(text)
    after = contents(copy)
    assert {name for name in after if after[name] != before.get(name)} == {"norms/peak_norm.py", "norms/__init__.py"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        str(CONTRACT),
        str(TRAITS),
    ]
    told = subprocess.run(
        [*command, "-k", "peak_norm or bench or declares or factor"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{CONTRACT.parents[1]}"},
    )
    assert told.returncode == 0, told.stdout
    # Six tests of the contract and ten of the traits.
    assert len(re.findall(r"^PASSED .*\[peak_norm\]", told.stdout, flags=re.MULTILINE)) == 16, told.stdout
