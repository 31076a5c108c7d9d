"""What is printed of warm-ups, by subtraction, and what is said of our schedule."""

from normscope.papers.xiong2020.study import CELLS, DIFFERS, TASK, arm_of
from normscope.tasks import TASKS


def test_published_differences_are_against_about_34() -> None:
    cells = {cell.id.split("/")[1]: cell for cell in CELLS}
    assert cells["post-needs-warmup"].published == -25.55
    assert cells["post-short-5e-4"].published == -2.84
    assert cells["post-short-1e-3"].published == -31.23
    assert cells["pre-needs-none"].published == 0.0


def test_what_diverges_is_held_against_the_full_warm_up() -> None:
    (broken,) = [cell for cell in CELLS if cell.kind == "diverges"]
    assert broken.baseline == arm_of("post", 4000, 1e-3)


def test_the_schedule_is_what_is_said_of_it() -> None:
    full = TASKS[TASK].presets["full"]
    assert (full.schedule, TASKS[TASK].presets["small"].schedule) == ("inverse_sqrt", "linear")
    assert "the later of the warm-up's end and a tenth of the updates, K, then falls as sqrt(K / step)" in DIFFERS
    without = type(full)(**{**full.__dict__, "warmup": 0})
    tenth = full.steps // 10
    rates = [without.learning_rate_at(step) for step in (0, tenth - 1, 4 * tenth - 1)]
    assert rates == [full.learning_rate, full.learning_rate, full.learning_rate / 2]
