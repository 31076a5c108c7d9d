"""Exports of trackers, and tables written by a test."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from support.study_folders import unpack


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``exports/README.md``."""
    folder = tmp_path_factory.mktemp("exports")
    unpack(Path(__file__).with_name("exports") / "exports.tar.xz", folder)
    return folder


def values(arms: Mapping[str, float], seeds: int = 8) -> dict[tuple[str, int], float]:
    """Return a loss per arm and seed: what the seed gives to all arms, what the arm adds, and noise."""
    rng = random.Random(5)
    shared = [rng.gauss(0.3, 0.02) for _ in range(seeds)]
    return {(arm, seed): shared[seed] + add + rng.gauss(0, 0.002) for arm, add in arms.items() for seed in range(seeds)}


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Write a CSV with the columns norm, seed and test_loss, some of its lines changed."""

    def write(
        changes: Mapping[int, str] | None = None, *, more: tuple[str, ...] = (), name: str = "results.csv"
    ) -> Path:
        runs = values({"layer_norm": 0.0, "rms_norm": 0.05, "ada_norm": 0.0})
        lines = ["norm,seed,test_loss", *(f"{arm},{seed},{value!r}" for (arm, seed), value in runs.items())]
        for number, line in (changes or {}).items():
            lines[number - 1] = line
        path = tmp_path / name
        path.write_text("\n".join([*(line for line in lines if line != "-"), *more]) + "\n")
        return path

    return write
