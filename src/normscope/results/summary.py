"""A study's numbers, drawn from its folder: which run belongs to which arm, and what the runs say; needs no torch.

``docs/studies.md`` has every field. Nothing here is kept: a summary can be made again from the runs at any time.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normscope.files import write_atomically
from normscope.results.matching import Arm, match_runs, read_runs
from normscope.results.per_arm import ArmSummary, summarize_arm, weigh_arm
from normscope.results.statistics import MOST_SEEDS, holm, seeds_needed
from normscope.results.store import FINAL_STATES, SCHEMA, StudyFolder, write_json

_SETTINGS = ("device", "device_name", "backend", "precision", "batch_size", "steps", "threads")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A study's answer."""

    card: Mapping[str, Any]
    """card.json as it was read."""
    baseline: str
    """Label of the arm that the others are compared with."""
    complete: bool
    """Whether every planned run has ended."""
    noise: Mapping[str, Any]
    """The baseline's spread over seeds: ``sigma`` (n - 1 in the denominator), ``n``, ``words``."""
    arms: tuple[ArmSummary, ...]
    """The arms of the question: the tuned ones where the card has any."""
    untuned: tuple[ArmSummary, ...] | None
    """The same at the task's learning rate, against the untuned baseline; None where nothing was tuned."""
    settings: Mapping[str, Any]
    """Every value that occurs among the matched runs, as lists; ``foreign_runs`` names the folders left out."""
    versions: Mapping[str, Sequence[str]]
    """Every version of every package among the matched runs; more than one is worth a warning."""

    def to_dict(self) -> dict[str, Any]:
        """Give the content of ``summary.json``."""
        card = self.card
        return {
            "schema": SCHEMA,
            "task": card["task"],
            "question": card["question"],
            "metric": {
                key: card["metric"][key]
                for key in ("name", "unit", "higher_is_better", "aggregate", "signature")
                if key in card["metric"] and card["metric"][key] != ""
            },
            "baseline": self.baseline,
            "margin": card["margin"],
            "alpha": card["alpha"],
            "complete": self.complete,
            "noise": dict(self.noise),
            "arms": [arm.to_dict() for arm in self.arms],
            "untuned": None if self.untuned is None else [arm.to_dict() for arm in self.untuned],
            "tuning": card.get("tuning"),
            "regime": card.get("regime"),
            "command": card.get("command"),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "published": card.get("published", []),
        }

    def write(self, directory: Path) -> None:
        """Write ``summary.json`` and ``summary.csv``, each atomically; a number that is not finite is a ValueError."""
        study = StudyFolder(Path(directory))
        write_json(study.summary, self.to_dict())
        write_atomically(study.table, self.to_csv().encode())

    def to_csv(self) -> str:
        """Give ``summary.csv``: a row an arm, a column a number or a seed; what cannot be said is empty."""
        intervals = ("interval", "interval_bca", "interval_examples")
        rows = []
        tuned = "" if self.untuned is None else 1
        for mark, arm in [*((tuned, arm) for arm in self.arms), *((0, arm) for arm in self.untuned or ())]:
            row: dict[str, Any] = {"tuned": mark}
            for name, value in arm.to_dict().items():
                if name in intervals:
                    row[f"{name}_low"], row[f"{name}_high"] = value or (None, None)
                elif name == "arguments":
                    row[name] = json.dumps(value) if value else ""
                elif name == "unpaired":
                    row[name] = " ".join(map(str, value))
                elif name != "runs":
                    row[name] = value
            row |= {f"seed_{run.seed}": run.state if run.value is None else run.value for run in arm.runs}
            rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def summarize(directory: Path) -> Summary:
    """Read a study and say what it found.

    A run belongs to an arm if its label, norm, placement, arguments and learning rate are the arm's, its seed is one
    of the card's, and its task, steps, batch size and precision are the card's; where the card names the arm's runs,
    it is one of them. So a run may serve a tuned and an untuned arm with one learning rate. Runs that only chose a
    learning rate are left out. A folder without a card is a FileNotFoundError; a file that cannot be read, or that
    contradicts the card or another file, is a ValueError that names it.

    Args:
        directory: The study's folder.

    Returns:
        The summary; :meth:`Summary.write` puts it on disk.
    """
    study = StudyFolder(Path(directory))
    card = study.read_card()
    runs, foreign = read_runs(study, card)
    arms = [match_runs(card, entry, runs) for entry in card["arms"]]
    groups = [[arm for arm in arms if arm.entry["tuned"]], [arm for arm in arms if not arm.entry["tuned"]]]
    baselines = [_find_baseline(card, group, study.card) for group in groups if group]
    groups = [group for group in groups if group]
    told = _summarize_groups(card, groups, baselines)
    used = {run.folder.path.name for arm in arms for run in arm.runs.values()}
    chosen = [run.described for run in runs if run.folder.path.name in used]
    foreign += [run.folder.path.name for run in runs if run.folder.path.name not in used]
    return Summary(
        card=card,
        baseline=card["baseline"],
        complete=all(run.state in FINAL_STATES for group in told for arm in group for run in arm.runs),
        noise=_noise(card, baselines[0]),
        arms=told[0],
        untuned=told[1] if len(told) > 1 else None,
        settings={
            **{key: _distinct([described.get(key) for described in chosen]) for key in _SETTINGS},
            "data": _distinct_values([described.get("data") for described in chosen]),
            "foreign_runs": sorted(foreign),
        },
        versions=_distinct_values([described.get("versions") for described in chosen]),
    )


