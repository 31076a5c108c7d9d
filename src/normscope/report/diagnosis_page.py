"""The page of a diagnosis: one HTML file that needs nothing but itself, from the numbers of its JSON."""

import base64
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from normscope.report import diagnosis_figures as figures
from normscope.report import palette, words
from normscope.results.disk import write_bytes

SCHEMA = 1
"""The newest version of a diagnosis's JSON that can be drawn."""

HEADS = {
    "not_finite": "Numbers are not finite",
    "post_norm_without_warm_up": "Norms on the residual stream, and no warm-up",
    "missing_final_norm": "No norm behind the last layer",
    "unscaled_residual": "The residual stream grows by a factor a layer",
    "batch_norm_in_eval": "Batch norms use moments of other data",
    "gains_near_zero": "Gains of a norm are close to zero",
    "double_norm": "A norm normalizes what is normalized",
    "eps_too_small_for_half": "eps is too small for float16",
    "overflow": "An input overflows",
}
"""What a cause is called on the page."""


def write_diagnosis(
    content: Mapping[str, Any], path: Path | str, *, training: Sequence[Mapping[str, Any]] | None = None
) -> Path:
    """Write the page of a diagnosis, and its JSON beside it, each whole or not at all.

    Args:
        content: As ``Diagnosis.to_json`` gives it.
        path: Of the page; the JSON has the same name with ``.json``.
        training: Steps of the probe through training as plain values, for one more picture; those under ``"history"``
            in the content where None.

    Returns:
        Where the page is.

    Raises:
        ValueError: If the path does not end with ``.html``, or the content has a schema that is not known here.
    """
    path = Path(path)
    if path.suffix != ".html":
        raise ValueError(f"the page is HTML: expected a path that ends with .html, got {path}")
    page = render(content, training=training)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path.with_suffix(".json"), (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    write_bytes(path, page.encode())
    return path


def render(content: Mapping[str, Any], *, training: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Write the page of a diagnosis as HTML. Equal content gives equal text.

    Raises:
        ValueError: If the content has a schema that is not known here.
    """
    schema = content.get("schema")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise ValueError(f"a diagnosis with schema {schema!r} cannot be drawn; this normscope reads 1 to {SCHEMA}")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    return environment.from_string(_own("diagnosis.html")).render(
        told=content,
        heads=HEADS,
        style=Markup(palette.style_sheet() + _own("page.css")),
        sections=_sections(content, content.get("history") if training is None else training),
        facts=_facts(content),
        rows=content["gradients"],
        significant=words.significant,
        number=words.number,
        download=f"data:application/json;base64,{base64.b64encode(text.encode()).decode()}",
    )


def _sections(content: Mapping[str, Any], training: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Give the parts of the page: identity, heading, pictures, and the reading under them."""
    norms, stacks, readings = content["gradients"], content["stacks"], content["readings"]
    gradients = [figures.shares(norms, name="shares"), figures.side_by_side(norms, name="beside")] if norms else []
    depth = [
        figures.by_depth(stack, what, name=f"depth-{place}-{what}")
        for place, stack in enumerate(stacks)
        for what in ("activation", "gradient")
    ]
    parts = [
        ("gradients", "Re-centering and re-scaling", gradients, readings["gradients"], "wide"),
        ("depth", "Sizes by depth", depth, readings["depth"], "grid"),
        ("first-update", "The first update", [], readings["first_update"], "wide"),
        (
            "range",
            "Numbers that reach the norms",
            [figures.ranges(content["ranges"], name="range")],
            readings["range"],
            "wide",
        ),
    ]
    training = [step for step in training or () if step["norms"]]
    if training:
        picture = figures.through_training(training, name="training")
        reading = (
            f"{_medians(training)} Each line is a norm, each column a step. A line that stays dark is a place where "
            "much of the gradient lies in the directions that the derivatives of the moments take out, if the norm has "
            "them, throughout; one that turns dark late often comes with a loss that stops falling. Try another norm "
            "there, or a smaller learning rate, and compare."
        )
        parts.insert(1, ("training", "Through training", [picture], reading, "wide"))
    return [
        {
            "id": identity,
            "head": head,
            "pictures": [Markup(picture) for picture in pictures if picture],
            "reading": reading,
            "shape": shape,
        }
        for identity, head, pictures, reading, shape in parts
    ]


def _medians(training: Sequence[Mapping[str, Any]]) -> str:
    """Say the median shares of the first and the last quarter of the measured steps."""
    quarter = max(len(training) // 4, 1)
    early, late = (
        {
            share: 100 * median(norm[share] for step in steps for norm in step["norms"])
            for share in ("recentering", "rescaling")
        }
        for steps in (training[:quarter], training[-quarter:])
    )
    return (
        f"Over all norms the median share of re-centering is {words.significant(early['recentering'])} % in the first "
        f"quarter of the measured steps and {words.significant(late['recentering'])} % in the last, of re-scaling "
        f"{words.significant(early['rescaling'])} % and {words.significant(late['rescaling'])} %."
    )


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
        ("Loss", words.significant(content["loss"], 4)),
        ("Norms", ", ".join(sorted(kinds)) or words.MISSING),
        ("Learning rate", words.rate(content["learning_rate"])),
        ("Warm-up", words.MISSING if content["warmup"] is None else f"{content['warmup']} steps"),
        ("Time", words.duration(cost["seconds"])),
        ("Passes", passes),
        ("Memory beyond the start", words.storage(cost["peak_bytes"])),
        ("torch", content["torch"]),
        *([("Command", content["command"])] if "command" in content else []),
    ]


def _own(name: str) -> str:
    """Read a file that lies beside this one."""
    return files("normscope.report").joinpath(name).read_text(encoding="utf-8")
