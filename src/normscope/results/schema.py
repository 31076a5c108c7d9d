"""Shapes of the JSON files of a study, and the check that a file has its shape.

``docs/guides/studies.md`` describes the fields. A shape is written like the JSON that it describes:

- ``str``, ``bool``, ``int``, ``float`` (integers included), ``None``, a `Between`, or a literal text;
- ``(a, b)``: one of the alternatives;
- ``{"field": a, "other?": b}``: an object with at least these fields; one marked ``?`` may be null or absent;
- ``{str: a}``: an object with any keys; ``{int: a}``: with integers as keys;
- ``[a]``: a list; ``[a, ...]``: a list with at least one entry; ``[a, b]``: exactly these entries.

The shape of a file that a dataclass is written to follows from its fields (:func:`shape_of`).
"""

import re
import reprlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from normscope.results.aggregates import AGGREGATES
from normscope.results.look_plan import Spending

Record = TypeVar("Record")
FinalState = Literal["done", "diverged", "unscored", "failed"]
RunState = Literal[FinalState, "interrupted", "planned"]
FINAL_STATES: tuple[FinalState, ...] = get_args(FinalState)
"""States that a run never leaves."""


@dataclass(frozen=True)
class Between:
    """A number strictly between two bounds."""

    low: float
    """Lower bound, excluded."""
    high: float
    """Upper bound, excluded."""


POSITIVE = Between(0, sys.float_info.max)
METRIC = {"name": str, "unit": str, "higher_is_better": bool, "aggregate?": tuple(AGGREGATES), "signature?": str}
"""The metric of a study, and the one that evaluations on the validation set use."""
_POINT = {"learning_rate": POSITIVE, "values": [(float, None), ...], "losses?": [(float, None)]}
TARGETS = {"values": [(float, "baseline"), ...], "margin": Between(1, 100)}
"""The targets of the validation metric, in card.json."""
TUNING = {"grid": [POSITIVE], "seeds": [int], "arms": {str: {"chosen": POSITIVE, "curve": [_POINT, ...]}}}
"""The learning rates that were tried, in card.json and in summary.json."""

