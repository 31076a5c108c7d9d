"""What each public name loads, counted in modules and not in seconds, which a busy machine would change."""

import json
import subprocess
import sys

import pytest

HEAVY = {"IPython", "PIL", "cyclopts", "jinja2", "matplotlib", "onnx", "pandas", "pooch", "rich", "sacrebleu"}
HEAVY |= {"scipy", "sentencepiece", "sklearn", "transformers", "triton"}
"""Packages that no import of ours may bring before they are needed."""


def loaded(code: str) -> list[str]:
    """List the modules that a line loads in a new process, those of torch left out."""
    program = (
        f"import json, sys\nbefore = set(sys.modules)\n{code}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("before", "line", "ours", "all_together"),
    [
        ("", "import normscope", 3, 60),
        ("import torch", "import normscope; normscope.LayerNorm", 40, 60),
        ("import torch", "import normscope; normscope.swap", 90, 110),
        ("import torch", "import normscope; normscope.diagnose", 95, 190),
        ("import torch", "import normscope; normscope.compare", 235, 295),
        ("", "import normscope; normscope.write_report", 52, 280),
    ],
    ids=lambda value: value.rpartition("; ")[2] if isinstance(value, str) else str(value),
)
def test_a_name_loads_no_more_than_it_needs(before: str, line: str, ours: int, all_together: int) -> None:
    modules = loaded(f"{before}\nbefore = set(sys.modules)\n{line}")
    packages = {module.partition(".")[0] for module in modules}
    assert not packages & HEAVY
    assert sum(module.partition(".")[0] == "normscope" for module in modules) <= ours
    assert len(modules) <= all_together


def test_the_face_and_the_reports_need_no_torch() -> None:
    for line in ("import normscope", "import normscope; normscope.write_report; normscope.summarize"):
        assert "torch" not in loaded(line)
