"""Every command that the page for agents and the skill show is run, and prints what the page says."""

import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from normscope.cli.gate import EXIT_CODES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "agents.md"
SKILL = Path(str(files("normscope") / "SKILL.md"))


@pytest.fixture
def shell(tmp_path: Path):
    """Run a script in bash, in one folder, with ``normscope`` and ``python3`` of this environment on the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "normscope").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m normscope "$@"\n')
    (programs / "normscope").chmod(0o755)
    (programs / "python3").symlink_to(sys.executable)
    folder = tmp_path / "here"
    folder.mkdir()

    def run(script: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"}
        bash = shutil.which("bash") or pytest.fail("no bash found")
        words = [bash, "-c", script]
        return subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder, env=environment)

    return run


def blocks(path: Path, kind: str) -> list[str]:
    found = re.findall(rf"^( *)```{kind}\n(.*?)^\1```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return ["\n".join(line.removeprefix(indent) for line in block.splitlines()) + "\n" for indent, block in found]


@pytest.mark.slow
def test_the_page_prints_what_it_says(shell) -> None:
    scripts, wanted = blocks(PAGE, "sh"), blocks(PAGE, "text")
    assert len(scripts) == len(wanted) >= 2
    for script, text in zip(scripts, wanted, strict=True):
        told = shell(script)
        kept = [line for line in told.stdout.splitlines(keepends=True) if not line.startswith("Wrote my_file.py")]
        assert "".join(kept) == text, told.stderr


@pytest.mark.slow
def test_the_commands_of_the_skill_run(shell) -> None:
    judge, others = blocks(SKILL, "sh")
    rows = [
        f"{arm},{seed},{0.5 + seed / 50 - gain + seed % 3 / 1000}"
        for arm, gain in (("baseline", 0), ("mine", 0.1))
        for seed in range(8)
    ]
    told = shell("printf 'arm,seed,loss\\n" + "\\n".join(rows) + "\\n' > results.csv\n" + judge)
    assert told.returncode == EXIT_CODES["better"], told.stderr
    told = shell(others)
    assert told.returncode == EXIT_CODES["undecided"], told.stderr


@pytest.mark.parametrize("path", [PAGE, SKILL], ids=["page", "skill"])
def test_exit_codes_are_those_of_the_commands(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name, code in EXIT_CODES.items():
        assert re.search(rf"\| {code} \| `{name}` \||\b{code} {'runs failed' if name == 'fails' else name}\b", text)


def test_the_skill_has_a_head_that_agents_read() -> None:
    head = re.fullmatch(r"---\nname: (\S+)\ndescription: (.+)\n---\n.*", SKILL.read_text(encoding="utf-8"), re.DOTALL)
    assert head is not None
    assert head[1] == "normscope"
    assert 100 < len(head[2]) <= 1024
