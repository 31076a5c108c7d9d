"""What the records of two seeds have in common, and the sentence about it."""

import pytest

from normscope.results.seeding import SHARED, describe_shared, shared


def test_only_what_all_records_have_is_shared() -> None:
    one = {"torch": "a", "numpy": "b", "python": "c", "batches": "d"}
    assert shared([]) == shared([one]) == []
    assert shared([one, dict(one)]) == ["batches", "torch", "numpy", "python"]
    assert shared([one, {**one, "torch": "x"}, {"numpy": "b", "batches": "d"}]) == ["batches", "numpy"]
    assert shared([{"weights": "w"}, {}]) == []


@pytest.mark.parametrize(
    ("keys", "start"),
    [
        ([], ""),
        (["weights"], "the initial weights are the same in all seeds, so the spread over seeds understates"),
        (
            ["batches"],
            "the batches and their order are the same in all seeds, so the spread over seeds leaves the order",
        ),
        (["torch"], "all that is drawn from the generators of torch, such as dropout, are the same in all seeds"),
        (["numpy", "python"], "all that is drawn from the generators of NumPy and Python are the same in all seeds"),
        (
            list(SHARED),
            "the initial weights, the order of the data and all that is drawn from the generators of torch, the "
            "device, NumPy and Python, such as dropout, are the same in all seeds",
        ),
    ],
)
def test_the_sentence_names_what_is_shared(keys: list[str], start: str) -> None:
    assert describe_shared(keys).startswith(start)
    assert bool(describe_shared(keys)) == bool(keys)
