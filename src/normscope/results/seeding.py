"""What all seeds of a study share although the seed should decide it: evidence of code that seeds itself."""

from collections.abc import Mapping, Sequence

SHARED = {
    "weights": "the initial weights",
    "batches": "the order of the data",
    "torch": "torch",
    "device": "the device",
    "numpy": "NumPy",
    "python": "Python",
}
"""What a record of a run's draws may have: initial weights, first batches, and the states of the global generators."""

_GENERATORS = ("torch", "device", "numpy", "python")


def shared(records: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the keys of :data:`SHARED` that all of two or more records have with an equal value.

    Args:
        records: One record per seed, from key to a digest.
    """
    if len(records) < 2:
        return []
    first, *others = records
    return [key for key in SHARED if key in first and all(other.get(key) == first[key] for other in others)]


def describe_shared(keys: Sequence[str]) -> str:
    """Return the warning about what all seeds share, in a sentence; empty if they share nothing."""
    if not keys:
        return ""
    if list(keys) == ["batches"]:
        return (
            "the batches and their order are the same in all seeds, so the spread over seeds leaves the order of the "
            "data out; if they are shuffled, shuffle them with the seed that make receives"
        )
    subjects = [SHARED[key] for key in ("weights", "batches") if key in keys]
    if generators := [SHARED[key] for key in _GENERATORS if key in keys]:
        dropout = ", such as dropout," if {"torch", "device"} & {*keys} else ""
        subjects.append(f"all that is drawn from the generators of {_listed(generators)}{dropout}")
    return (
        f"{_listed(subjects)} are the same in all seeds, so the "
        "spread over seeds understates the noise of training. The generators are seeded with the run's seed before "
        "make and train are called: remove the code that seeds them again, or use the seed that make receives there"
    )


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
