"""Studies on disk: the paths of a study and of its runs, atomic writes, and reading back; needs no torch.

The layout and every field are in ``docs/studies.md``.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = 1
"""The version of every file below; a reader refuses a newer one."""

FINAL_STATES = ("done", "diverged", "failed")
"""States that a run never leaves."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: to a temporary neighbour, flushed to disk, then renamed over ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically; a number that is not finite is a ValueError: NaN is a state, never a number."""
    write_bytes(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that this package wrote.

    Raises:
        ValueError: If the file is not JSON, or was written by a newer version; the message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); was it edited or cut short?") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise ValueError(
            f"{path} has schema {schema!r}; this normscope reads 1 to {SCHEMA}: a newer one may have written it"
        )
    return content


@dataclass(frozen=True)
class RunFolder:
    """Where one run keeps its files."""

    path: Path
    """``DIR/runs/<id>``."""

    @property
    def description(self) -> Path:
        """What the run is: written before step 0."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """One line an evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """Where an unfinished run goes on."""
        return self.path / "checkpoint.pt"

    @property
    def examples(self) -> Path:
        """One score a test example."""
        return self.path / "examples.npy"

    @property
    def result(self) -> Path:
        """Written last: a run that has it is finished."""
        return self.path / "result.json"

    @property
    def lock(self) -> Path:
        """Held by the process that computes the run."""
        return self.path / "lock"

    def finished(self) -> bool:
        """Whether the run has ended for good."""
        return self.result.exists()

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read the evaluations; a last line that a kill cut short is left out."""
        if not self.metrics.exists():
            return []
        rows = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def read_examples(self) -> np.ndarray | None:
        """Read the score of every test example, ``[examples]`` float32, or None where the run has none."""
        if not self.examples.exists():
            return None
        return np.load(self.examples, allow_pickle=False)


@dataclass(frozen=True)
class StudyFolder:
    """Where a study keeps its files."""

    path: Path
    """``DIR``."""

    @property
    def card(self) -> Path:
        """The question, written first."""
        return self.path / "card.json"

    @property
    def summary(self) -> Path:
        """The answer, for programs."""
        return self.path / "summary.json"

    @property
    def table(self) -> Path:
        """The answer, for spreadsheets."""
        return self.path / "summary.csv"

    @property
    def report(self) -> Path:
        """The answer, for people."""
        return self.path / "report.html"

    def run(self, identity: str) -> RunFolder:
        """Give the folder of one run."""
        return RunFolder(self.path / "runs" / identity)

    def read_card(self) -> dict[str, Any]:
        """Read the question.

        Raises:
            FileNotFoundError: If the folder holds no study.
        """
        if not self.card.exists():
            raise FileNotFoundError(f"{self.path} holds no study: there is no card.json in it")
        return read_json(self.card)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")
