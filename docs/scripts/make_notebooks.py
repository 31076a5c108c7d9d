"""Make the notebooks of the tutorials: ``python docs/scripts/make_notebooks.py`` writes docs/tutorials/*.ipynb.

The pages are the source. Text becomes Markdown cells with links to the site, a Python block becomes a code cell, and
the text block behind it the output of that cell. ``--run`` executes the pages first and writes what they print into
their text blocks.
"""

import argparse
import contextlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
SITE = "https://normscope.github.io/normscope"
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)


def pages() -> list[Path]:
    """Return the tutorials."""
    return sorted(path for path in TUTORIALS.glob("*.md") if path.name != "index.md")


def parts(text: str) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield the pieces of a page: its text, the code block behind it, and the output shown; None where absent."""
    end = 0
    for found in BLOCK.finditer(text):
        yield text[end : found.start()], found[1], found[2]
        end = found.end()
    yield text[end:], None, None


def notebook(text: str) -> str:
    """Return the notebook of a page, as JSON."""
    cells = []
    for prose, code, output in parts(text):
        if prose.strip():
            cells.append({"cell_type": "markdown", "metadata": {}, "source": lines(with_links(prose.strip()))})
        if code is not None:
            outputs = [{"name": "stdout", "output_type": "stream", "text": lines(output)}] if output else []
            cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": outputs}
            cells.append({**cell, "source": lines(code.strip())})
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def lines(text: str) -> list[str]:
    """Return a text as notebooks keep it: its lines with their ends."""
    return text.splitlines(keepends=True)


def with_links(text: str) -> str:
    """Return a text whose links to other pages lead to the site."""

    def absolute(found: re.Match[str]) -> str:
        target, _, anchor = found[1].partition("#")
        name = (Path("tutorials") / target).as_posix()
        address = os.path.normpath(name).removesuffix("README.md").removesuffix(".md").rstrip("/")
        return f"]({SITE}/{address}/{'#' + anchor if anchor else ''})"

    return re.sub(r"\]\((?!https?:)([^)]+\.md(?:#[^)]*)?)\)", absolute, text)


def run(text: str, name: str) -> str:
    """Return a page with what its code prints now; the code runs in a temporary folder.

    Raises:
        ValueError: If a block prints something, and no text block stands behind it.
    """
    space: dict = {"__name__": "__main__"}
    written = []
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for prose, code, output in parts(text):
                written.append(prose)
                if code is None:
                    continue
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(code, name, "exec"), space)
                if printed.getvalue() and output is None:
                    raise ValueError(
                        f"{name}: a block prints {printed.getvalue()!r}, and no text block stands behind it"
                    )
                written.append(f"```python\n{code}```\n")
                if output is not None:
                    written.append(f"\n```text\n{printed.getvalue()}```\n")
        finally:
            os.chdir(home)
    return "".join(written)


def main() -> None:
    """Write all notebooks."""
    parser = argparse.ArgumentParser(description="Make the notebooks of the tutorials.")
    parser.add_argument("--run", action="store_true", help="execute the pages first and keep what they print")
    asked = parser.parse_args()
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if asked.run:
            text = run(text, page.name)
            page.write_text(text, encoding="utf-8")
        page.with_suffix(".ipynb").write_text(notebook(text), encoding="utf-8")
        print(f"wrote {page.with_suffix('.ipynb')}")


if __name__ == "__main__":
    main()
