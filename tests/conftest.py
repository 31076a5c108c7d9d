"""Where the tests find real data: a checkout of the project has ``shared/data`` beside it."""

import os
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

if SHARED.is_dir():
    os.environ.setdefault("NORMSCOPE_DATA", str(SHARED))
