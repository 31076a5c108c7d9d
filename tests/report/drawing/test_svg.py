"""SVG: escaped, small, deterministic, in the page's colours, with words for a screen reader."""

import re
import xml.etree.ElementTree as ET

from normscope.report.drawing.palette import stand_in
from normscope.report.drawing.svg import axes, blank, clean, drawing, mark, to_svg

NASTY = '<script>x</script> $y$ & #f0f002 " 標'


def _picture(name: str = "one", label: str = NASTY) -> str:
    with drawing():
        figure = blank(200, 100)
        plot = axes(figure, left=20, right=10, top=10, bottom=20)
        plot.plot([0, 1, 2], [1, 3, 2], "-s", color=stand_in("arm-1"), gid=mark(3, label))
        plot.set_title(clean(label), color=stand_in("ink"))
        return to_svg(figure, name=name, title=label, words=f"{label} goes up.")


def test_equal_figures_give_equal_bytes() -> None:
    assert _picture() == _picture()


def test_labels_stay_text() -> None:
    root = ET.fromstring(_picture())
    assert root.find(".//script") is None
    assert NASTY in [element.text for element in root.iter("text")]
    assert root.findtext("title") == NASTY
    assert root.findtext("desc") == f"{NASTY} goes up."


def test_every_colour_is_a_custom_property() -> None:
    root = ET.fromstring(_picture(label="plain"))
    styles = " ".join(element.get("style", "") for element in root.iter())
    assert "var(--arm-1)" in styles
    assert not re.search(r"#[0-9a-f]{3,6}", styles)
    assert "DejaVu" not in styles


def test_ids_are_unique_between_pictures_and_resolve() -> None:
    roots = [ET.fromstring(_picture(name)) for name in ("one", "two")]
    ids = [element.get("id") for root in roots for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for root in roots:
        own = {element.get("id") for element in root.iter()}
        targets = {element.get("href", "")[1:] for element in root.iter("use")}
        targets |= {element.get("clip-path")[5:-1] for element in root.iter() if element.get("clip-path")}
        assert targets
        assert targets <= own
        assert set(root.get("aria-labelledby", "").split()) <= own


def test_marks_of_an_arm_carry_its_index_and_tip() -> None:
    group = ET.fromstring(_picture()).find(".//g[@data-arm='3']")
    assert group is not None
    assert group.findtext("title") == NASTY


def test_a_control_character_in_a_tip_leaves_the_picture_whole() -> None:
    group = ET.fromstring(_picture(label="a\u001bb\x00|c")).find(".//g[@data-arm='3']")
    assert group is not None
    assert group.findtext("title") == "a\ufffdb\ufffd|c"


def test_size_is_in_css_pixels() -> None:
    root = ET.fromstring(_picture())
    assert (root.get("viewBox"), root.get("width"), root.get("role")) == ("0 0 200 100", "200", "img")


def test_coordinates_have_at_most_two_decimals() -> None:
    paths = " ".join(element.get("d", "") for element in ET.fromstring(_picture()).iter())
    assert re.search(r"\d\.\d", paths)
    assert not re.search(r"\.\d{3}", paths)


def test_clean_makes_one_printable_line() -> None:
    assert clean("a\n b\tc\x00") == "a b c\N{REPLACEMENT CHARACTER}"
    assert clean("abcdef", longest=4) == "abc\N{HORIZONTAL ELLIPSIS}"
