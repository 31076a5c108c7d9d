"""``normscope list``, ``data``, ``new`` and ``doctor``: what there is, here and to begin with."""

import sys
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from normscope.cli.parsing import as_typed


def list_entries(what: Literal["norms", "placements", "tasks", "probes", "all"] = "all", /) -> None:
    """List the norms, placements, tasks and probes by name, with the package of those that another package brings."""
    from normscope.cli.tables import open_console, rows_table
    from normscope.diagnostics import PROBES
    from normscope.norms import NORMS, PARAMETRIZATIONS
    from normscope.placement import PLACEMENTS
    from normscope.registry import Registry
    from normscope.tasks import TASKS

    def described(registry: Registry[Any], name: str, words: str) -> str:
        package = registry.origin(name)
        return f"{words} [{package}]" if package else words

    console = open_console()
    if what in ("norms", "all"):
        found = {**NORMS, **PARAMETRIZATIONS}
        rows = [(name, described(NORMS, name, _first_line(entry))) for name, entry in found.items()]
        console.print(rows_table(("norm", "what it is"), rows, "Norms"))
    if what in ("placements", "all"):
        rows = [(name, described(PLACEMENTS, name, entry.equation)) for name, entry in PLACEMENTS.items()]
        console.print(rows_table(("placement", "equation"), rows, "Placements"))
    if what in ("tasks", "all"):
        rows = [
            (
                name,
                described(TASKS, name, entry.description),
                entry.metric.name,
                entry.placements[0] + (f" and {more} more" if (more := len(entry.placements) - 1) else ""),
                f"{entry.presets['small'].steps:,} / {entry.presets['full'].steps:,}",
            )
            for name, entry in TASKS.items()
        ]
        console.print(rows_table(("task", "what it is", "metric", "placements", "updates small / full"), rows, "Tasks"))
    if what in ("probes", "all"):
        rows = [(name, described(PROBES, name, _first_line(entry))) for name, entry in PROBES.items()]
        console.print(rows_table(("probe", "what it measures"), rows, "Probes"))


def new(path: Path, /) -> None:
    """Write a file to fill in, for a study of a model of your own; it runs as it stands.

    For example:

    normscope new my_file.py

    normscope compare my_file.py:make

    Raises:
        FileNotFoundError: If its folder is not there.
        ValueError: If the file is there already, or its name is no Python file's, begins with a dash, or is a module's
            that it would hide from itself and its neighbours.
    """
    from importlib.resources import files

    text = (files("normscope.cli") / "template.py").read_bytes()
    _check_new(path)
    try:
        with path.open("xb") as file:
            file.write(text)
    except FileExistsError as error:
        raise ValueError(f"{path} is there already, and was left as it is") from error
    Console().print(
        f"{path} is written. It runs as it stands:  {as_typed('compare', f'{path}:make')}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _check_new(path: Path) -> None:
    """Refuse the name of a file that could not be used.

    Raises:
        FileNotFoundError: As :func:`new`.
        ValueError: As :func:`new`.
    """
    from importlib.machinery import PathFinder

    if path.suffix != ".py":
        raise ValueError(f"expected the name of a Python file, such as my_file.py, got {str(path)!r}")
    if str(path).startswith("-"):
        raise ValueError(
            f"a name that begins with a dash is taken for an option: choose another one, got {str(path)!r}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}: make it first")
    # A module of the current folder is a neighbour.
    installed = [entry for entry in sys.path if Path(entry).resolve() not in (Path.cwd(), path.parent.resolve())]
    found = path.stem.isidentifier() and PathFinder.find_spec(path.stem, installed)
    if path.stem in sys.stdlib_module_names or (found and found.origin is not None):
        raise ValueError(
            f"{path.name} would hide the module {path.stem!r} from itself and from every file beside it: choose "
            "another name"
        )


def data(
    action: Literal["list", "fetch", "verify"] = "list",
    /,
    *names: str,
) -> None:
    """List the data sets with their state, size, licence and home page; fetch or verify some by name, or all.

    Files are looked for in $NORMSCOPE_DATA/<set>, then in the cache, then fetched and checked against their SHA-256.
    Without names, fetch leaves out the sets that you must bring and those whose publisher states no hash.

    For example:

    normscope data

    normscope data fetch mnist

    normscope data verify
    """
    from normscope import data as sets
    from normscope.cli.progress import DownloadProgress
    from normscope.cli.tables import open_console, rows_table

    console = open_console()
    if action == "fetch":
        with DownloadProgress(console) as fetched:
            sets.fetch(names, progress=fetched)
    elif action == "verify":
        sets.verify(names)
    console.print(rows_table(("set", "state", "size", "licence", "home page"), sets.table(), "Data sets"))


def doctor() -> None:
    """Show what is installed, which backends run here, and what each missing part costs."""
    from normscope.cli.doctor import diagnose_installation
    from normscope.cli.tables import open_console, rows_table

    rows = [(check.name, check.state, check.found, check.advice) for check in diagnose_installation()]
    open_console().print(rows_table(("part", "state", "found", "what it costs, what to do"), rows, "This installation"))


def _first_line(entry: object) -> str:
    return (entry.__doc__ or "").strip().partition("\n")[0]