CARD = {
    "question": str,
    "task": str,
    "metric": METRIC,
    "margin": POSITIVE,
    "alpha": Between(0, 0.5),
    "baseline": str,
    "arms": [
        {
            "label": str,
            "norm": str,
            "placement": (str, None),
            "arguments": {},
            "learning_rate": (POSITIVE, None),
            "warmup?": int,
            "optimizer?": str,
            "variant?": str,
            "tuned": bool,
            "runs?": {int: str},
        },
        ...,
    ],
    "seeds": [int],
    "splits?": ("published", "resampled"),
    "generalizes?": str,
    "steps?": int,
    "regime": str,
    "failure": str,
    "command": str,
    "id?": str,
    "task_description?": str,
    "task_revision?": int,
    "batch_size?": int,
    "batch_unit?": str,
    "evaluations?": int,
    "precision?": str,
    "device?": str,
    "preset?": str,
    "compile?": bool,
    "stack_seeds?": bool,
    "looks?": {"pairs": [int, ...], "spending": get_args(Spending)},
    "continues?": {"pairs": [int, ...], "spending": get_args(Spending), "seen": int},
    "changes?": [int, ...],
    "targets?": TARGETS,
    "shared?": [str],
    "source?": {"name": str, "kind": str, "sha256": str, "read": [str]},
    "warnings?": [str],
    "valid_metric?": METRIC,
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
"""Shape of card.json."""

RUN = {
    **dict.fromkeys(
        ("id?", "task?", "label?", "norm?", "placement?", "precision?", "split?", "preset?", "signature?"), str
    ),
    **dict.fromkeys(("device?", "device_name?", "backend?", "optimizer?", "variant?"), str),
    **dict.fromkeys(("revision?", "seed?", "steps?", "batch_size?", "parameters?", "threads?", "warmup?"), int),
    "learning_rate?": float,
    "stacked?": bool,
    "arguments?": {},
    "versions?": {str: str},
    "data?": {str: str},
    "counts?": {str: int},
}
"""Shape of run.json; the card has what a run leaves open."""

RESULT = {
    "state": FINAL_STATES,
    "value": (float, None),
    **dict.fromkeys(("selected_step?", "steps?", "parameters?"), int),
    **dict.fromkeys(("valid_value?", "step_ms?", "peak_bytes?", "saved_bytes?", "seconds?"), float),
    "reason?": str,
    "seeds?": {str: str},
    "measures?": {str: float},
}
"""Shape of result.json."""

ROW = {
    "step": int,
    **dict.fromkeys(("train_loss?", "valid_loss?", "valid_value?", "seconds?"), float),
    "gradient?": {str: [float, float]},
}
"""Shape of one line of metrics.jsonl."""

_TYPE_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a number", None: "null"}


def shape_of(record: type) -> dict[str, Any]:
    """Return the shape of the JSON object that a dataclass is written to.

    A field with a default may be null or absent. ``Annotated[type, shape]`` states the shape of a field whose type does
    not determine it, such as a mapping.
    """
    hints = get_type_hints(record, include_extras=True)
    return {
        f"{each.name}?" if each.default is not MISSING or each.default_factory is not MISSING else each.name: _shape(
            hints[each.name]
        )
        for each in fields(record)
    }


def _shape(hint: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return inner[1]
    if origin is Literal:
        return inner
    if origin in (Union, UnionType):
        shapes = [None if each is NoneType else _shape(each) for each in inner]
        return tuple(choice for each in shapes for choice in (each if isinstance(each, tuple) else (each,)))
    if origin is tuple:
        return [_shape(inner[0])] if inner[-1] is ... else [_shape(each) for each in inner]
    if is_dataclass(hint) and isinstance(hint, type):
        return shape_of(hint)
    return {} if isinstance(origin, type) and issubclass(origin, Mapping) else hint


def from_json(record: type[Record], content: Mapping[str, Any]) -> Record:
    """Build a dataclass from checked JSON: lists become tuples, objects become dataclasses where its fields say so."""
    hints = get_type_hints(record, include_extras=True)
    return record(**{name: _parse(hint, content[name]) for name, hint in hints.items() if name in content})


def _parse(hint: Any, content: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if content is None:
        return None
    if origin is Annotated:
        return _parse(inner[0], content)
    if origin in (Union, UnionType):
        return _parse(next(each for each in inner if each is not NoneType), content)
    if origin is tuple:
        return tuple(_parse(inner[0], each) for each in content)
    return from_json(hint, content) if is_dataclass(hint) and isinstance(hint, type) else content


def check(content: Any, shape: Any, name: Path | str, where: str = "") -> None:
    """Check that JSON content has a shape.

    Args:
        content: Parsed JSON.
        shape: Expected shape; see the docstring of this module.
        name: File name for the error message.
        where: Position of the content in the file; empty at the top level.

    Raises:
        ValueError: If the content has another shape; the message names the position, the expected and the actual value.
    """
    if not where and _test_of(shape)(content):
        return
    choices = shape if isinstance(shape, tuple) else (shape,)
    inner = next((each for each in choices if isinstance(each, dict | list) and type(each) is type(content)), None)
    if isinstance(inner, dict):
        _check_object(content, inner, name, where)
    elif isinstance(inner, list):
        _check_list(content, inner, name, where)
    elif not any(_fits(content, each) for each in choices):
        *most, last = map(_describe, choices)
        _refuse(content, f"{', '.join(most)} or {last}" if most else last, name, where)


_tests: dict[int, tuple[Any, Callable[[Any], bool]]] = {}


def _test_of(shape: Any) -> Callable[[Any], bool]:
    """Return a quick test of a shape, built once: the files of 100,000 runs have few shapes.

    What it accepts has the shape; what it refuses, :func:`check` looks at again, for the message.
    """
    kept = _tests.get(id(shape))
    if kept is None:
        # The shape is kept with its test, so that no other object comes to have its id.
        kept = _tests[id(shape)] = shape, _build_test(shape)
    return kept[1]


def _build_test(shape: Any) -> Callable[[Any], bool]:
    if isinstance(shape, tuple):
        tests = [_build_test(each) for each in shape]
        return lambda content: any(test(content) for test in tests)
    if isinstance(shape, list):
        first, *rest = shape
        if rest and rest != [...]:
            tests = [_build_test(each) for each in shape]
            return lambda content: (
                isinstance(content, list)
                and len(content) == len(tests)
                and all(test(each) for test, each in zip(tests, content, strict=True))
            )
        test, least = _build_test(first), len(rest)
        return lambda content: isinstance(content, list) and len(content) >= least and all(map(test, content))
    if not isinstance(shape, dict):
        return _PLAIN.get(shape) or (lambda content: _fits(content, shape))
    if (kind := next(iter(shape), None)) in (str, int):
        test, key_test = _build_test(shape[kind]), _is_text if kind is str else re.compile("[0-9]{1,18}").fullmatch
        return lambda content: (
            isinstance(content, dict) and all(map(key_test, content)) and all(map(test, content.values()))
        )
    fields = [(key.removesuffix("?"), key.endswith("?"), _build_test(inner)) for key, inner in shape.items()]

    def test_object(content: Any) -> bool:
        if not isinstance(content, dict):
            return False
        for key, optional, test in fields:
            value = content.get(key)
            if (not optional or value is not None) and not (key in content and test(value)):
                return False
        return True

    return test_object


def _is_text(content: Any) -> bool:
    return isinstance(content, str) and (content.isascii() or _fits(content, str))


_PLAIN: dict[Any, Callable[[Any], bool]] = {
    str: _is_text,
    int: lambda content: type(content) is int and abs(content) < 2**63,
    float: lambda content: abs(content) <= sys.float_info.max if type(content) is float else _fits(content, float),
}


def _check_object(content: Mapping[str, Any], shape: Mapping[Any, Any], name: Path | str, where: str) -> None:
    if (kind := next(iter(shape), None)) in (str, int):
        for key, value in content.items():
            if not _fits(key, str) or (kind is int and not re.fullmatch("[0-9]{1,18}", key)):
                _refuse(key, f"{_TYPE_NAMES[kind]} for a name", name, where)
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
        # JSON may hold a lone surrogate, which cannot be encoded.
        return isinstance(content, str) and not re.search("[\ud800-\udfff]", content)
    if shape is int:
        return type(content) is int and abs(content) < 2**63
    if shape is float:
        # 1e999 is JSON for infinity.
        return type(content) in (int, float) and abs(content) <= sys.float_info.max
    return isinstance(shape, str) and content == shape


def _describe(shape: Any) -> str:
    if isinstance(shape, dict | list):
        return "an object" if isinstance(shape, dict) else "a list"
    if isinstance(shape, Between):
        upper = f"and below {shape.high:g}" if shape.high < sys.float_info.max else ""
        return f"a number above {shape.low:g} {upper}".strip()
    return shape if isinstance(shape, str) else _TYPE_NAMES[shape]


def _refuse(content: Any, wanted: str, name: Path | str, where: str) -> NoReturn:
    place = f"has {where}" if where else "is"
    raise ValueError(f"{name} {place} {reprlib.repr(content)}, expected {wanted}")
