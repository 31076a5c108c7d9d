"""The arguments and the warning filters that a user's file finds, and what it leaves behind."""

import contextlib
import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.tasks import CustomTask, UserCodeError, UserFile

Write = Callable[..., str]


def task(name: str) -> CustomTask:
    return CustomTask(UserFile.named(name), norm=NORMS["layer_norm"], placement=PLACEMENTS["pre"])


def network(custom: CustomTask) -> tuple[CustomTask, nn.Module]:
    fresh = custom.for_run(3, "study")
    return fresh, fresh.network(NORMS["layer_norm"], PLACEMENTS["pre"], "small")


@pytest.mark.parametrize("changes", [True, False])
def test_the_arguments_are_those_of_the_file_everywhere(changes: bool, user_file: Write) -> None:
    asks = "asked = argparse.ArgumentParser()\nasked.add_argument('--lr', default=0.1)\nasked.parse_args()\n"
    top = f"from torch import nn\nimport argparse, os, sys\nread = [[*sys.argv]]\n{asks}"
    top += "sys.argv.append('x')\nos.chdir('/')\n" if changes else ""
    looks = ("    y = ", "    read.append([*sys.argv])\n    y = ")
    noted = ("        return 100.0 *", "        print(read, os.getcwd())\n        return 100.0 *")
    name = user_file(("from torch import nn\n", top), looks, noted)
    given, before, folder = sys.argv, list(sys.argv), Path.cwd()
    fresh, model = network(task(name))
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), fresh.context():
        fresh.evaluate(model, None, "valid")
    file = name.removesuffix(":make")
    assert errors.getvalue() == (f"{[[file], [file, 'x']]} /\n" if changes else f"{[[file], [file]]} {folder}\n")
    assert (sys.argv, given, Path.cwd()) == (before, before, folder)


def test_a_file_that_parses_arguments_is_told_what_to_do(user_file: Write) -> None:
    asks = "import argparse\nasked = argparse.ArgumentParser()\nasked.add_argument('--lr', required=True)\n"
    for change in (
        ("from torch import nn\n", f"from torch import nn\n{asks}asked.parse_args()\n"),
        ("    y = ", "    __import__('sys').exit(3)\n    y = "),
    ):
        with pytest.raises(
            UserCodeError, match=r"(?s)SystemExit: [23]\n.*put parse_args\(\) .* under `if __name__ == "
        ):
            task(user_file(change))


def test_warning_filters_of_the_file_hold_for_its_own_code_alone(user_file: Write) -> None:
    quiet = "from torch import nn\nimport warnings\nwarnings.filterwarnings('ignore', message='mine')\n"
    says = ("        return 100.0 *", "        warnings.warn('mine')\n        return 100.0 *")
    before = list(warnings.filters)
    fresh, model = network(task(user_file(("from torch import nn\n", quiet), says)))
    with fresh.context():
        fresh.evaluate(model, None, "valid")
    assert list(warnings.filters) == before
    with pytest.raises(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)
