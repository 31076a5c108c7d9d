"""The entry point of the command line: its commands and its exit codes; heavy packages are imported on demand."""

import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import App, Parameter
from rich.console import Console

import normscope
from normscope.cli.bench import bench
from normscope.cli.compare import compare
from normscope.cli.diagnose import diagnose
from normscope.cli.judge import judge
from normscope.cli.listing import data, doctor, list_entries, new
from normscope.cli.parsing import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, remember
from normscope.cli.report import atlas, report, status
from normscope.cli.reproduce import reproduce

app = App(
    name="normscope",
    help="Normalization for PyTorch: layers, and the instruments to know which one a network needs.",
    version=normscope.__version__,
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
)
for command in (compare, report, status, judge, atlas, reproduce, diagnose):
    app.command(command)
app.command(list_entries, name="list")
for command in (new, data, bench, doctor):
    app.command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; expected errors are printed as one sentence, without a traceback."""
    remember(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # Characters that the terminal cannot encode are replaced; they do not end a study.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(arguments)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except (LookupError, ValueError, TypeError) as error:
        _refuse(error, EXIT_USAGE)
    except BrokenPipeError:
        # The reader, such as head, has seen enough. What is still buffered must not raise again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(EXIT_ERROR)
    except (OSError, ImportError, RuntimeError) as error:
        _refuse(error, EXIT_ERROR)


def _open_closed_streams() -> None:
    """Open the null device as each standard stream that is closed; a file opened later would take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))


def _refuse(error: Exception, status: int) -> NoReturn:
    text = "".join(letter for letter in f"normscope: {error}" if letter.isprintable() or letter == "\n")
    Console(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(status)


def _interrupt(number: int, frame: object) -> NoReturn:
    """Interrupt as Ctrl-C does, once: a batch system sends the signal, and the script of its job passes it on.

    Raises:
        KeyboardInterrupt: Always.
    """
    signal.signal(number, lambda number, frame: None)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
