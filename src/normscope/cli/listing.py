"""``normscope list``, ``new``, ``data`` and ``doctor``: registered names, a template, data sets, the installation."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from normscope.cli.parsing import as_typed


def list_entries(what: Literal["norms", "placements", "tasks", "probes", "all"] = "all", /) -> None:
    """List the norms, placements, tasks and probes; entries of plug-ins are marked with their package.

    For example:

    normscope list norms
    """
    from normscope.cli.tables import open_console, rows_table
    from normscope.diagnostics import PROBES
    from normscope.norms import NORMS, PARAMETRIZATIONS
    from normscope.placement import PLACEMENTS
    from normscope.registry import Registry
    from normscope.tasks import TASKS

    def describe(registry: Registry[Any], name: str, text: str) -> str:
        package = registry.origin(name)
        return f"{text} [{package}]" if package else text

    console = open_console()
    if what in ("norms", "all"):
        entries = {**NORMS, **PARAMETRIZATIONS}
        rows = [(name, describe(NORMS, name, _first_line(entry))) for name, entry in entries.items()]
        console.print(rows_table(("norm", "description"), rows, "Norms"))
    if what in ("placements", "all"):
        rows = [(name, describe(PLACEMENTS, name, entry.equation)) for name, entry in PLACEMENTS.items()]
        console.print(rows_table(("placement", "equation"), rows, "Placements"))
    if what in ("tasks", "all"):
        rows = [
            (
                name,
                describe(TASKS, name, _with_variants(entry.description, entry.variants)),
                entry.metric.name,
                entry.placements[0] + (f" and {more} more" if (more := len(entry.placements) - 1) else ""),
                f"{entry.presets['small'].steps:,} / {entry.presets['full'].steps:,}",
            )
            for name, entry in TASKS.items()
        ]
        console.print(
            rows_table(("task", "description", "metric", "placements", "updates small / full"), rows, "Tasks")
        )
    if what in ("probes", "all"):
        rows = [(name, describe(PROBES, name, _first_line(entry))) for name, entry in PROBES.items()]
        console.print(rows_table(("probe", "measurement"), rows, "Probes"))


def new(path: Path, /) -> None:
    """Write a template for a custom task, to compare norms in your model; it runs without changes.

    For example:

    normscope new my_file.py

    normscope compare my_file.py:make

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the file exists; or if its name does not end with ``.py``, begins with a dash, or is that of a
            module which the file would shadow.
    """
    from importlib.resources import files

    text = (files("normscope.cli") / "template.py").read_bytes()
    _check_new(path)
    try:
        with path.open("xb") as file:
            file.write(text)
    except FileExistsError as error:
        raise ValueError(f"{path} already exists and was not changed") from error
    Console().print(
        f"Wrote {path}. It runs without changes:  {as_typed('compare', f'{path}:make')}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _check_new(path: Path) -> None:
    """Check that a new file can be written and imported under its name.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the name does not end with ``.py``, begins with a dash, or is the name of a module that the file
            would shadow.
    """
    from importlib.machinery import PathFinder

    if path.suffix != ".py":
        raise ValueError(f"expected the name of a Python file, such as my_file.py, got {str(path)!r}")
    if str(path).startswith("-"):
        raise ValueError(
            f"a name that begins with a dash would be read as an option: choose another name, got {str(path)!r}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}: create it first")
    # Modules in the current folder and in the file's folder are not shadowed.
    installed = [entry for entry in sys.path if Path(entry).resolve() not in (Path.cwd(), path.parent.resolve())]
    module = path.stem.isidentifier() and PathFinder.find_spec(path.stem, installed)
    if path.stem in sys.stdlib_module_names or (module and module.origin is not None):
        raise ValueError(
            f"{path.name} would shadow the module {path.stem!r} for itself and for every file beside it: choose "
            "another name"
        )


def data(
    action: Literal["list", "fetch", "verify"] = "list",
    /,
    *names: str,
) -> None:
    """List the data sets with their state, size, licence and home page; fetch or verify some by name, or all.

    Files are searched in $NORMSCOPE_DATA/<set> and in the cache, or else downloaded and checked against their SHA-256.
    Without names, fetch skips the sets that must be obtained by hand and those without a published hash.

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
        with DownloadProgress(console) as downloads:
            sets.fetch(names, progress=downloads)
    elif action == "verify":
        sets.verify(names)
    console.print(rows_table(("set", "state", "size", "licence", "home page"), sets.table(), "Data sets"))


def doctor(folder: Path | None = None, /) -> None:
    """Check the installation, or a folder for studies, with advice for each problem.

    The installation: versions, backends, settings, data sets and disk space. A folder: whether several machines can
    compute the runs of one study in it.

    For example:

    normscope doctor

    normscope doctor /shared/studies

    Args:
        folder: Folder in which studies are to lie.
    """
    from normscope.cli.doctor import diagnose_folder, diagnose_installation
    from normscope.cli.tables import open_console, rows_table

    checks = diagnose_installation() if folder is None else diagnose_folder(folder)
    rows = [(check.name, check.state, check.found, check.advice) for check in checks]
    title = "This installation" if folder is None else str(folder)
    open_console().print(rows_table(("part", "state", "details", "advice"), rows, title))


def _with_variants(description: str, variants: Mapping[str, str]) -> str:
    named = "; ".join(f"{name}: {text}" for name, text in variants.items())
    return f"{description}. Variants: {named}" if named else description


def _first_line(entry: object) -> str:
    return (entry.__doc__ or "").strip().partition("\n")[0]
