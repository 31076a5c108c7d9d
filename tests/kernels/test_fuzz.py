"""The CPU kernels, called from C with random arguments: array bounds, results, and independence of rows."""

import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from normscope.kernels.backends import build
from support import sanitize

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="fuzz.c puts pages that nobody may touch beside its arrays"),
    pytest.mark.skipif(platform.machine().lower() not in build.VARIANTS, reason="no CPU kernels for this processor"),
]


@pytest.fixture(scope="module")
def fuzz() -> Iterator[Path]:
    try:
        build.compiler("CC")
    except build.CannotBuild as error:
        pytest.skip(str(error))
    # Linked with the library that the package loads here, for that one is to be right.
    library = build.kernels(print)
    with tempfile.TemporaryDirectory() as folder:
        yield sanitize.build_fuzz(Path(folder), library=library)


@pytest.mark.slow
def test_kernels_keep_to_their_arrays_and_to_the_formula(fuzz: Path) -> None:
    done = subprocess.run([fuzz, "2026", "400"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("400 cases; f32 ")


def test_one_case_can_be_called_alone(fuzz: Path) -> None:
    one = subprocess.run([fuzz, "2026", "400", "17"], capture_output=True, text=True, check=False)
    assert one.returncode == 0, one.stderr
    assert one.stdout.startswith("1 cases; ")


# More cases by ./run sanitize, whose defaults are larger.
@pytest.mark.slow
def test_sanitizers_find_nothing_in_the_kernels_and_in_the_modules() -> None:
    command = [sys.executable, sanitize.__file__, "--cases", "2000", "--calls", "40", "--layers", "30"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2000 cases; " in done.stdout
    assert "40 calls of modules: " in done.stdout
    assert "30 calls of layers: " in done.stdout
