"""The examples of the documentation run, and print what the page says."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).resolve().parents[2] / "docs" / "guides"


def blocks(page: Path, *kinds: str) -> list[tuple[str, str]]:
    return re.findall(rf"```({'|'.join(kinds)})\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def told(code: str, page: Path, space: dict) -> str:
    words = io.StringIO()
    with contextlib.redirect_stdout(words):
        exec(compile(code, str(page), "exec"), space)
    return words.getvalue()


def test_swap_prints_what_the_page_says() -> None:
    page = DOCS / "swap.md"
    found = blocks(page, "python", "text")
    codes = [code for kind, code in found if kind == "python"]
    wanted = [text for kind, text in found if kind == "text"]
    assert len(codes) == len(wanted) >= 5
    space: dict = {}
    for code, text in zip(codes, wanted, strict=True):
        assert told(code, page, space) == text


def test_diagnose_says_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = DOCS / "diagnose.md"
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    with torch.random.fork_rng(devices=[]):
        first, training, steps, alone = (told(code, page, space) for _, code in blocks(page, "python"))
    assert first.startswith("['double_norm']\n")
    assert training == ""
    assert "Through training" in (tmp_path / "diagnosis.html").read_text(encoding="utf-8")
    assert steps == "0.60, 0.68\n['gradient_vanishes_over_steps']\n"
    assert "They differ in whether the mean is subtracted" in alone
    assert "The sharpest of 451 directions" in alone
