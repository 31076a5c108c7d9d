"""Studies on disk: paths of a study and of its runs, atomic writing, and checked reading; needs no torch.

``docs/guides/studies.md`` describes the layout and every field.
"""

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from normscope.errors import NormscopeError
from normscope.files import no_check, write_atomically
from normscope.results.schema import CARD, RESULT, ROW, RUN, check

_Content = TypeVar("_Content")

SCHEMA = 1
"""Version of the files of a study; a newer one is refused."""

# Deeper than any file of a study. Python's recursion limit of about 1000 would stop writing or comparing deeper JSON.
_DEEPEST = 100


class LeaseLost(NormscopeError, RuntimeError):
    """Another process has taken over what this one was writing, or has finished it; nothing was written."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically.

    Raises:
        ValueError: If a number is not finite: NaN is a state of a run, never a number.
    """
    write_atomically(path, to_json(content))


def to_json(content: Mapping[str, Any]) -> bytes:
    """Encode a JSON object.

    Raises:
        ValueError: If a number is not finite.
    """
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path, *, newest: int = SCHEMA) -> dict[str, Any]:
    """Read a JSON object that this package wrote.

    Args:
        path: File to read.
        newest: Newest version that can be read.

    Raises:
        ValueError: If the file is not JSON, has no version, or a newer one; the message names the file.
    """
    content = parse_json(read_file(path), path)
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema is None:
        raise ValueError(f"{path} was not written by normscope: it has no schema, the version of its format")
    if type(schema) is not int or not 1 <= schema <= newest:
        raise ValueError(
            f"{path} has schema {schema!r}; this normscope reads 1 to {newest}: a newer one may have written it"
        )
    return content


def read_file(path: Path) -> bytes:
    """Read a file with the fewest calls that a file server has to answer: one to open it, and none about its size.

    Raises:
        OSError: If it cannot be read; the error names it.
    """
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        parts = []
        while part := os.read(file, 2**16):
            parts.append(part)
        return b"".join(parts)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(file)


def parse_json(data: bytes, name: Path | str) -> Any:
    """Parse JSON from an untrusted source.

    Args:
        data: Bytes in UTF-8.
        name: Their source, for the error message.

    Raises:
        ValueError: If they are not JSON, hold NaN or infinity, or are nested deeper than any file of a study.
    """
    try:
        content = _DECODER.decode(data.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON ({error}); was it edited or cut short?") from error
    except RecursionError:
        raise ValueError(f"{name} is nested too deep to be a file of a study; was it edited?") from None
    if data.count(b"{") + data.count(b"[") <= _DEEPEST:
        return content
    level = [content]
    for _ in range(_DEEPEST):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _children(outer)]
        if not level:
            return content
    raise ValueError(f"{name} is nested too deep to be a file of a study; was it edited?")


def _children(content: Mapping[str, Any] | list[Any]) -> Iterable[Any]:
    return content if isinstance(content, list) else content.values()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _if_there(read: Callable[[], _Content]) -> _Content | None:
    try:
        return read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _interned(content: dict[str, Any]) -> dict[str, Any]:
    """Return JSON that shares its texts with that of other runs, which have the same names and mostly equal values."""
    return {
        sys.intern(key): sys.intern(value)
        if isinstance(value, str)
        else _interned(value)
        if isinstance(value, dict)
        else value
        for key, value in content.items()
    }


# The header that np.save writes for floating-point numbers in one or two dimensions.
_SCORES = re.compile(
    rb"\{'descr': '([<>]f[248])', 'fortran_order': (True|False), 'shape': \((\d{1,18}),(?: (\d{1,4}))?\), \}\s*"
)


