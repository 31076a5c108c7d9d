"""The page of a study: one self-contained HTML file."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normscope.arguments import check_arguments
from normscope.files import write_atomically
from normscope.report.drawing import curves
from normscope.report.drawing.format import apart, headline, level, name_seeds, number, sentence, split_verdict
from normscope.report.drawing.html import data_address, fill_template, island, read_asset, script_hash
from normscope.report.drawing.palette import ArmStyle, arm_styles
from normscope.report.study import figures
from normscope.report.study.folder import StudyRecord, read_study
from normscope.report.study.looks import describe_plan, look_rows, path
from normscope.report.study.paired import common_scale, pairs, published_tables, tuned_beside_untuned
from normscope.report.study.pictures import draw_picture
from normscope.report.study.table import breakages, measure_rows, verdict_rows
from normscope.report.study.targets import crossings, describe_targets, target_rows, target_sentences
from normscope.results.schema import FINAL_STATES
from normscope.results.store import StudyFolder
from normscope.results.summary import Summary

_MUST_AGREE = ("task", "steps", "batch_size", "precision", "device", "device_name", "backend")
_ELSEWHERE = ("data", "foreign_runs")
_COSTS: tuple[tuple[figures.Cost, str], ...] = (
    ("step_ms", "time per step (ms)"),
    ("peak_bytes", "peak memory (MiB)"),
    ("saved_bytes", "saved for the backward pass (MiB)"),
)

# Largest number of points of all learning curves together: it keeps the page of hundreds of runs small.
_POINTS = 60_000

# Largest number of rows in the table of runs without a value.
_MOST_ROWS = 500


@check_arguments
def write_report(directory: Path) -> Path:
    """Write ``report.html`` from the files of a study.

    The page shows the numbers of summary.json and computes no statistic. Equal files give equal bytes. The page is
    written atomically.

    Args:
        directory: Study folder (``docs/guides/studies.md``) with its summary.json.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: If card.json or summary.json does not exist, or a file of a run that ended is missing.
        ValueError: If a file has another shape, or the files contradict each other.

    Example:
        >>> from pathlib import Path
        >>> from normscope import summarize, write_report
        >>> folder = Path("runs/digits")  # a study that compare() made
        >>> summarize(folder).write(folder)
        >>> write_report(folder).name
        'report.html'
    """
    folder = StudyFolder(Path(directory))
    write_atomically(folder.report, render(read_study(folder.path)).encode())
    return folder.report


def render(study: StudyRecord) -> str:
    """Render the page of a study as HTML.

    Raises:
        ValueError: If the tuning names an arm that the study does not have.
    """
    from markupsafe import Markup

    summary, broken = study.summary, breakages(study)
    styles = arm_styles([arm.label for arm in summary.arms], summary.baseline)
    script = read_asset("page.js")
    variants = {arm.variant for arm in summary.arms}
    states = {
        run.id or (side, arm.label, run.seed): run.state
        for side, arms in enumerate((summary.arms, summary.untuned or ()))
        for arm in arms
        for run in arm.runs
    }
    pictures = {
        "forest": _forests(study, styles),
        "looks": _looks(summary, styles),
        "pairs": _pairs(study, styles),
        "curves": _curves(study, styles),
        "gradients": _gradients(study, styles),
        "cost": _costs(study, styles),
        "tuning": _tuning(study, styles),
    }
    return fill_template(
        "page.html",
        card=study.card,
        seeds=name_seeds(study.card["seeds"]),
        # Where arms differ in it, their labels say so.
        variant=next(iter(variants)) if len(variants) == 1 else None,
        summary=summary,
        styles=styles,
        script=Markup(script),
        script_hash=script_hash(script),
        headline=headline(summary),
        answers=_answers(summary),
        ended=sum(state in FINAL_STATES for state in states.values()),
        planned=len(states),
        rows=verdict_rows(summary.arms, summary),
        untuned_yet=bool(study.card.get("tune")) and summary.tuning is None,
        untuned_rows=verdict_rows(summary.untuned or (), summary),
        beside=tuned_beside_untuned(summary) if summary.untuned else [],
        breakages=broken[:_MOST_ROWS],
        more_breakages=len(broken) - _MOST_ROWS,
        left_out=study.left_out,
        plan=describe_plan(summary, declared=bool(study.card.get("source"))) if summary.looks else [],
        look_rows=look_rows(summary) if summary.looks else [],
        times=describe_targets(summary),
        target_rows=target_rows(summary),
        measures=measure_rows(summary),
        published=published_tables(study),
        facts=facts(study),
        strangers=strangers(study),
        disagreements=disagreements(study),
        pictures={
            name: {label: Markup(svg) for label, svg in drawn.items()}
            if isinstance(drawn, dict)
            else [Markup(svg) for svg in drawn]
            for name, drawn in pictures.items()
        },
        drawn={
            caption: [(label, seed, Markup(svg)) for label, seed, svg in rows]
            for caption, rows in _drawn(study, styles).items()
        },
        island=Markup(island(_shown(study))),
        downloads=[] if study.left_out else _downloads(study),
        number=number,
        level=level(summary.alpha),
        unit=apart(summary.metric["unit"]),
        margin=f"{summary.margin:g} {apart(summary.metric['unit'])}".strip(),
    )


def facts(study: StudyRecord) -> dict[str, list[tuple[str, str]]]:
    """Return settings, versions and data hashes as names and values, in this order of groups."""
    values = {name: ", ".join(counts) for name, counts in _counts(study).items()}
    settings = {name: values[name] for name in _MUST_AGREE if name in values}
    more = {key: value for key, value in study.summary.settings.items() if key not in _ELSEWHERE}
    settings |= {name: value for name, value in _flat(more) if value and name not in settings}
    groups = {"Settings": settings, "Versions": _under("versions.", values), "Data (SHA-256)": _under("data.", values)}
    return {head: list(group.items()) for head, group in groups.items() if group}


def strangers(study: StudyRecord) -> list[str]:
    """Return the names of the run folders that belong to no planned run; no number includes them."""
    return list(study.summary.settings.get("foreign_runs") or [])


def disagreements(study: StudyRecord) -> list[str]:
    """List the settings, versions and data in which the runs differ; such runs are not one experiment."""
    return [
        f"{name.replace('.', ': ', 1)}: " + ", ".join(f"{value} in {count} runs" for value, count in values.items())
        for name, values in _counts(study).items()
        if len(values) > 1
    ]


def _counts(study: StudyRecord) -> dict[str, Counter[str]]:
    """Count the runs with each value of everything that must be equal in all runs."""
    table: dict[str, Counter[str]] = {}
    for description in (run.description for run in (*study.runs, *study.untuned_runs) if run.description):
        for name in _MUST_AGREE:
            if description.get(name) is not None:
                table.setdefault(name, Counter())[str(description[name])] += 1
        for group in ("versions", "data"):
            for name, value in (description.get(group) or {}).items():
                table.setdefault(f"{group}.{name}", Counter())[str(value)] += 1
    return table


def _under(prefix: str, values: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested settings to names with dots."""
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows


