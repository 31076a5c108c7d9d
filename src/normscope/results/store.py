"""Studies on disk: the paths of a study and of its runs, and reading back; needs no torch.

The layout and every field are in ``docs/studies.md``.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from normscope.files import write_atomically
from normscope.results.schema import CARD, RESULT, ROW, RUN, check

SCHEMA = 1
"""The version of every file below; a reader refuses a newer one."""

# Deeper than any file of ours; what writes JSON again, and what compares it, would stop at about 1000.
_DEEPEST = 100


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically; a number that is not finite is a ValueError: NaN is a state, never a number."""
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that this package wrote.

    Raises:
        ValueError: If the file is not JSON, is somebody else's, or was written by a newer version; the message names
            the file.
    """
    content = parse_json(path.read_bytes(), path)
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema is None:
        raise ValueError(f"{path} is no file of normscope's: it has no schema, which says how to read it")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise ValueError(
            f"{path} has schema {schema!r}; this normscope reads 1 to {SCHEMA}: a newer one may have written it"
        )
    return content


def parse_json(data: bytes, name: Path | str) -> Any:
    """Parse JSON that may be anybody's.

    Args:
        data: The bytes.
        name: Where they come from, for the message.

    Raises:
        ValueError: If they are not JSON, hold NaN or infinity, or are nested deeper than any file of ours.
    """
    try:
        content = json.loads(data.decode("utf-8"), parse_constant=_refuse)
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON ({error}); was it edited or cut short?") from error
    except RecursionError:
        raise ValueError(f"{name} is nested too deep to be a file of a study; was it edited?") from None
    level = [content]
    for _ in range(_DEEPEST):
        level = [each for one in level if isinstance(one, dict | list) for each in _inside(one)]
        if not level:
            return content
    raise ValueError(f"{name} is nested too deep to be a file of a study; was it edited?")


def _inside(content: Mapping[str, Any] | list[Any]) -> Iterable[Any]:
    return content if isinstance(content, list) else content.values()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


FINAL_STATES = ("done", "diverged", "failed")
"""States that a run never leaves."""

# The header that np.save gives to one row of floating numbers.
_SCORES = re.compile(
    rb"\{'descr': '([<>]f[248])', 'fortran_order': (True|False), 'shape': \((\d{1,18}),(?: (\d{1,4}))?\), \}\s*"
)


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
    def error(self) -> Path:
        """Traceback of a run that failed."""
        return self.path / "error.txt"

    @property
    def lock(self) -> Path:
        """Held by the process that computes the run."""
        return self.path / "lock"

    @property
    def holder(self) -> Path:
        """Which process that is, in words, while it computes the run; of one that was killed it stays behind."""
        return self.path / "holder"

    def finished(self) -> bool:
        """Whether the run has ended for good."""
        return self.result.exists()

    def state(self) -> str | None:
        """Return how the run ended; None while it has not."""
        try:
            return self.read_result()["state"]
        except FileNotFoundError:
            return None

    def read_description(self) -> dict[str, Any]:
        """Read what the run is; a file of another shape is a ValueError that names it."""
        described = read_json(self.description)
        check(described, RUN, self.description)
        return described

    def read_result(self) -> dict[str, Any]:
        """Read how the run ended.

        Raises:
            ValueError: If the file has another shape, or lacks the value that a run needs to be done; it is named.
        """
        result = read_json(self.result)
        check(result, RESULT, self.result)
        if result["state"] == "done" and result["value"] is None:
            raise ValueError(f"{self.result} is done and needs a value, got None")
        return result

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read the evaluations; a last line that a kill cut short is left out.

        Raises:
            ValueError: If any other line is not the JSON of an evaluation; the message names file and line.
        """
        if not self.metrics.exists():
            return []
        rows = []
        *lines, rest = self.metrics.read_bytes().split(b"\n")
        for number, line in enumerate([*lines, rest] if rest else lines, 1):
            name = f"{self.metrics}, line {number},"
            try:
                row = parse_json(line, name)
            except ValueError:
                # Every line begins so, and only one that was cut short lacks its end.
                if number > len(lines) and line.startswith(b"{"):
                    break
                raise
            check(row, ROW, name)
            rows.append(row)
        return rows

    def read_examples(self) -> np.ndarray | None:
        """Read the scores of every test example, or None where the run has none.

        They are ``[examples]`` float32, or ``[examples, K]`` where the metric takes K numbers an example.

        The header is compared with the file's size before anything is allocated, and nothing in it is evaluated.

        Raises:
            ValueError: If the file holds anything but such floating numbers, whole; the message names it.
        """
        if not self.examples.exists():
            return None
        with self.examples.open("rb") as file:
            start = file.read(10)
            header = file.read(int.from_bytes(start[8:], "little"))
            found = _SCORES.fullmatch(header) if start.startswith(b"\x93NUMPY\x01\x00") else None
            if found is None:
                raise self._no_scores(f"a file that begins with {(start + header)[:100]!r}")
            kind, shape = np.dtype(found[1].decode()), [int(number) for number in found.groups()[2:] if number]
            count = math.prod(shape)
            size = os.fstat(file.fileno()).st_size - file.tell()
            if size != count * kind.itemsize:
                raise self._no_scores(f"a header for {count} scores of {kind.itemsize} bytes, and {size} bytes")
            return np.frombuffer(file.read(), dtype=kind).reshape(shape, order="F" if found[2] == b"True" else "C")

    def _no_scores(self, got: str) -> ValueError:
        return ValueError(f"{self.examples} must hold one score a test example (.npy, float32 [examples]), got {got}")


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

    @property
    def workers_log(self) -> Path:
        """What workers said."""
        return self.path / "workers.log"

    @property
    def lock(self) -> Path:
        """Held while the card is written."""
        return self.path / "lock"

    def run(self, identity: str) -> RunFolder:
        """Give the folder of one run."""
        return RunFolder(self.path / "runs" / identity)

    def read_card(self) -> dict[str, Any]:
        """Read the question.

        Raises:
            FileNotFoundError: If the folder holds no study.
            ValueError: If the card has another shape; the message names the file.
        """
        if not self.card.exists():
            raise FileNotFoundError(f"{self.path} holds no study: there is no card.json in it")
        card = read_json(self.card)
        check(card, CARD, self.card)
        return card
