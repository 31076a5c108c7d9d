"""The page of a diagnosis: one self-contained HTML file, drawn from its JSON."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from normscope.arguments import check_arguments
from normscope.files import write_atomically
from normscope.report.diagnosis import figures, history, steps
from normscope.report.diagnosis.text import (
    GROWING_INPUTS,
    REMOVES,
    THROUGH_TRAINING,
    TITLES,
    UPDATE,
    caption_by_depth,
    caption_ranges,
    caption_shares,
    caption_side_by_side,
)
from normscope.report.drawing.format import MISSING, duration, number, rate, significant, storage
from normscope.report.drawing.html import breakable, data_address, fill_template

SCHEMA = 2
"""Version of a diagnosis's JSON that can be drawn."""


@check_arguments
def write_diagnosis(
    content: Mapping[str, Any], path: Path | str, *, training: Sequence[Mapping[str, Any]] | None = None
) -> Path:
    """Write the page of a diagnosis, and its JSON beside it, each atomically.

    Args:
        content: Result of ``Diagnosis.to_json``. A number under ``"history"`` that is not finite becomes None.
        path: Path of the page; the JSON has the same name with ``.json``.
        training: Measured steps of a training, for additional figures; ``content["history"]`` if None.

    Returns:
        Path of the page.

    Raises:
        ValueError: If the path does not end with ``.html``, or the content has another version.
        OSError: If the page cannot be written; then no JSON is written either.
    """
    path = Path(path)
    if path.suffix != ".html":
        raise ValueError(f"the page is HTML: expected a path that ends with .html, got {path}")
    page, text = render(content, training=training), _json(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())
    write_atomically(path.with_suffix(".json"), text.encode())
    return path


@check_arguments
def render(content: Mapping[str, Any], *, training: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Render the page of a diagnosis as HTML; equal content gives equal text.

    Raises:
        ValueError: If the content has another version.
    """
    from markupsafe import Markup

    schema = content.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        raise ValueError(f"a diagnosis with schema {schema!r} cannot be drawn; this normscope reads schema {SCHEMA}")
    listed = {row["name"] for row in content["gradients"]}
    sections = _sections(content, _finite(content.get("history") if training is None else training))
    for section in sections:
        section["pictures"] = [
            {key: text if key == "caption" else Markup(text) for key, text in picture.items()}
            for picture in section["pictures"]
        ]
    return fill_template(
        "diagnosis.html",
        diagnosis=content,
        sections=sections,
        facts=_facts(content),
        rows=content["gradients"],
        left_out=sum(row["name"] not in listed for row in content["ranges"]),
        removes=lambda row: REMOVES.get(tuple(row["removes"]), ", ".join(row["removes"])),
        updates=_update_facts(content["first_update"]),
        breakable=breakable,
        significant=significant,
        number=number,
        download=data_address("application/json", _json(content)),
    )


def _sections(content: Mapping[str, Any], training: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Build the sections of the page: id, heading, figures, and the reading below them."""
    norms, stacks, readings = content["gradients"], content["stacks"], content["readings"]
    gradients = []
    if norms:
        gradients = [
            _picture(figures.shares, norms, caption_shares(norms), name="shares"),
            _picture(figures.side_by_side, norms, caption_side_by_side(norms, figures.LABELS), name="beside"),
        ]
    depth = [
        {"broad": svg, "narrow": "", "caption": caption_by_depth(stack, what)}
        for place, stack in enumerate(stacks)
        for what in ("activation", "gradient")
        if (svg := figures.by_depth(stack, what, name=f"depth-{place}-{what}"))
    ]
    known, ranges = figures.known_variances(content["ranges"]), []
    if known:
        ranges = [_picture(figures.ranges, content["ranges"], caption_ranges(known), name="range")]
    parts = [
        ("gradients", TITLES["gradients"], gradients, readings["gradients"], "wide"),
        ("depth", TITLES["depth"], depth, readings["depth"], "grid"),
        ("first-update", TITLES["first_update"], [], readings["first_update"], "wide"),
        ("range", TITLES["range"], ranges, readings["range"], "wide"),
    ]
    if "recurrent" in readings:
        layers, reading = content.get("recurrent", ()), readings["recurrent"]
        if len(layers) > steps.LAYERS:
            reading = f"Drawn are the first {steps.LAYERS} of {len(layers)} layers and directions.\n{reading}"
        parts.insert(2, ("recurrent", TITLES["recurrent"], steps.of_layers(layers), reading, "grid"))
    known_steps = [step for step in training or () if step["norms"]]
    if known_steps:
        pictures = [_picture(history.heat_map, known_steps, history.caption_heat_map(known_steps), name="training")]
        reading = f"{_medians(known_steps)}\n{THROUGH_TRAINING}"
        if history.sizes_of(known_steps):
            pictures.append(_picture(history.growth, known_steps, history.caption_growth(known_steps), name="growth"))
            reading += f" {GROWING_INPUTS}"
        parts.insert(1, ("training", "Through training", pictures, reading, "wide"))
    return [
        {"id": identity, "head": head, "pictures": pictures, "reading": reading, "shape": shape}
        for identity, head, pictures, reading, shape in parts
    ]


def _picture(draw: Callable[..., str], rows: Sequence[Mapping[str, Any]], caption: str, *, name: str) -> dict[str, str]:
    """Draw a figure for a desktop screen and one for a phone, with their caption."""
    return {
        "broad": draw(rows, name=name),
        "narrow": draw(rows, name=f"{name}-narrow", width=figures.NARROW),
        "caption": caption,
    }


def _medians(training: Sequence[Mapping[str, Any]]) -> str:
    """Describe the median shares of the first and the last quarter of the measured steps."""
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
    return f"{significant(median(known))} %" if known else "not known"


def _facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the settings and the cost of the diagnosis, as names and values."""
    cost, warmup = content["cost"], content["warmup"]
    kinds = {each["kind"] for each in content["gradients"]} | {each["kind"] for each in content["ranges"]}
    return [
        *((str(name), str(value)) for name, value in content.get("setting", {}).items()),
        ("Model", content["model"]),
        ("Parameters", number(content["parameters"], 0)),
        ("Mode", "training" if content["training"] else "evaluation"),
        ("Loss", "not finite" if content["loss"] is None else significant(content["loss"], 4)),
        ("Norms", ", ".join(sorted(kinds)) or MISSING),
        ("Learning rate", rate(content["learning_rate"])),
        ("Warm-up", MISSING if warmup is None else "1 step" if warmup == 1 else f"{warmup} steps"),
        ("Time", duration(cost["seconds"])),
        ("Passes", f"{cost['forward_passes']} forward, {cost['backward_passes']} backward"),
        ("Peak memory beyond that at the start; on a CPU, beyond the previous peak", storage(cost["peak_bytes"])),
        ("torch", content["torch"]),
        *([("Command", content["command"])] if "command" in content else []),
    ]


def _update_facts(update: Mapping[str, float | None] | None) -> list[tuple[str, str]]:
    """Return the known numbers of the first update with their units, as names and values."""
    facts = []
    for name, value in (update or {}).items():
        label, unit = UPDATE.get(name, (name.replace("_", " "), ""))
        if value is None:
            continue
        size = significant(100 * value if unit == "%" else value, 4 if name.startswith("loss") else 3)
        facts.append((label, f"{size} {unit}".strip()))
    return facts


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite by None, in plain values."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(content: Mapping[str, Any]) -> str:
    plain = {**content, "history": _finite(content["history"])} if "history" in content else content
    return json.dumps(plain, indent=1, allow_nan=False) + "\n"
