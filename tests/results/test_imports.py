"""Heavy packages are loaded when a number or a figure needs them, and not before."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "scipy", "matplotlib", "jinja2")


def loaded(code: str) -> set[str]:
    """Run code in a new process, and return the heavy packages that it loaded."""
    code = f"{code}\nimport sys\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("package", ["normscope.results", "normscope.report", "normscope.fits"])
def test_package_loads_nothing_heavy(package: str) -> None:
    assert loaded(f"import {package}") == set()


def test_statistic_loads_scipy() -> None:
    code = (
        "import numpy as np\nfrom normscope.results.statistics import t_interval\nt_interval(np.arange(3.0), level=0.9)"
    )
    assert loaded(code) == {"scipy"}


def test_figure_loads_matplotlib() -> None:
    assert "matplotlib" in loaded("from normscope.report.drawing.svg import blank\nblank(10, 10)")


def test_papers_draw_nothing_when_imported() -> None:
    assert not loaded("import normscope.papers") & {"matplotlib", "jinja2"}
