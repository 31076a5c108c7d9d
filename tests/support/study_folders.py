"""Studies written as the runner would, and committed ones unpacked."""

import tarfile
from pathlib import Path

import numpy as np

from normscope.results import summarize
from normscope.results.store import SCHEMA, StudyFolder, write_json


class Study:
    """Writes a study as the runner would."""

    def __init__(self, path, *, labels=("layer_norm", "ada_norm"), seeds=range(10), **card):
        self.folder = StudyFolder(path)
        self.seeds = list(seeds)
        self.card = {
            "schema": SCHEMA,
            "question": "Does it help?",
            "task": "digits",
            "metric": {"name": "test error", "unit": "%", "higher_is_better": False},
            "margin": 0.5,
            "alpha": 0.05,
            "baseline": labels[0],
            "arms": [self.arm(label) for label in labels],
            "seeds": self.seeds,
            "steps": 100,
            "batch_size": 32,
            "precision": "float32",
            "device": "cpu",
            "regime": "small",
            "failure": "NaN",
            "command": "normscope compare digits",
            "published": [],
            "tuning": None,
            **card,
        }
        self.save()

    @staticmethod
    def arm(label, *, learning_rate=0.1, tuned=False):
        return {
            "label": label,
            "norm": label,
            "placement": "post",
            "arguments": {},
            "learning_rate": learning_rate,
            "tuned": tuned,
        }

    def save(self):
        write_json(self.folder.card, self.card)

    def run(self, label, seed, value=None, *, state="done", scores=None, described=None, result=None, name=None):
        """Write one run; the state ``interrupted`` has no result."""
        described = described or {}
        rate = described.get("learning_rate", 0.1)
        run = self.folder.run(name or f"{label}-{seed}-{rate}")
        about = {
            "label": label,
            "norm": label,
            "placement": "post",
            "arguments": {},
            "seed": seed,
            "learning_rate": 0.1,
        }
        about |= {key: self.card[key] for key in ("task", "steps", "batch_size", "precision", "device")}
        about |= {"id": run.path.name, "parameters": 500, "versions": {"torch": "2.13.0"}, "device_name": "CPU A"}
        about |= {"data": {"digits.csv": "abc"}, "split": "study"}
        write_json(run.description, {"schema": SCHEMA, **about, **described})
        run.metrics.write_text('{"step": 20, "valid_value": 3.0}\n{"step": 40, "valid_value": 2.0}\n{"ste')
        if state != "interrupted":
            numbers = {"step_ms": 1.0 + seed, "peak_bytes": 1000 + seed, "saved_bytes": 64, "seconds": 2.0}
            ending = {"state": state, "value": value, "steps": 100, **numbers, "reason": None}
            write_json(run.result, {"schema": SCHEMA, **ending, **(result or {})})
        if scores is not None:
            np.save(run.examples, np.asarray(scores, dtype=np.float32))
        return run

    def fill(self, label, values, **arguments):
        for seed, value in zip(self.seeds, values, strict=True):
            self.run(label, seed, float(value), **arguments)


def read(study):
    return summarize(study.folder.path)


def scored(study, label, rng, share, examples=400):
    """Write ten runs whose values are the means of their right-or-wrong scores, in percent."""
    for seed in study.seeds:
        scores = 100.0 * (rng.random(examples) < share)
        study.run(label, seed, float(scores.mean()), scores=scores)


def unpack(archive: Path, folder: Path) -> None:
    """Write the files of an archive; Python before 3.11.4 has no filter for what else one may hold."""
    with tarfile.open(archive) as content:
        for member in content:
            target = (folder / member.name).resolve()
            assert target.is_relative_to(folder.resolve())
            assert member.isfile() or member.isdir(), member.name
            if source := content.extractfile(member):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read())
