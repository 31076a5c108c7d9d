"""Colours: enough contrast on both papers, and one style per arm."""

import pytest

from normscope.report.drawing.palette import DARK, LIGHT, ArmStyle, arm_styles, stand_in, stand_ins, style_sheet


def _luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks(palette: dict[str, str]) -> None:
    grounds = {"ink": ("paper", "raised", "band", "fail-soft", "warn-soft"), "muted": ("paper", "raised", "warn-soft")}
    grounds |= {"accent": ("paper", "raised"), "fail": ("paper", "fail-soft")}
    for text, papers in grounds.items():
        for paper in papers:
            # WCAG 2.2, 1.4.3: 4.5 to 1 for text.
            assert _contrast(palette[text], palette[paper]) >= 4.5, (text, paper)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_marks_have_the_contrast_that_wcag_asks(palette: dict[str, str]) -> None:
    for name in palette:
        if name.startswith("arm-"):
            # WCAG 2.2, 1.4.11: 3 to 1 for graphics.
            assert _contrast(palette[name], palette["paper"]) >= 3, name


def test_both_palettes_name_the_same_colours() -> None:
    assert list(LIGHT) == list(DARK)
    assert style_sheet().count("--arm-3:") == 2


def test_no_two_of_many_arms_look_alike() -> None:
    labels = [f"arm {place}" for place in range(57)]
    table = arm_styles(labels, "arm 5")
    assert table["arm 5"].index == 0
    assert len({(style.token, style.marker) for style in table.values()}) == 57
    assert len({style.index for style in table.values()}) == 57


def test_a_style_does_not_change_when_the_baseline_stands_elsewhere_in_the_list() -> None:
    assert arm_styles(["a", "b", "c"], "a")["c"] == arm_styles(["b", "c", "a"], "a")["c"]


def test_baseline_must_be_an_arm() -> None:
    with pytest.raises(ValueError, match=r"baseline 'z' is not among the arms \['a'\]"):
        arm_styles(["a"], "z")


def test_stand_ins_are_distinct_and_known() -> None:
    assert len(stand_ins()) == len(LIGHT)
    with pytest.raises(KeyError, match="no colour is called 'pink'"):
        stand_in("pink")


def test_the_baseline_has_the_colour_of_the_ink() -> None:
    styles = arm_styles(["rms_norm", "layer_norm"], "layer_norm")
    assert all(isinstance(style, ArmStyle) for style in styles.values())
    assert (styles["layer_norm"].index, styles["layer_norm"].token) == (0, "ink")
    assert styles["rms_norm"].token == "arm-1"
