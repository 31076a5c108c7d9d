"""The version, of an installed package and of a checkout that is only on the path."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import normscope

UNINSTALLED = """
import importlib.metadata as metadata

def missing(name):
    raise metadata.PackageNotFoundError(name)

metadata.version = missing
from normscope.training.outcome import versions
print(versions()["normscope"])
"""


def test_the_version_is_the_installed_one() -> None:
    assert normscope.__version__ == version("normscope")


@pytest.mark.slow
def test_a_checkout_that_is_not_installed_has_a_version_too() -> None:
    found = subprocess.run([sys.executable, "-c", UNINSTALLED], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "0+unknown", found.stderr
