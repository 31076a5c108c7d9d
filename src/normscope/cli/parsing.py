"""Shared options of the commands, parsers of their arguments, and the exit codes."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

EXIT_ERROR = 1
"""The study cannot be computed (missing data, a full disk, an unknown device), or all of its runs failed."""
EXIT_USAGE = 2
"""The command line has an invalid argument, or a file has an invalid content."""
EXIT_INTERRUPTED = 130
"""Interrupted by Ctrl-C; the same command resumes."""

MAX_SEEDS = 10_000
"""Maximum number of seeds per study; a larger number is probably a typing error."""

JSON = Annotated[bool, Parameter(name="--json", help="print JSON instead of tables")]
"""The option ``--json`` of every command that prints results."""

UNTIL_DECIDED = Annotated[
    bool,
    Parameter(help="test every arm at planned looks, at 10, 20, 30 seeds, and continue with the undecided ones"),
]
"""The option ``--until-decided`` of ``compare`` and ``reproduce``."""

LOOKS = Annotated[
    str,
    Parameter(help="numbers of seeds at the looks, such as 10,20,40; the last is the maximum", show_default=False),
]
"""The option ``--looks`` of the same commands."""

TARGET = Annotated[
    str,
    Parameter(
        help="values of the validation metric, and baseline for the best one of the baseline's run of each seed, such "
        "as 3.2,baseline: the updates until a run is as good are compared, too",
        show_default=False,
    ),
]
"""The option ``--target`` of ``compare`` and ``judge``."""

TARGET_MARGIN = Annotated[float, Parameter(help="times to a target whose ratio is below this are equivalent")]
"""The option ``--target-margin`` of the same commands."""

LAST_LOOK = Annotated[int | None, Parameter(help="number of seeds at the last look; default: that of the looks")]
"""The option ``--max-seeds`` of the same commands."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of ``compare`` and ``reproduce`` that determine how runs are computed."""

    steps: Annotated[int | None, Parameter(help="number of optimizer updates per run; default: the preset's")] = None
    preset: Annotated[
        Literal["small", "full"],
        Parameter(help="small for a laptop; full for the paper's size, or training until the results stop improving"),
    ] = "small"
    workers: Annotated[int | None, Parameter(help="number of worker processes in all; default: one per core")] = None
    device: Annotated[str, Parameter(help="device, such as cpu, cuda or cuda:1")] = "cpu"
    precision: Annotated[Literal["float32", "bfloat16"], Parameter(help="precision of the forward pass")] = "float32"
    compile: Annotated[
        bool,
        Parameter(help="compile the training loss with torch.compile: faster on a GPU, with other rounding errors"),
    ] = False


DEFAULTS = RunOptions()


def parse_seeds(text: str) -> list[int]:
    """Parse seeds such as ``0-9`` or ``3,5,8-10``.

    Raises:
        ValueError: If the text has another form, a range is descending, or there are more than :data:`MAX_SEEDS` seeds.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise ValueError(f"seeds must have the form 0-9 or 3,5,8, got {text!r}")
        if len(seeds) + int(last or first) - int(first) >= MAX_SEEDS:
            raise ValueError(f"a study may have at most {MAX_SEEDS} seeds, got {text!r}")
        seeds.extend(range(int(first), int(last or first) + 1))
    return seeds


def parse_counts(text: str) -> list[int]:
    """Parse whole numbers such as ``0,500,4000``; an empty text is an empty list.

    Raises:
        ValueError: If the text has another form.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"numbers must have the form 0,500,4000, got {text!r}")
    return [int(part) for part in parts]


def parse_shapes(text: str) -> list[tuple[int, int]]:
    """Parse shapes such as ``4096x512,64x1000``.

    Raises:
        ValueError: If the text has another form, or a size is below one.
    """
    shapes = []
    for part in text.split(","):
        rows, _, width = part.strip().partition("x")
        if not (rows.isdecimal() and width.isdecimal() and int(rows) and int(width)):
            raise ValueError(f"shapes must have the form 4096x512,64x1000, got {text!r}")
        shapes.append((int(rows), int(width)))
    return shapes


def parse_sizes(option: str, text: str) -> list[int]:
    """Parse whole numbers above zero such as ``8,64``.

    Args:
        option: What they are, for the message.
        text: What a person wrote.

    Raises:
        ValueError: If the text has another form.
    """
    if not all(part.strip().isdecimal() and int(part) for part in text.split(",")):
        raise ValueError(f"{option} must be a number above zero, or several such as 8,64, got {text!r}")
    return [int(part) for part in text.split(",")]


def split_norms(text: str) -> list[str]:
    """Split a list of norms or placements at the commas outside parentheses."""
    # Imported here because it imports torch.
    from normscope.specs import split_outside_parentheses

    return [part.strip() for part in split_outside_parentheses(text, ",") if part.strip()]


_given: list[str] = []


def remember(arguments: Sequence[str] | None) -> None:
    """Keep the arguments of this call of the command line, since the user's code may change ``sys.argv``."""
    _given[:] = sys.argv[1:] if arguments is None else arguments


def given() -> list[str]:
    """Return the arguments of this call of the command line."""
    return [*_given]


def shell_words(*words: str) -> str:
    """Return words as a shell reads them, in one line: letters that cannot be printed are written as bytes."""
    return " ".join(shlex.quote(word) if word.isprintable() else _quoted_bytes(word) for word in words)


def _quoted_bytes(word: str) -> str:
    letters = word.encode("utf-8", "surrogateescape")
    return "$'" + "".join(chr(x) if 32 <= x < 127 and x not in b"'\\" else f"\\x{x:02x}" for x in letters) + "'"


def as_typed(*arguments: str) -> str:
    """Return a command line with the program name under which this process was started."""
    return f"{os.environ.get('NORMSCOPE_STARTED_AS', 'normscope')} {shell_words(*arguments)}"


def as_argument(path: Path) -> str:
    """Return a path that is not read as an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def count(items: Sequence[object], noun: str) -> str:
    """Return a count with its noun, such as ``1 arm`` or ``2 arms``."""
    return f"{len(items)} {noun}" if len(items) == 1 else f"{len(items)} {noun}s"
