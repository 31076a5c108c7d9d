"""The page of a diagnosis: one HTML file that needs nothing but itself, from the numbers of its JSON."""

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from normscope.files import write_atomically
from normscope.report.diagnosis import captions, figures, growth, heat
from normscope.report.drawing import format as words
from normscope.report.drawing import palette

SCHEMA = 2
"""The newest version of a diagnosis's JSON that can be drawn."""

TITLES = {
    "gradients": "Re-centering and re-scaling",
    "depth": "Sizes by depth",
    "first_update": "The first update",
    "range": "Numbers that reach the norms",
}
"""What an instrument is called on the page."""

REMOVES = {
    ("recentering", "rescaling"): "both",
    ("recentering",): "re-centering",
    ("rescaling",): "re-scaling",
    ("along_x",): "along x",
    (): "neither",
}
"""Which of the two shares a norm removes, in words; ``along x``: the part along its input as it is, instead."""

UPDATE = {
    "learning_rate": ("Learning rate", ""),
    "layers": ("Layers", ""),
    "post": ("Layers with norms on the stream", "%"),
    "pre": ("Layers with norms in the branches", "%"),
    "gradient_ratio": ("Gradient at the last layer over that at the first", "times"),
    "gradient_slope": ("Growth of the gradient, logarithm", "per layer"),
    "weight_gradient_ratio": ("Weights' gradient in the last layer over that in the first", "times"),
    "update_ratio": ("Update of the typical matrix, of its size", "%"),
    "loss_before": ("Loss before", ""),
    "loss_after": ("Loss after", ""),
    "predicted_decrease": ("Decrease of the loss, to first order", ""),
    "decrease_ratio": ("Decrease over that to first order", "times"),
    "output_change": ("Change of the last layer's output, of its size", "%"),
    "output_change_slope": ("Growth of that change, logarithm", "per layer"),
    "common_before": ("Same at all positions before", "%"),
    "common_after": ("Same at all positions after", "%"),
}
"""Name and unit of what is told of a first update."""


def write_diagnosis(
    content: Mapping[str, Any], path: Path | str, *, training: Sequence[Mapping[str, Any]] | None = None
) -> Path:
    """Write the page of a diagnosis, and behind it its JSON, each whole or not at all.

    Args:
        content: As ``Diagnosis.to_json`` gives it. A number under ``"history"`` that is not finite becomes None.
        path: Of the page; the JSON has the same name with ``.json``.
        training: Steps of the probe through training as plain values, for one more picture; those under ``"history"``
            in the content where None.

    Returns:
        Where the page is.

    Raises:
        ValueError: If the path does not end with ``.html``, or the content has a schema that is not known here.
        OSError: If the page cannot be written; then there is no JSON either.
    """
    path = Path(path)
    if path.suffix != ".html":
        raise ValueError(f"the page is HTML: expected a path that ends with .html, got {path}")
    page, text = render(content, training=training), _json(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())
    write_atomically(path.with_suffix(".json"), text.encode())
    return path


