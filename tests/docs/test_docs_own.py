"""What docs/guides/custom.md shows runs, and prints what the page says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from support.plugin_package import PAGE, file_in_page


@pytest.mark.slow
def test_the_file_of_the_page_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_file.py").write_text(file_in_page("my_file.py"))
    ((code, wanted),) = re.findall(
        r"```python\n(import normscope\n.*?)```\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL
    )
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        exec(compile(code, str(PAGE), "exec"), {})
    assert told.getvalue() == wanted
    assert Path("study/report.html").exists()


def test_what_the_page_says_of_a_recipe_is_there() -> None:
    from dataclasses import fields

    from normscope import Recipe, Trial

    text = PAGE.read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `recipe` \| (.*)$", text, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) <= {field.name for field in fields(Recipe)}
    table = text[text.index("## What a `Trial` takes") : text.index("**We train.**")]
    assert all(f"`{field.name}" in table for field in fields(Trial))
