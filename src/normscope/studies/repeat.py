"""The line of Python and the command line that repeat a study or a reproduction."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from normscope.specs import find_task
from normscope.studies.spec import StudySpec, spec_of_names
from normscope.tasks.task import DEFAULT_VARIANT

__tracebackhide__ = True


def call_that_repeats(study_spec: StudySpec, out: Path | None, **more: Any) -> str:
    """Return the line of Python that runs a study: ``normscope.compare('digits', seeds=[0, 1])``.

    Args:
        study_spec: Specification of the study.
        out: Its folder; None for the default.
        more: Further arguments of :func:`normscope.compare`.
    """
    options = _options(study_spec)
    words = [as_python(study_spec)] if options is None else [repr(study_spec.task)]
    given = {**(options or {}), **({} if out is None else {"out": out}), **more}
    return f"normscope.compare({', '.join([*words, *(f'{name}={as_python(value)}' for name, value in given.items())])})"


def command_that_repeats(study_spec: StudySpec) -> list[str] | None:
    """Return the words behind ``normscope`` that run a study, such as ``["compare", "digits", "--seeds", "0,1"]``.

    Args:
        study_spec: Specification of the study; the file of a custom task is named with its folder.

    Returns:
        The words; None if the command line has no option for something, such as a question or a learning rate.
    """
    options = _options(study_spec)
    if options is None or not options.keys() <= _FLAGS.keys():
        return None
    words = ["compare", find_task(study_spec.task).location or study_spec.task]
    for name, value in options.items():
        if value is True:
            words.append(_FLAGS[name])
        else:
            words.append(f"{_FLAGS[name]}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return words


_FLAGS = {
    **{name: f"--{name.replace('_', '-')}" for name in ("norms", "seeds", "looks", "spending", "target_margin")},
    **{name: f"--{name}" for name in ("variants", "baseline", "steps", "preset", "margin", "precision", "device")},
    **{name: f"--{name}" for name in ("compile", "splits", "tune")},
    **{name: f"--{name[:-1]}" for name in ("placements", "targets", "warmups", "optimizers")},
}
"""Options of the command line for those of :func:`make_study`."""


def _options(study_spec: StudySpec) -> dict[str, Any] | None:
    """Return the options of :func:`make_study` that give a specification, without those that follow from the others.

    None if none do, such as for an arm with a learning rate.
    """
    arms, looks, targets = study_spec.arms, study_spec.looks, study_spec.targets
    options: dict[str, Any] = {
        "norms": list(dict.fromkeys(str(arm.norm) for arm in arms)),
        "placements": list(dict.fromkeys(arm.placement.text for arm in arms)),
        "seeds": list(study_spec.seeds),
        **({} if looks is None else {"looks": list(looks.pairs), "spending": looks.spending}),
        **({} if targets is None else {"targets": list(targets.values), "target_margin": targets.margin}),
        "warmups": list(dict.fromkeys(arm.warmup for arm in arms if arm.warmup is not None)),
        "optimizers": list(dict.fromkeys(study_spec.recipe(arm).optimizer for arm in arms)),
        "variants": list(dict.fromkeys(arm.variant or DEFAULT_VARIANT for arm in arms)),
        "baseline": study_spec.labels()[study_spec.baseline],
    }
    options |= {name: getattr(study_spec, name) for name in _OPTIONS}
    if not _describe(options, study_spec):
        return None
    for name, value in list(options.items()):
        del options[name]
        if not _describe(options, study_spec):
            options[name] = value
    return options


def _describe(options: Mapping[str, Any], study_spec: StudySpec) -> bool:
    """Return whether options of :func:`make_study` give a specification."""
    try:
        return spec_of_names(study_spec.task, **options) == study_spec
    except ValueError:
        return False


_OPTIONS = ("steps", "preset", "margin", "precision", "device", "compile", "splits", "tune", "question")
"""Fields of :class:`StudySpec` that are options of :func:`make_study`."""


def as_python(value: Any, package: str = "normscope") -> str:
    """Return an expression whose value is equal to a dataclass, a path as text, or plain values.

    Args:
        value: The value.
        package: Package that has the dataclasses; fields that have their default are left out.
    """
    if is_dataclass(value) and not isinstance(value, type):
        given = [
            f"{each.name}={as_python(getattr(value, each.name), package)}"
            for each in fields(value)
            if each.default is MISSING or getattr(value, each.name) != each.default
        ]
        return f"{package}.{type(value).__name__}({', '.join(given)})"
    if isinstance(value, tuple):
        return f"({', '.join(as_python(each, package) for each in value)}{',' * (len(value) == 1)})"
    if isinstance(value, list):
        return f"[{', '.join(as_python(each, package) for each in value)}]"
    if isinstance(value, Path):
        return repr(str(value))
    # A number of NumPy is written as one of Python.
    if isinstance(value, float):
        return repr(float(value))
    return repr(int(value)) if isinstance(value, int) and not isinstance(value, bool) else repr(value)
