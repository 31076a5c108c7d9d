"""Processes that compute one study keep apart: where one goes on after a run of another, and what it asks then."""

from pathlib import Path

from normscope.results.store import StudyFolder
from normscope.studies.engines.apart import LISTED_PER_CALL, Apart
from normscope.studies.plan import RunSpec, plan
from normscope.studies.spec import make_study


def specs(seeds: int) -> list[RunSpec]:
    return plan(make_study("digits", norms=["none", "layer_norm"], seeds=range(seeds)))


def test_it_goes_on_at_a_seed_and_keeps_the_order(tmp_path: Path) -> None:
    queue, places = specs(50), set()
    apart = Apart(study=StudyFolder(tmp_path))
    apart.random.seed(1)
    for _ in range(20):
        apart.move(queue, {})
        places.add(queue[0].seed)
        assert [spec.label for spec in queue] == ["none", "layer_norm"] * 50
        first = queue[0].seed
        assert [spec.seed for spec in queue[::2]] == [*range(first, 50), *range(first)]
    assert len(places) > 10


def test_it_leaves_the_begun_runs_to_others_after_so_many_as_a_listing_costs(tmp_path: Path) -> None:
    study, queue = StudyFolder(tmp_path), specs(LISTED_PER_CALL)  # two calls list as many
    begun = {spec.id for spec in queue[10:100]}
    for name in begun:
        study.run(name).path.mkdir(parents=True)
    apart, elsewhere = Apart(study=study), dict[str, RunSpec]()
    for _ in range(4):
        assert not elsewhere
        apart.move(queue, elsewhere)
    assert elsewhere.keys() == begun
    assert len(queue) == 2 * LISTED_PER_CALL - 90
    assert not begun & {spec.id for spec in queue}


def test_an_empty_queue_stays_empty(tmp_path: Path) -> None:
    queue: list[RunSpec] = []
    Apart(study=StudyFolder(tmp_path)).move(queue, {})
    assert queue == []