def render(content: Mapping[str, Any], *, training: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Write the page of a diagnosis as HTML. Equal content gives equal text.

    Raises:
        ValueError: If the content has a schema that is not known here.
    """
    schema = content.get("schema")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise ValueError(f"a diagnosis with schema {schema!r} cannot be drawn; this normscope reads 1 to {SCHEMA}")
    content, text = _upgraded(content), _json(content)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    listed = {row["name"] for row in content["gradients"]}
    return environment.from_string(_own("diagnosis.html")).render(
        told=content,
        style=Markup(palette.style_sheet() + _own("page.css")),
        sections=_sections(content, _finite(content.get("history") if training is None else training)),
        facts=_facts(content),
        rows=content["gradients"],
        left_out=sum(row["name"] not in listed for row in content["ranges"]),
        removes=lambda row: REMOVES.get(tuple(row["removes"]), ", ".join(row["removes"])),
        updates=_update_facts(content["first_update"]),
        breakable=_breakable,
        significant=words.significant,
        number=words.number,
        download=f"data:application/json;base64,{base64.b64encode(text.encode()).decode()}",
    )


def _upgraded(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a diagnosis of schema 1 with the keys of schema 2."""
    if content["schema"] != 1:
        return content
    renamed = {"cause": "name", "advice": "remedy", "gain_size": "weight_size", "dead_gains": "small_weights"}
    findings, ranges = (
        [{renamed.get(key, key): value for key, value in row.items()} for row in content[part]]
        for part in ("findings", "ranges")
    )
    titled = [{"title": finding["name"].replace("_", " ").capitalize(), **finding} for finding in findings]
    return {**content, "findings": titled, "ranges": ranges}


def _sections(content: Mapping[str, Any], training: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Give the parts of the page: identity, heading, pictures, and the reading under them."""
    norms, stacks, readings = content["gradients"], content["stacks"], content["readings"]
    gradients = []
    if norms:
        gradients = [
            _picture(figures.shares, norms, captions.shares(norms), name="shares"),
            _picture(figures.side_by_side, norms, captions.side_by_side(norms, figures.LABELS), name="beside"),
        ]
    depth = [
        {"broad": Markup(picture), "narrow": "", "caption": captions.by_depth(stack, what)}
        for place, stack in enumerate(stacks)
        for what in ("activation", "gradient")
        if (picture := figures.by_depth(stack, what, name=f"depth-{place}-{what}"))
    ]
    told, ranges = figures.variances(content["ranges"]), []
    if told:
        ranges = [_picture(figures.ranges, content["ranges"], captions.ranges(told), name="range")]
    parts = [
        ("gradients", TITLES["gradients"], gradients, readings["gradients"], "wide"),
        ("depth", TITLES["depth"], depth, readings["depth"], "grid"),
        ("first-update", TITLES["first_update"], [], readings["first_update"], "wide"),
        ("range", TITLES["range"], ranges, readings["range"], "wide"),
    ]
    training = [step for step in training or () if step["norms"]]
    if training:
        pictures = [_picture(heat.through_training, training, heat.caption_of(training), name="training")]
        reading = (
            f"{_medians(training)}\nEach line is a norm, each column a step. A line that stays dark is a place where "
            "much of the gradient lies in the directions that the derivatives of the moments take out, if the norm has "
            "them, throughout; one that turns dark late often comes with a loss that stops falling. Try another norm "
            "there, or a smaller learning rate, and compare."
        )
        if growth.sizes_of(training):
            pictures.append(_picture(growth.growth, training, growth.caption_of(training), name="growth"))
            reading += (
                " Where an input grows, what comes back through its norm is divided by more: training slows down there "
                "as with a smaller learning rate. The derivative of the deviation takes out what pulls an input to be "
                "larger or smaller; a norm without it, weights without decay, or a large learning rate let it grow. A "
                "norm that has that derivative, weight decay or a smaller learning rate are what to try."
            )
        parts.insert(1, ("training", "Through training", pictures, reading, "wide"))
    return [
        {"id": identity, "head": head, "pictures": pictures, "reading": reading, "shape": shape}
        for identity, head, pictures, reading, shape in parts
    ]


def _picture(draw: Callable[..., str], told: Sequence[Mapping[str, Any]], caption: str, *, name: str) -> dict[str, str]:
    """Draw a picture for a screen and one for a telephone, with their caption."""
    return {
        "broad": Markup(draw(told, name=name)),
        "narrow": Markup(draw(told, name=f"{name}-narrow", width=figures.NARROW)),
        "caption": caption,
    }


def _medians(training: Sequence[Mapping[str, Any]]) -> str:
    """Say the median shares of the first and the last quarter of the measured steps."""
    quarter = max(len(training) // 4, 1)
    early, late = (
        {share: _median(steps, share) for share in ("recentering", "rescaling")}
        for steps in (training[:quarter], training[-quarter:])
    )
    return (
        f"Over all norms the median share in the direction of re-centering is {early['recentering']} in the first "
        f"quarter of the measured steps and {late['recentering']} in the last, in that of re-scaling "
        f"{early['rescaling']} and {late['rescaling']}."
    )


def _median(steps: Sequence[Mapping[str, Any]], share: str) -> str:
    known = [100 * norm[share] for step in steps for norm in step["norms"] if norm[share] is not None]
    return f"{words.significant(median(known))} %" if known else "not known"


def _facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Give what was looked at and what it cost, as pairs of words."""
    cost = content["cost"]
    kinds = {each["kind"] for each in content["gradients"]} | {each["kind"] for each in content["ranges"]}
    passes = f"{cost['forward_passes']} forward, {cost['backward_passes']} backward"
    return [
        *((str(name), str(value)) for name, value in content.get("setting", {}).items()),
        ("Model", content["model"]),
        ("Parameters", words.number(content["parameters"], 0)),
        ("Mode", "training" if content["training"] else "evaluation"),
        ("Loss", "not finite" if content["loss"] is None else words.significant(content["loss"], 4)),
        ("Norms", ", ".join(sorted(kinds)) or words.MISSING),
        ("Learning rate", words.rate(content["learning_rate"])),
        (
            "Warm-up",
            words.MISSING
            if content["warmup"] is None
            else "1 step"
            if content["warmup"] == 1
            else f"{content['warmup']} steps",
        ),
        ("Time", words.duration(cost["seconds"])),
        ("Passes", passes),
        ("Memory beyond the start; on a CPU, beyond the highest point before", words.storage(cost["peak_bytes"])),
        ("torch", content["torch"]),
        *([("Command", content["command"])] if "command" in content else []),
    ]


def _update_facts(told: Mapping[str, float | None] | None) -> list[tuple[str, str]]:
    """Give the numbers of the first update that are known, with their units, as pairs of words."""
    facts = []
    for name, value in (told or {}).items():
        label, unit = UPDATE.get(name, (name.replace("_", " "), ""))
        if value is None:
            continue
        size = words.significant(100 * value if unit == "%" else value, 4 if name.startswith("loss") else 3)
        facts.append((label, f"{size} {unit}".strip()))
    return facts


def _finite(value: Any) -> Any:
    """Put None where a number is not finite, in steps of training as plain values."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(content: Mapping[str, Any]) -> str:
    plain = {**content, "history": _finite(content["history"])} if "history" in content else content
    return json.dumps(plain, indent=1, allow_nan=False) + "\n"


def _breakable(name: str) -> Markup:
    """Let a name break behind its dots and low lines, and nowhere else."""
    return Markup("_<wbr>").join(Markup(".<wbr>").join(part.split(".")) for part in name.split("_"))


def _own(name: str) -> str:
    """Read a file that lies beside this one."""
    return files("normscope.report").joinpath(name).read_text(encoding="utf-8")
