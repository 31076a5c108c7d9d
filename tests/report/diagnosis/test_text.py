"""Captions say the numbers of their picture."""

from normscope.report.diagnosis import text

LAYERS = [{"activation": 1.0, "gradient": 0.5}, {"activation": None, "gradient": 0.25}]


def test_shares_name_the_norm_with_the_most() -> None:
    norms = [{"name": "", "recentering": 0.5, "rescaling": 0.25}, {"name": "b", "recentering": 0.1, "rescaling": 0.1}]
    words = text.caption_shares(norms)
    assert "2 norms; the most at the model: re-centering 50.00 %, re-scaling 25.00 %." in words
    assert text.caption_shares(norms[1:]).startswith("1 norm; the most at b")


def test_side_by_side_has_means() -> None:
    norms = [{"beside": {"a": 0.5}}, {"beside": {"a": 1.0}}]
    assert text.caption_side_by_side(norms, {"a": "Anorm"}).startswith("On average: Anorm 75.00 %.")


def test_theory_is_told_only_where_it_is_drawn() -> None:
    stack = {"name": "layers", "layers": LAYERS, "theory": {"gradient": [1.0, 1.0], "activation_low": [None, 1.0]}}
    words = text.caption_by_depth(stack, "gradient")
    assert words.startswith("2 layers of layers, root mean square of the gradient: from 0.5000 at the first to 0.2500")
    assert "The broken lines are theory" in words
    assert "theory" not in text.caption_by_depth(stack, "activation")


def test_rows_below_eps_are_counted() -> None:
    norms = [
        {"name": "a", "smallest_variance": 1e-7, "eps": 1e-5},
        {"name": "b", "smallest_variance": 1.0, "eps": None},
    ]
    words = text.caption_ranges(norms)
    assert "at a." in words
    assert "below eps at 1 of 2 norms" in words


def test_lines_that_are_shared_are_told() -> None:
    assert "share a line" in text.caption_heat(50, 60, 200, 0.2)
    assert "share a line" not in text.caption_heat(50, 3, 3, 0.2)