@dataclass(frozen=True)
class RunFolder:
    """Paths of the files of one run, their readers, and their writers."""

    path: Path
    """``DIR/runs/<id>``."""
    check: Callable[[], None] = field(default=no_check, compare=False, repr=False)
    """Raises :class:`LeaseLost` if this process no longer holds the run; called before each file gets its name."""

    @property
    def description(self) -> Path:
        """Description of the run, written before step 0."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """One line per evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """State from which an unfinished run resumes."""
        return self.path / "checkpoint.pt"

    @property
    def examples(self) -> Path:
        """Scores of the test examples."""
        return self.path / "examples.npy"

    @property
    def pictures(self) -> Path:
        """Pictures of the tested model (:mod:`normscope.results.pictures`)."""
        return self.path / "pictures.npz"

    @property
    def result(self) -> Path:
        """Result, written last: a run that has it has ended."""
        return self.path / "result.json"

    @property
    def error(self) -> Path:
        """Traceback of a run that failed."""
        return self.path / "error.txt"

    @property
    def lease(self) -> Path:
        """Claim of the process that computes the run, see :mod:`normscope.studies.lease`."""
        return self.path / "lease"

    @property
    def holder(self) -> Path:
        """Description of that process; left behind if it is killed."""
        return self.path / "holder"

    def write(self, path: Path, data: bytes, *, sync: bool = True) -> None:
        """Write a file of the run atomically.

        Raises:
            LeaseLost: If another process has taken the run over.
        """
        self._write(path, data, sync=sync)

    def publish(self, result: Mapping[str, Any]) -> None:
        """Write the result, unless there is one: the first result of a run is kept.

        Raises:
            LeaseLost: If another process has taken the run over, or has published its result.
            ValueError: If a number is not finite.
        """
        try:
            self._write(self.result, to_json(result), replace=False)
        except FileExistsError:
            raise LeaseLost(f"{self.result} exists: another process has finished the run") from None

    def _write(self, path: Path, data: bytes, **options: bool) -> None:
        try:
            write_atomically(path, data, check=self.check, **options)
        except FileNotFoundError:
            # The successor deletes the temporary files of the process that it takes over from.
            self.check()
            raise

    def finished(self) -> bool:
        """Return whether the run has ended for good."""
        return self.result.exists()

    def state(self) -> str | None:
        """Return the final state of the run, or None while it has not ended."""
        result = self.find_result()
        return None if result is None else result["state"]

    def read_description(self) -> dict[str, Any]:
        """Read the description.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file has another shape; the message names it.
        """
        description = read_json(self.description)
        check(description, RUN, self.description)
        return _interned(description)

    def find_description(self) -> dict[str, Any] | None:
        """Read the description as :meth:`read_description` does, or return None if there is none."""
        return _if_there(self.read_description)

    def read_result(self) -> dict[str, Any]:
        """Read the result.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file has another shape, or the run is done without a value; the message names it.
        """
        result = read_json(self.result)
        check(result, RESULT, self.result)
        if result["state"] == "done" and result["value"] is None:
            raise ValueError(f"{self.result} is done and needs a value, got None")
        return _interned(result)

    def find_result(self) -> dict[str, Any] | None:
        """Read the result as :meth:`read_result` does, or return None while the run has not ended."""
        return _if_there(self.read_result)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read the evaluations; an incomplete last line, left by a killed process, is skipped.

        Raises:
            ValueError: If another line is not the JSON of an evaluation; the message names file and line.
        """
        rows = []
        path = self.metrics
        *lines, rest = (_if_there(lambda: read_file(path)) or b"").split(b"\n")
        for number, line in enumerate([*lines, rest] if rest else lines, 1):
            name = f"{path}, line {number},"
            try:
                row = parse_json(line, name)
            except ValueError:
                # Only an incomplete line starts like a complete one and lacks the newline.
                if number > len(lines) and line.startswith(b"{"):
                    break
                raise
            check(row, ROW, name)
            rows.append(row)
        return rows

    def read_examples(self) -> np.ndarray | None:
        """Read the scores of the test examples, or return None if the run has no scores.

        They are ``[examples]`` float32, or ``[examples, K]`` if the metric takes K numbers per example. The header is
        compared with the size of the file before memory is allocated, and nothing in it is evaluated.

        Raises:
            ValueError: If the file is incomplete or holds anything else; the message names it.
        """
        file = _if_there(lambda: self.examples.open("rb"))
        if file is None:
            return None
        with file:
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
        return ValueError(f"{self.examples} must hold one score per test example (.npy, float32 [examples]), got {got}")


@dataclass(frozen=True)
class StudyFolder:
    """Paths of the files of a study."""

    path: Path
    """``DIR``."""

    @property
    def card(self) -> Path:
        """Question of the study, written first."""
        return self.path / "card.json"

    @property
    def summary(self) -> Path:
        """Summary as JSON."""
        return self.path / "summary.json"

    @property
    def table(self) -> Path:
        """Summary as a table."""
        return self.path / "summary.csv"

    @property
    def report(self) -> Path:
        """Report as HTML."""
        return self.path / "report.html"

    @property
    def workers_log(self) -> Path:
        """Output of the workers."""
        return self.path / "workers.log"

    @property
    def lease(self) -> Path:
        """Claim of the process that writes the card, see :mod:`normscope.studies.lease`."""
        return self.path / "lease"

    def run(self, identity: str) -> RunFolder:
        """Return the folder of one run."""
        return RunFolder(self.path / "runs" / identity)

    def begun(self) -> list[str]:
        """List the names of the run folders that exist, in order: one listing, however many runs there are."""
        try:
            return sorted(os.listdir(self.path / "runs"))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def states(self, identities: Iterable[str]) -> dict[str, str | None]:
        """Return the final state of every run, or None while it has not ended; opens one file per run begun."""
        begun = frozenset(self.begun())
        return {identity: self.run(identity).state() if identity in begun else None for identity in identities}

    def read_card(self) -> dict[str, Any]:
        """Read the card.

        Raises:
            FileNotFoundError: If the folder has no card.
            ValueError: If the card has another shape; the message names the file.
        """
        if not self.card.exists():
            raise FileNotFoundError(f"{self.path} holds no study: there is no card.json in it")
        card = read_json(self.card)
        check(card, CARD, self.card)
        return card
