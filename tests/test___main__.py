"""The package as a command."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_python_m_normscope_is_the_command_line() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "normscope", "list", "placements"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert "preactivation" in told.stdout
