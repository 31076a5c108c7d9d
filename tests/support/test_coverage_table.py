"""The table of packages adds up what coverage measured per file."""

from support.coverage_table import by_package, render, share


def entry(*counts: int) -> dict:
    names = ("num_statements", "missing_lines", "num_branches", "missing_branches")
    return {"summary": dict(zip(names, counts, strict=True))}


FILES = {
    "src/normscope/errors.py": entry(4, 0, 0, 0),
    "src/normscope/norms/dyt.py": entry(30, 3, 10, 1),
    "/site-packages/normscope/norms/sub/frn.py": entry(20, 2, 4, 0),
    "src/normscope/norms/__init__.py": entry(0, 0, 0, 0),
}


def test_files_of_a_package_are_summed_wherever_it_is_installed() -> None:
    assert by_package(FILES) == {"normscope": [4, 0, 0, 0], "normscope.norms": [50, 5, 14, 1]}


def test_a_branch_counts_as_much_as_a_statement() -> None:
    assert share([50, 5, 14, 1]) == 100 * 58 / 64
    assert share([0, 0, 0, 0]) == 100


def test_the_last_line_is_the_total() -> None:
    assert render(by_package(FILES)).splitlines()[-1].split() == ["total", "54", "5", "14", "1", "91.2%"]