def _answers(summary: Summary) -> list[dict[str, Any]]:
    """Build the sentences of the answer: arms that fail to train first, the baseline last, the others in order."""
    parts = [(arm, split_verdict(arm)[0]) for arm in summary.arms]
    parts.sort(key=lambda part: (not part[1], part[0].label == summary.baseline))
    return [
        {
            "label": arm.label,
            "broken": failures,
            "sentence": " ".join([sentence(arm, summary), *target_sentences(arm, summary)]),
        }
        for arm, failures in parts
    ]


def _forests(study: StudyRecord, styles: Mapping[str, ArmStyle]) -> list[str]:
    if not study.drawn.keys() - {study.summary.baseline}:
        return []
    return [figures.forest(study.summary, styles, width=width, name=f"forest-{width}") for width in (780, 340)]


def _looks(summary: Summary, styles: Mapping[str, ArmStyle]) -> dict[str, str]:
    """Draw the path of every arm that has a look."""
    arms = [arm for arm in summary.arms if arm.looks]
    return {arm.label: path(arm, styles[arm.label], summary, name=f"looks-{styles[arm.label].index}") for arm in arms}


def _pairs(study: StudyRecord, styles: Mapping[str, ArmStyle]) -> dict[str, str]:
    groups = study.drawn
    baseline = groups.get(study.summary.baseline, [])
    scales = common_scale(
        {
            label: [run.value for run in (*runs, *baseline) if run.value is not None and not run.broke]
            for label, runs in groups.items()
        }
    )
    return {
        label: pairs(runs, baseline, styles[label], study.summary, scales[label], name=f"pairs-{styles[label].index}")
        for label, runs in groups.items()
        if label != study.summary.baseline and any(run.state in FINAL_STATES for run in (*runs, *baseline))
    }


