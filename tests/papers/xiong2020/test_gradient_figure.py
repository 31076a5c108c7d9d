"""The picture: a whole SVG file with every seed in it."""

import xml.etree.ElementTree as ET

from normscope.papers.xiong2020.gradient_slopes import conclude, draw
from normscope.papers.xiong2020.initial_gradients import Setting
from support.digits_paper import made_up


def test_every_seed_is_a_dot_and_the_words_are_there() -> None:
    setting = Setting(layers=(3, 4))
    svg = draw(conclude(made_up(setting, range(2), 0.1), setting))
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    tips = [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}title")]
    # Two placements, two seeds: two sizes in the first panel, three layers in either of the others.
    assert sum(", seed " in tip for tip in tips) == 2 * 2 * (2 + 3 + 3)
    assert "3-3" in svg
    assert "Pre-LN falls as 1 / sqrt(layers)" in svg
    assert "--arm-1:" in svg
    assert draw(conclude(made_up(setting, range(2), 0.1), setting)) == svg