def _find_baseline(card: Mapping[str, Any], group: Sequence[Arm], path: Path) -> Arm:
    labels = [arm.entry["label"] for arm in group]
    if labels.count(card["baseline"]) != 1 or len(set(labels)) < len(labels):
        raise ValueError(f"{path} needs its baseline {card['baseline']!r} once among different arms, got {labels}")
    return group[labels.index(card["baseline"])]


def _comparisons(card: Mapping[str, Any]) -> int:
    """Count the arms that are compared with a baseline, tuned or not: Holm's family is the card."""
    return sum(entry["label"] != card["baseline"] for entry in card["arms"])


def _summarize_groups(
    card: Mapping[str, Any], groups: Sequence[Sequence[Arm]], baselines: Sequence[Arm]
) -> list[tuple[ArmSummary, ...]]:
    comparisons = _comparisons(card)
    couples = [(arm, base) for group, base in zip(groups, baselines, strict=True) for arm in group]
    evidence = [None if arm is base else weigh_arm(card, arm, base, comparisons) for arm, base in couples]
    adjusted = iter(holm([each.p for each in evidence if each is not None]))
    told = iter(
        [
            summarize_arm(
                card, arm, base, each, p_adjusted=None if each is None else next(adjusted), comparisons=comparisons
            )
            for (arm, base), each in zip(couples, evidence, strict=True)
        ]
    )
    return [tuple(next(told) for _ in group) for group in groups]


def _noise(card: Mapping[str, Any], base: Arm) -> dict[str, Any]:
    """Say how far the baseline's runs lie apart, and what that means for the margin.

    Planning takes the two arms as independent, so that a difference has variance 2 sigma squared: pairing only helps.
    """
    name, sigma, count, margin = base.entry["label"], base.sd, len(base.values), card["margin"]
    if sigma is None:
        return {"sigma": None, "n": count, "words": f"unknown: it takes 2 finished runs of {name}, there are {count}"}
    unit = f" {card['metric']['unit']}".rstrip()
    words = f"{name} varies by {sigma:.3g}{unit} (standard deviation over {count} seeds)"
    if margin < sigma / 2:
        strictest = card["alpha"] / max(1, _comparisons(card))
        wanted = seeds_needed(sd=2**0.5 * sigma, effect=margin, alpha=strictest)
        many = f"over {MOST_SEEDS}" if wanted is None else f"about {wanted}"
        words += f"; the margin of {margin:.3g}{unit} is less than half of it: finding it takes {many} seeds"
    return {"sigma": sigma, "n": count, "words": words}


def _distinct(values: Sequence[Any]) -> list[Any]:
    return sorted({value for value in values if value is not None}, key=str)


def _distinct_values(mappings: Sequence[Mapping[str, Any] | None]) -> dict[str, list[Any]]:
    names = sorted({name for mapping in mappings for name in mapping or {}})
    return {name: _distinct([(mapping or {}).get(name) for mapping in mappings]) for name in names}
