"""The contract of test_norms.py holds for norms of another package, too: a class, a subclass and a function."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.plugin_package import install, install_the_pages

CONTRACT = Path(__file__).with_name("test_norms.py")
MORE = '''
import torch
from torch import nn

import normscope


class Renamed(normscope.LayerNorm):
    """A layer norm under a name of its own."""


class Own(nn.Module):
    """An RMS norm that nothing but its numbers tells."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.scale * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Rooted(nn.Module):
    """Divides by a mean absolute value; it learns nothing."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return x / (1e-3 + x.abs().mean(-1, keepdim=True))


def rooted(width):
    return Rooted(width)
'''


@pytest.mark.slow
def test_norms_of_other_packages_keep_the_contract(tmp_path: Path) -> None:
    site = install_the_pages(tmp_path / "site")
    entries = {"renamed": "more_norms:Renamed", "own": "more_norms:Own", "rooted": "more_norms:rooted"}
    install(site, "more-norms", {"normscope.norms": entries}, more_norms=MORE)
    names = ["max_norm", *entries]
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-n", "0", "-p", "no:cacheprovider", str(CONTRACT)]
    told = subprocess.run(
        [*command, "-k", " or ".join([*names, "compared", "listed", "bench"])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    assert told.returncode == 0, told.stdout
    passed = re.findall(r"^PASSED .*::(\w+)\[(\w+)\]", told.stdout, flags=re.MULTILINE)
    for name in names:
        assert len([test for test, case in passed if case == name]) == 6, (name, told.stdout)
