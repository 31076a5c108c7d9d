"""Print which code the tests did not run, by file and by package; `./run coverage` does it after the tests."""

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import coverage

COUNTS = ("num_statements", "missing_lines", "num_branches", "missing_branches")


def by_package(files: dict[str, dict]) -> dict[str, list[int]]:
    """Sum the counts of the files of each package; a module directly in ``normscope`` counts under ``normscope``.

    Args:
        files: The entry ``files`` of coverage's JSON report.

    Returns:
        From packages to statements, statements left out, branches, branches left out.
    """
    sums: dict[str, list[int]] = defaultdict(lambda: [0] * len(COUNTS))
    for path, entry in files.items():
        inside = Path(path).parts
        inside = inside[inside.index("normscope") + 1 :]
        package = f"normscope.{inside[0]}" if len(inside) > 1 else "normscope"
        sums[package] = [total + entry["summary"][name] for total, name in zip(sums[package], COUNTS, strict=True)]
    return dict(sorted(sums.items()))


def share(counts: list[int]) -> float:
    """Return the percentage of statements and branches that ran, as coverage computes it."""
    statements, missing, branches, missing_branches = counts
    everything = statements + branches
    return 100 * (everything - missing - missing_branches) / everything if everything else 100.0


def render(sums: dict[str, list[int]]) -> str:
    """Render the table of packages, with the total in its last line."""
    total = [sum(column) for column in zip(*sums.values(), strict=True)]
    lines = [f"{'package':<24}{'lines':>8}{'missed':>8}{'branches':>10}{'missed':>8}{'covered':>9}"]
    for name, (lines_, missed, branches, missed_branches) in [*sums.items(), ("total", total)]:
        percent = share([lines_, missed, branches, missed_branches])
        lines.append(f"{name:<24}{lines_:>8}{missed:>8}{branches:>10}{missed_branches:>8}{percent:>8.1f}%")
    return "\n".join(lines)


def main() -> int:
    """Read ``.coverage`` in the working directory and print both tables."""
    measured = coverage.Coverage()
    measured.load()
    measured.report()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(path))
        files = json.loads(path.read_text())["files"]
    print(f"\n{render(by_package(files))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
