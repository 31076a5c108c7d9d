"""What the JSON files of a study must look like, and the check of it: one line of words for what is wrong.

``docs/guides/studies.md`` says what the fields mean. A shape is written as the file is:

- ``str``, ``bool``, ``int``, ``float`` (whole numbers, too), ``None``, a `Between`, or a text that stands for itself;
- ``(a, b)``: one or the other;
- ``{"field": a, "other?": b}``: an object with these fields and maybe more; one with ``?`` may be null or absent;
- ``{str: a}``: an object with any names; ``{int: a}``: with whole numbers for names;
- ``[a]``: a list; ``[a, ...]``: of one or more; ``[a, b]``: of exactly these.
"""

import re
import reprlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from normscope.results.aggregates import AGGREGATES


@dataclass(frozen=True)
class Between:
    """A number that lies strictly between two."""

    low: float
    """Too small."""
    high: float
    """Too large."""


_POSITIVE = Between(0, sys.float_info.max)
_METRIC = {"name": str, "unit": str, "higher_is_better": bool, "aggregate?": tuple(AGGREGATES), "signature?": str}
_POINT = {"learning_rate": _POSITIVE, "values": [(float, None), ...], "losses?": [(float, None)]}
TUNING = {"grid": [_POSITIVE], "seeds": [int], "arms": {str: {"chosen": _POSITIVE, "curve": [_POINT, ...]}}}
"""The same in both."""
QUESTION = {
    "question": str,
    "task": str,
    "metric": _METRIC,
    "margin": _POSITIVE,
    "alpha": Between(0, 0.5),
    "baseline": str,
}
"""What card.json and summary.json both say."""

CARD = {
    **QUESTION,
    "arms": [
        {
            "label": str,
            "norm": str,
            "placement": (str, None),
            "arguments": {},
            "learning_rate": (_POSITIVE, None),
            "warmup?": int,
            "tuned": bool,
            "runs?": {int: str},
        },
        ...,
    ],
    "seeds": [int],
    "steps": int,
    "regime": str,
    "failure": str,
    "command": str,
    "id?": str,
    "task_description?": str,
    "task_revision?": int,
    "batch_size?": int,
    "evaluations?": int,
    "precision?": str,
    "device?": str,
    "preset?": str,
    "compile?": bool,
    "looks?": [int, ...],
    "valid_metric?": _METRIC,
    "published?": [
        {
            "label": str,
            "source": str,
            "rows": [{"norm": str, "value": (float, None), "arguments?": {}}],
            "note?": str,
            "signature?": str,
        }
    ],
    "tuning?": TUNING,
}
"""card.json."""

RUN = {
    **dict.fromkeys(
        ("id?", "task?", "label?", "norm?", "placement?", "precision?", "split?", "preset?", "signature?"), str
    ),
    **dict.fromkeys(("device?", "device_name?", "backend?"), str),
    **dict.fromkeys(("revision?", "seed?", "steps?", "batch_size?", "parameters?", "threads?", "warmup?"), int),
    "learning_rate?": float,
    "arguments?": {},
    "versions?": {str: str},
    "data?": {str: str},
    "counts?": {str: int},
}
"""run.json; what a run leaves open, the card says."""

RESULT = {
    "state": ("done", "diverged", "failed"),
    "value": (float, None),
    **dict.fromkeys(("selected_step?", "steps?", "parameters?"), int),
    **dict.fromkeys(("valid_value?", "step_ms?", "peak_bytes?", "saved_bytes?", "seconds?"), float),
    "reason?": str,
}
"""result.json."""

ROW = {
    "step": int,
    **dict.fromkeys(("train_loss?", "valid_loss?", "valid_value?", "seconds?"), float),
    "gradient?": {str: [float, float]},
}
"""One line of metrics.jsonl."""

_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", None: "null"}


def check(content: Any, shape: Any, name: Path | str, where: str = "") -> None:
    """Check what was read from a file.

    Args:
        content: As JSON gave it.
        shape: What it must look like; see the top of this file.
        name: Of the file, for the message.
        where: Place of the content in the file; empty at its top.

    Raises:
        ValueError: If it looks otherwise; the message says where, what was wanted and what was got.
    """
    choices = shape if isinstance(shape, tuple) else (shape,)
    inner = next((each for each in choices if isinstance(each, dict | list) and type(each) is type(content)), None)
    if isinstance(inner, dict):
        _check_object(content, inner, name, where)
    elif isinstance(inner, list):
        _check_list(content, inner, name, where)
    elif not any(_fits(content, each) for each in choices):
        *most, last = map(_in_words, choices)
        _refuse(content, f"{', '.join(most)} or {last}" if most else last, name, where)


def _check_object(content: Mapping[str, Any], shape: Mapping[Any, Any], name: Path | str, where: str) -> None:
    if (kind := next(iter(shape), None)) in (str, int):
        for key, value in content.items():
            if not _fits(key, str) or (kind is int and not re.fullmatch("[0-9]{1,18}", key)):
                _refuse(key, f"{_WORDS[kind]} for a name", name, where)
            check(value, shape[kind], name, f"{where}[{reprlib.repr(key)}]")
        return
    missing = [field for field in shape if not field.endswith("?") and field not in content]
    if missing:
        place = f" in {where}" if where else ""
        raise ValueError(f"{name} lacks {', '.join(missing)}{place}; see docs/guides/studies.md")
    for field, inner in shape.items():
        key = field.removesuffix("?")
        if key == field or content.get(key) is not None:
            check(content[key], inner, name, f"{where}.{key}" if where else key)


def _check_list(content: Sequence[Any], shape: Sequence[Any], name: Path | str, where: str) -> None:
    first, *rest = shape
    if rest == [...] and not content:
        _refuse(content, "one or more", name, where)
    pattern = shape if rest and rest != [...] else [first] * len(content)
    if len(content) != len(pattern):
        _refuse(content, f"{len(pattern)} of them", name, where)
    for place, (each, inner) in enumerate(zip(content, pattern, strict=True)):
        check(each, inner, name, f"{where}[{place}]")


def _fits(content: Any, shape: Any) -> bool:
    if isinstance(shape, Between):
        return _fits(content, float) and shape.low < content < shape.high
    if shape is None or shape is bool:
        return content is None if shape is None else isinstance(content, bool)
    if shape is str:
        # JSON may hold half a letter, which no file and no terminal takes.
        return isinstance(content, str) and not re.search("[\ud800-\udfff]", content)
    if shape is int:
        return type(content) is int and abs(content) < 2**63
    if shape is float:
        # 1e999 is JSON for infinity.
        return type(content) in (int, float) and abs(content) <= sys.float_info.max
    return isinstance(shape, str) and content == shape


def _in_words(shape: Any) -> str:
    if isinstance(shape, dict | list):
        return "an object" if isinstance(shape, dict) else "a list"
    if isinstance(shape, Between):
        upper = f"and below {shape.high:g}" if shape.high < sys.float_info.max else ""
        return f"a number above {shape.low:g} {upper}".strip()
    return shape if isinstance(shape, str) else _WORDS[shape]


def _refuse(content: Any, wanted: str, name: Path | str, where: str) -> NoReturn:
    told = f"has {where}" if where else "is"
    raise ValueError(f"{name} {told} {reprlib.repr(content)}, expected {wanted}")