def _curves(study: StudyRecord, styles: Mapping[str, ArmStyle]) -> dict[str, str]:
    metric = study.card.get("valid_metric") or study.summary.metric
    groups = study.drawn
    goals = () if study.summary.targets is None else study.summary.targets.values
    fixed = [float(goal) for goal in goals if not isinstance(goal, str)]
    shared = curves.frame(list(groups.values()), study.last_step, metric, fixed)
    arms = {arm.label: arm for arm in study.summary.arms}
    points = max(20, min(200, _POINTS // max(1, 2 * sum(map(len, groups.values())))))
    baseline = groups.get(study.summary.baseline, [])
    data = "logged data" if study.card.get("source") else "validation set"
    return {
        label: curves.learning(
            runs,
            baseline,
            styles[label],
            metric,
            shared,
            points,
            name=f"curves-{styles[label].index}",
            data=data,
            crossings=crossings(runs, arms[label], arms[study.summary.baseline], metric["unit"]),
        )
        for label, runs in groups.items()
        if any(run.metrics for run in runs)
    }


def _drawn(study: StudyRecord, styles: Mapping[str, ArmStyle]) -> dict[str, list[tuple[str, int, str]]]:
    """Draw the pictures of runs by caption, each with its arm and seed, so that the arms are beside each other."""
    drawn: dict[str, list[tuple[str, int, str]]] = {}
    for run in study.runs:
        for place, picture in enumerate(run.pictures):
            style = styles[run.label]
            svg = draw_picture(picture, style, name=f"picture-{style.index}-{place}")
            drawn.setdefault(picture.caption, []).append((run.label, run.seed, svg))
    return drawn


def _gradients(study: StudyRecord, styles: Mapping[str, ArmStyle]) -> dict[str, str]:
    probed = {label: runs for label, runs in study.drawn.items() if any(len(figures.shares(run)[0]) for run in runs)}
    top = figures.highest([run for runs in probed.values() for run in runs])
    return {
        label: figures.gradients(runs, styles[label], study.last_step, top, name=f"gradients-{styles[label].index}")
        for label, runs in probed.items()
    }


def _costs(study: StudyRecord, styles: Mapping[str, ArmStyle]) -> list[str]:
    """Draw the first two costs that at least two arms have."""
    drawn = []
    for field, axis in _COSTS:
        arms = [arm for arm in study.summary.arms if arm.mean is not None and getattr(arm, field) is not None]
        if len(arms) > 1 and len(drawn) < 2:
            drawn.append(figures.cost(arms, styles, study.summary.metric, field, axis, name=f"cost-{field}"))
    return drawn


def _tuning(study: StudyRecord, styles: Mapping[str, ArmStyle]) -> dict[str, str]:
    """Draw the tuning of every tuned arm.

    Raises:
        ValueError: If it names an arm that the study does not have.
    """
    metric = study.card.get("valid_metric") or study.summary.metric
    tuned = (study.summary.tuning or {}).get("arms", {})
    for label in tuned:
        if label not in styles:
            raise ValueError(f"{study.directory}/summary.json: tuning is about {label!r}, the arms are {list(styles)}")
    limits = common_scale(
        {
            label: [value for point in arm["curve"] for value in point["values"] if value is not None]
            for label, arm in tuned.items()
        }
    )
    return {
        label: figures.tuning(
            arm["curve"], arm["chosen"], styles[label], label, metric, limits[label], name=f"tuning-{place}"
        )
        for place, (label, arm) in enumerate(tuned.items())
    }


def _shown(study: StudyRecord) -> dict[str, Any]:
    """Return the content of summary.json with the runs that the page draws."""
    content = study.summary.to_dict()
    if study.left_out:
        for arm in (*content["arms"], *(content["untuned"] or ())):
            arm["runs"] = [run for run in arm["runs"] if run["seed"] in study.seeds]
            for target in arm.get("targets") or ():
                target["runs"] = [run for run in target["runs"] if run["seed"] in study.seeds]
    return content


def _downloads(study: StudyRecord) -> list[tuple[str, str]]:
    """Return the files that the page contains, as names and ``data:`` addresses."""
    text = json.dumps(study.summary.to_dict(), indent=1, allow_nan=False) + "\n"
    downloads = [("summary.json", data_address("application/json", text))]
    if study.table is not None:
        downloads.append(("summary.csv", data_address("text/csv", study.table)))
    return downloads
