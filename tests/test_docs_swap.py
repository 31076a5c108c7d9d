"""The examples of docs/swap.md run, and print what the page says."""

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "swap.md"


def test_examples_print_what_the_page_says() -> None:
    blocks = re.findall(r"```(python|text)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    codes = [code for kind, code in blocks if kind == "python"]
    wanted = [text for kind, text in blocks if kind == "text"]
    assert len(codes) == len(wanted) >= 5
    space: dict = {}
    for code, text in zip(codes, wanted, strict=True):
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            exec(compile(code, str(PAGE), "exec"), space)
        assert told.getvalue() == text
