"""Count what was tried, group what failed by its cause, and write it down."""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
CHECKS = ("swap", "undo", "train", "save", "compile", "diagnose")
COLUMNS = {
    "ok": ("ok",),
    "refused": ("refused",),
    "failed": ("failed", "timeout", "killed"),
    "theirs": ("theirs",),
}
"""Columns of the table of cells, and the statuses that each counts."""


def read(folder: Path) -> list[Record]:
    """Read the record of every architecture in a folder, sorted by library and name."""
    paths = sorted(path for path in folder.glob("*/*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def read_listed(folder: Path) -> dict[str, int]:
    """Read how many architectures each library has, as counted when the folder was last run."""
    path = folder / "listed.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def cause(error: str) -> str:
    """Return an error without what differs from model to model: numbers, shapes, quoted names, addresses."""
    text = error.strip().splitlines()[0] if error.strip() else "no message"
    text = re.sub(r"0x[0-9a-f]+", "…", text)
    text = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", "…", text)
    text = re.sub(r"[\[(][^\[\]()]*\d[^\[\]()]*[\])]", "…", text)
    text = re.sub(r"\b[a-z_]\w*(?:\.\w+)+\b", "…", text)
    text = re.sub(r"(?<![\w.])[-+]?\d[\d,._]*(?:e[+-]?\d+)?", "N", text)
    return text if len(text) <= 160 else f"{text[:159]}…"


def grouped(cells: Iterable[tuple[str, Record]]) -> list[tuple[str, str, list[str]]]:
    """Group cells by place and cause, the most frequent first.

    Args:
        cells: Pairs of an architecture and a cell of it.

    Returns:
        The cause, the place in normscope it came through, and the architectures with their cells.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, cell in cells:
        groups[cause(cell.get("error", "")), cell.get("where", "")].append(f"{name} {cell['cell']}")
    return [(words, where, found) for (words, where), found in sorted(groups.items(), key=lambda pair: -len(pair[1]))]


def _cells(records: Sequence[Record], statuses: Sequence[str]) -> list[tuple[str, Record]]:
    return [
        (f"{record['library']}/{record['name']}", cell)
        for record in records
        for cell in record["cells"]
        if cell["status"] in statuses
    ]


def counts(records: Sequence[Record]) -> dict[str, Counter[str]]:
    """Count the statuses of the cells, by ``target/check``."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        for cell in record["cells"]:
            found[cell["cell"]][cell["status"]] += 1
    return found


def cell_table(records: Sequence[Record]) -> list[str]:
    """Render the counts of every target and check as a Markdown table."""
    found = counts(records)
    targets = list(dict.fromkeys(name.partition("/")[0] for name in found))
    lines = ["| target | check | " + " | ".join(COLUMNS) + " |", "| --- | --- |" + " ---: |" * len(COLUMNS)]
    for target in targets:
        for check in sorted((n.partition("/")[2] for n in found if n.startswith(f"{target}/")), key=_rank):
            statuses = found[f"{target}/{check}"]
            if set(statuses) == {"skipped"}:
                continue
            values = [str(sum(statuses[status] for status in column)) for column in COLUMNS.values()]
            label = "as it is" if target == "own" else f"`{target}`"
            lines.append(f"| {label} | {check} | {' | '.join(values)} |")
    return lines


def _rank(check: str) -> tuple[int, str]:
    return (CHECKS.index(check) if check in CHECKS else -1, check)


def cause_table(groups: Sequence[tuple[str, str, list[str]]]) -> list[str]:
    """Render groups of failures as a Markdown table."""
    lines = ["| cells | models | cause | came through | for example |", "| ---: | ---: | --- | --- | --- |"]
    if not any(where for _, where, _ in groups):
        lines = ["| cells | models | cause | for example |", "| ---: | ---: | --- | --- |"]
    for words, where, found in groups:
        models = list(dict.fromkeys(each.partition(" ")[0] for each in found))
        clean = words.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")
        place = [f"`{where}`" if where else ""] if len(lines[0].split("|")) == 7 else []
        lines.append(f"| {' | '.join([str(len(found)), str(len(models)), clean, *place, found[0].strip()])} |")
    return lines


def library_table(records: Sequence[Record], listed: dict[str, int]) -> list[str]:
    """Render how many architectures of each library there are and were tried."""
    lines = [
        "| library | version | architectures | tried | built small | with a norm | without a failed cell |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for library in dict.fromkeys(record["library"] for record in records):
        mine = [record for record in records if record["library"] == library]
        built = [record for record in mine if "built" in record]
        norms = [record for record in built if record.get("norms")]
        clean = [r for r in norms if not any(cell["status"] in COLUMNS["failed"] for cell in r["cells"])]
        versions = ", ".join(sorted({record["versions"][library] for record in mine}))
        there = listed.get(library, len(mine))
        lines.append(f"| {library} | {versions} | {there} | {len(mine)} | {len(built)} | {len(norms)} | {len(clean)} |")
    return lines


def page(records: Sequence[Record], listed: dict[str, int]) -> str:
    """Render the page of the documentation."""
    dates = {record["date"] for record in records}
    commits = Counter(record["commit"] for record in records)
    at = ", ".join(f"{commit} ({count})" for commit, count in commits.most_common())
    torch = ", ".join(sorted({record["versions"]["torch"] for record in records}))
    compiled = ", ".join(sorted({record["backend"] for record in records}))
    failed, refused = _cells(records, COLUMNS["failed"]), _cells(records, ("refused",))
    theirs = _cells(records, ("theirs",))
    unbuilt = [
        (f"{r['library']}/{r['name']}", {"cell": "", "error": r["not_built"]}) for r in records if "not_built" in r
    ]
    broke = [(f"{r['library']}/{r['name']}", {"cell": "", "error": r["broke"]}) for r in records if "broke" in r]
    sections = [
        "# Models of other libraries",
        "`./run strangers` builds every architecture of four libraries that can be built small from a configuration in "
        "two seconds, with random weights and without the network, and tries every instrument on it: swap, undo, "
        "three steps of training, save and load, `torch.compile`, diagnose, to_rms_norm. `./run strangers --help` says "
        "what each check asks.",
        f"torch {torch}, `torch.compile` with {compiled} on a part of them, CPU, {', '.join(sorted(dates))}, "
        f"normscope at {at}; written by `./run strangers --table`.",
        "\n".join(library_table(records, listed)),
        "## Cells",
        "Refused: normscope said no in a sentence. Theirs: the library's own model fails without normscope, too.",
        "\n".join(cell_table(records)),
        f"## What failed ({len(failed)} cells)",
        "\n".join(cause_table(grouped(failed))) if failed else "Nothing.",
        f"## What was refused ({len(refused)} cells)",
        "\n".join(cause_table(grouped(refused))) if refused else "Nothing.",
        f"## What fails without normscope ({len(theirs)} cells)",
        "\n".join(cause_table(grouped(theirs)[:15])) if theirs else "Nothing.",
    ]
    if broke:
        sections += ["## Trials that broke off", "\n".join(cause_table(grouped(broke)))]
    sections += [
        f"## Not built ({len(unbuilt)} architectures)",
        "Too large, too slow, or no input that is known here. The fifteen most frequent reasons, each the first error "
        "of a model:",
        "\n".join(cause_table(grouped(unbuilt)[:15])) if unbuilt else "Nothing.",
    ]
    return "\n\n".join(sections) + "\n"


def terminal(records: Sequence[Record], listed: dict[str, int]) -> str:
    """Render the same in short for a terminal."""
    lines = [*library_table(records, listed), "", *cell_table(records)]
    for title, statuses in (("failed", COLUMNS["failed"]), ("refused", ("refused",)), ("theirs", ("theirs",))):
        for words, where, found in grouped(_cells(records, statuses)):
            examples = ", ".join(found[:3]) + (f", {len(found) - 3} more" if len(found) > 3 else "")
            lines += [
                "",
                f"{title}, {len(found)} cells: {words}",
                *([f"    in {where}"] if where else []),
                f"    {examples}",
            ]
    return "\n".join(lines)
