"""The entry point of the command line: its commands and its exit codes; heavy packages are imported on demand."""

import io
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import App, Parameter
from rich.console import Console

import normscope
from normscope.cli.bench import bench
from normscope.cli.compare import compare, report
from normscope.cli.diagnose import diagnose
from normscope.cli.listing import data, doctor, list_entries, new
from normscope.cli.parsing import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, remember
from normscope.cli.reproduce import reproduce

app = App(
    name="normscope",
    help="Normalization for PyTorch: layers, and the instruments to know which one a network needs.",
    version=normscope.__version__,
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
)
for command in (compare, report, reproduce, diagnose):
    app.command(command)
app.command(list_entries, name="list")
for command in (new, data, bench, doctor):
    app.command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; expected errors are printed as one sentence, without a traceback."""
    remember(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
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
    except (OSError, ImportError, RuntimeError) as error:
        _refuse(error, EXIT_ERROR)


def _refuse(error: Exception, status: int) -> NoReturn:
    text = "".join(letter for letter in f"normscope: {error}" if letter.isprintable() or letter == "\n")
    Console(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(status)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
