"""Every way in which an interval can lie beside a published difference."""

import json

import pytest

from normscope.papers.judging.agreement import cannot_tell, decide, not_run
from normscope.papers.judging.cell import Epsilon
from support.digits_paper import difference


@pytest.mark.parametrize(
    ("published", "epsilon", "interval", "significant", "verdict", "why"),
    [
        (3.9, 0.5, (3.6, 4.2), True, "reproduced", "the direction, and the size within epsilon"),
        (3.9, 0.5, (0.4, 1.2), True, "reproduced", "ours is smaller by more than epsilon"),
        (-3.9, 0.5, (-1.2, -0.4), True, "reproduced", "ours is smaller by more than epsilon"),
        (-3.9, 0.5, (-9.0, -5.0), True, "reproduced", "ours is larger by more than epsilon"),
        (3.9, 0.5, (3.0, 5.0), True, "reproduced", "the size is open"),
        (3.9, 0.5, (3.6, 4.2), False, "reproduced", "the direction is not shown"),
        (3.9, 0.5, (-0.2, 0.3), False, "not reproduced", "does not show its direction"),
        (-3.9, 0.5, (-0.2, 0.3), False, "not reproduced", "does not show its direction"),
        (3.9, 0.5, (-2.0, -0.3), True, "not reproduced", "the other side of zero"),
        # However wide epsilon is, the other direction is the other direction.
        (0.3, 2.0, (-0.9, -0.2), True, "not reproduced", "the other side of zero"),
        (0.3, 2.0, (0.1, 0.5), True, "reproduced", "the direction"),
        # Two arms that learned nothing do not reproduce a small gain.
        (0.3, 2.0, (-0.1, 0.1), False, "cannot tell: it is smaller than epsilon", "ours is smaller still"),
        (-0.3, 2.0, (-0.1, 0.1), False, "cannot tell: it is smaller than epsilon", "ours is smaller still"),
        (0.3, 0.1, (-9.0, -3.0), False, "not reproduced", "further from it"),
        (0.0, 0.02, (-0.01, 0.015), False, "reproduced", "no difference beyond epsilon"),
        (0.0, 0.02, (0.001, 0.015), True, "reproduced", "no difference beyond epsilon"),
        (0.0, 0.02, (0.03, 0.05), True, "not reproduced", "further from it than epsilon"),
    ],
)
def test_decided(
    published: float, epsilon: float, interval: tuple[float, float], significant: bool, verdict: str, why: str
) -> None:
    found = decide(published, epsilon, interval, significant=significant, sizes=interval)
    assert found is not None
    assert found[0] == verdict
    assert why in found[1]


@pytest.mark.parametrize(
    ("published", "epsilon", "interval", "significant"),
    [
        (3.9, 0.5, (-1.0, 5.0), False),
        (0.3, 2.0, (-0.5, 0.9), False),
        (0.0, 0.02, (-0.01, 0.04), False),
        (0.0, 0.02, (0.01, 0.04), True),
        # All of it beyond the published one, and yet no test finds it.
        (0.3, 0.1, (0.5, 0.9), False),
    ],
)
def test_open(published: float, epsilon: float, interval: tuple[float, float], significant: bool) -> None:
    assert decide(published, epsilon, interval, significant=significant, sizes=interval) is None


def test_a_mirror_changes_no_verdict() -> None:
    for published in (0.3, 3.9):
        for low, high in ((-1.0, -0.1), (-0.1, 0.1), (0.1, 0.5), (3.8, 4.0), (5.0, 6.0)):
            for significant in (False, True):
                for wider in (0.0, 0.3, None):
                    sizes, mirror = None, None
                    if wider is not None:
                        sizes, mirror = (low - wider, high + wider), (-high - wider, wider - low)
                    here = decide(published, 0.5, (low, high), significant=significant, sizes=sizes)
                    there = decide(-published, 0.5, (-high, -low), significant=significant, sizes=mirror)
                    assert here == there


def test_nearness_and_distance_pay_for_the_number_of_comparisons() -> None:
    near, far = (3.6, 4.2), (-0.2, 3.2)
    assert decide(3.9, 0.5, near, significant=False, sizes=near) is not None
    assert decide(3.9, 0.5, near, significant=False, sizes=(3.3, 4.5)) is None
    assert decide(3.9, 0.5, far, significant=False, sizes=far) is not None
    assert decide(3.9, 0.5, far, significant=False, sizes=(-0.4, 3.5)) is None
    # A direction is Holm's affair: the wide interval may hold zero.
    found = decide(3.9, 0.5, (0.1, 3.0), significant=True, sizes=(-0.2, 3.3))
    assert found == ("reproduced", "the direction; ours is smaller by more than epsilon")


@pytest.mark.parametrize(
    ("published", "interval", "significant", "verdict"),
    [
        (3.9, (0.1, 0.2), True, ("reproduced", "the direction")),
        (3.9, (-0.2, -0.1), True, ("not reproduced", "ours lies on the other side of zero")),
        (3.9, (3.8, 4.0), False, None),
        (3.9, (-0.1, 0.1), False, None),
        (0.0, (-0.01, 0.01), False, None),
        (0.0, (7.0, 9.0), True, None),
    ],
)
def test_without_sizes_the_direction_is_all(
    published: float, interval: tuple[float, float], significant: bool, verdict: tuple[str, str] | None
) -> None:
    assert decide(published, 0.5, interval, significant=significant, sizes=None) == verdict


def test_what_was_not_run_says_why_and_keeps_its_epsilon() -> None:
    told = not_run(difference(1.0), "no data", margin=0.5).to_dict()
    assert (told["verdict"], told["because"], told["epsilon"], told["ours"]) == ("not run here", "no data", 0.5, None)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    own = Epsilon(value=9.0, reason="read off")
    assert not_run(difference(1.0, epsilon=own), "no task").to_dict()["epsilon"] == 9.0
    assert not_run(difference(1.0), "no task").epsilon is None


def test_more_seeds_than_anybody_runs() -> None:
    base = not_run(difference(1.0), "")
    assert cannot_tell(base, 12, "").verdict == "cannot tell: needs 12 seeds"
    assert cannot_tell(base, None, "").verdict == "cannot tell: needs over 1000 seeds"
