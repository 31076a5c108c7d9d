"""The command line in the process of the test: its words and its exit status, without two seconds of imports.

What needs a process of its own stays in one: another working torch, signals, what is imported, the workers' log.
"""

import io
import signal
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest

from normscope.cli.main import main


class Told(NamedTuple):
    """What a command said, as ``subprocess.CompletedProcess`` has it."""

    returncode: int
    stdout: str
    stderr: str


class CommandLine:
    """Runs ``normscope`` as a person would, here."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture = capture

    def __call__(self, *words: str, cwd: Path | None = None, **environment: str) -> Told:
        """Run a command.

        Args:
            words: What is typed behind ``normscope``.
            cwd: The folder to stand in.
            environment: Variables beside those of this process.

        Returns:
            Its exit status and its words. An error that the command line does not tell is raised here.
        """
        self.capture.readouterr()
        before = signal.getsignal(signal.SIGTERM)
        status: object = 0
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            # An error in other tests; here it would be words of the command.
            warnings.simplefilter("ignore")
            for name, value in {"COLUMNS": "100", **environment}.items():
                patch.setenv(name, value)
            if cwd is not None:
                patch.chdir(cwd)
            # What it writes down as the command that was typed.
            patch.setattr("sys.argv", ["normscope", *words])
            patch.setattr("sys.stdin", io.StringIO())
            try:
                main(list(words))
            except SystemExit as end:
                status = end.code
            finally:
                signal.signal(signal.SIGTERM, before)
        out, err = self.capture.readouterr()
        return Told(status if isinstance(status, int) else int(status is not None), out, err)
