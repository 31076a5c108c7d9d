"""What a person types: options that commands share, lists written in one word, commands to type next; exit codes."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

EXIT_ERROR = 1
"""The study could not be answered: missing data, a full disk, no such device; or every one of its runs failed."""
EXIT_USAGE = 2
"""The command line asks for something that does not exist, or a file is not what it should be."""
EXIT_INTERRUPTED = 130
"""Stopped by Ctrl-C; the same command goes on."""

MOST_SEEDS = 10_000
"""Largest number of seeds of a study; a larger one is taken for a typing error."""

JSON = Annotated[bool, Parameter(name="--json", help="print JSON instead of tables")]
"""The option of every command with results."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How runs are computed: the options that ``compare`` and ``reproduce`` share."""

    steps: Annotated[int | None, Parameter(help="updates of every run; the preset's where left out")] = None
    preset: Annotated[
        Literal["small", "full"],
        Parameter(help="small for a laptop; full at the paper's size, or until the figures stop improving"),
    ] = "small"
    workers: Annotated[int | None, Parameter(help="processes; one per core where left out")] = None
    device: Annotated[str, Parameter(help="cpu, cuda or cuda:1")] = "cpu"
    precision: Annotated[Literal["float32", "bfloat16"], Parameter(help="of the forward pass")] = "float32"
    compile: Annotated[bool, Parameter(help="compile the training loss: faster on a GPU, other roundings")] = False


DEFAULTS = RunOptions()


def parse_seeds(text: str) -> list[int]:
    """Parse seeds such as ``0-9`` or ``3,5,8-10``.

    Raises:
        ValueError: If the text has another form, counts down, or names more than :data:`MOST_SEEDS`.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise ValueError(f"seeds are written as 0-9 or 3,5,8, got {text!r}")
        if len(seeds) + int(last or first) - int(first) >= MOST_SEEDS:
            raise ValueError(f"a study may have {MOST_SEEDS} seeds at most, got {text!r}")
        seeds.extend(range(int(first), int(last or first) + 1))
    return seeds


def parse_counts(text: str) -> list[int]:
    """Parse whole numbers such as ``0,500,4000``; an empty text is an empty list.

    Raises:
        ValueError: If the text has another form.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"numbers are written as 0,500,4000, got {text!r}")
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
            raise ValueError(f"shapes are written as 4096x512,64x1000, got {text!r}")
        shapes.append((int(rows), int(width)))
    return shapes


def split_norms(text: str) -> list[str]:
    """Split a list of norms or placements at the commas outside parentheses."""
    # Late, since it brings torch.
    from normscope.specs import split_outside_parentheses

    return [part.strip() for part in split_outside_parentheses(text, ",") if part.strip()]


def as_typed(*words: str) -> str:
    """Return a command as whoever started this one can type it."""
    return f"{os.environ.get('NORMSCOPE_STARTED_AS', 'normscope')} {shlex.join(words)}"


def count(things: Sequence[object], noun: str) -> str:
    """Return a count with its noun, such as ``1 arm`` or ``2 arms``."""
    return f"{len(things)} {noun}" if len(things) == 1 else f"{len(things)} {noun}s"
