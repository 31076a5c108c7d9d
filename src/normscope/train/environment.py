"""What a run was computed with: versions, commit, device."""

import platform
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import torch

from normscope.version import __version__


def versions() -> dict[str, str]:
    """Give the version of everything that decides a number, and the commit where the package is a checkout."""
    found = {
        "normscope": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return found | ({"commit": commit} if (commit := _commit()) else {})


def device_name(device: torch.device) -> str:
    """Name the chip in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@cache
def _commit() -> str | None:
    """Name the checkout's commit, with ``+changes`` where tracked files differ from it; None outside of a checkout."""
    here = Path(__file__).resolve().parent
    try:
        told = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=+changes", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", "environment.py"],
            capture_output=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # An installed copy may lie inside somebody else's repository.
    return told.stdout.strip() if told.returncode == 0 and tracked.returncode == 0 else None
