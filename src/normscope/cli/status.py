"""``normscope status``: how far a study is, from any machine that sees its folder."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from normscope.cli.parsing import JSON

if TYPE_CHECKING:
    from normscope.results.progress import Running, StudyState

MOST_ROWS = 20
"""Number of runs that are shown; more are counted."""


def status(
    directory: Annotated[Path, Parameter(help="folder of the study, which compare prints")],
    /,
    *,
    json_output: JSON = False,
) -> None:
    """Show how far a study is: what waits, what runs where, what has ended, and the time left; does not need torch.

    It reads the folder alone, so it works on every machine that sees it, whatever computes the study.

    For example:

    normscope status runs/digits-0123456789
    """
    from normscope.cli.tables import open_console, rows_table
    from normscope.results.progress import read_state

    state = read_state(directory)
    if json_output:
        print(json.dumps({"schema": 1, **asdict(state), "left": state.left}, indent=1, allow_nan=False))
        return
    console = open_console()
    console.print(f"{state.question} {_counts(state)}", markup=False, highlight=False)
    if state.running:
        rows = [_row(run) for run in state.running[:MOST_ROWS]]
        console.print(rows_table(("run", "where", "since", "step"), rows, ""))
        if len(state.running) > MOST_ROWS:
            console.print(f"and {len(state.running) - MOST_ROWS} more", highlight=False)
    console.print(_time_left(state), markup=False, highlight=False)


def _counts(state: "StudyState") -> str:
    """Return the numbers of runs, such as ``Look 1 of 3: 4 waiting, 2 running, 10 done.``."""
    stage = ""
    if state.stage is not None:
        stage = (
            "Tuning: " if state.stage.kind == "tuning" else f"Look {state.stage.number} of {len(state.stage.pairs)}: "
        )
    states = {
        "waiting": state.waiting,
        "running": len(state.running),
        "done": state.ended.get("done", 0),
        **state.ended,
    }
    return f"{stage}{', '.join(f'{count} {name}' for name, count in states.items())}."


def _row(run: "Running") -> tuple[str, str, str, str]:
    silent = f" (silent for {_duration(run.silent)})" if run.is_silent else ""
    step = f"{run.step:,}" + (f" of {run.of:,}" if run.of else "")
    return f"{run.label} seed {run.seed}", run.holder + silent, _duration(max(0.0, time.time() - run.since)), step


def _time_left(state: "StudyState") -> str:
    if not state.left:
        return "All runs have ended: `normscope report` has the results."
    if not any(not run.is_silent for run in state.running):
        return f"{state.left} runs are left, and no process computes one."
    if state.minutes is None:
        return "The time left is unknown before the first run is done."
    what = {None: "", "look": " to the look", "tuning": " of the tuning"}[state.stage and state.stage.kind]
    return f"About {_duration(60 * state.minutes)}{what} with as many processes as now."


def _duration(seconds: float) -> str:
    """Return a duration in its largest fitting unit: ``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
