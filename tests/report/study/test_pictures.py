"""Pictures of runs on the page of a study: their pixels, boxes and strokes, and which runs are shown."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from normscope.report import write_report
from normscope.report.drawing.palette import DARK, arm_styles
from normscope.report.study.folder import read_study
from normscope.report.study.pictures import draw_picture
from normscope.results.pictures import Picture, pack
from normscope.results.store import StudyFolder

STYLES = arm_styles(["base", "other"], "base")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), np.uint8)


def test_pixels_are_those_of_the_images_and_gaps_are_clear() -> None:
    from matplotlib.image import imread

    svg = draw_picture(Picture("c <i>", "images", IMAGES), STYLES["other"], name="p")
    content = base64.b64decode(re.findall(r'href="data:image/png;base64,([^"]*)"', svg)[0])
    pixels = imread(io.BytesIO(content), format="png")
    assert 'viewBox="0 0 19 10" width="38" height="20"' in svg
    assert pixels.shape == (10, 19, 4)
    for row in range(2):
        for column in range(3):
            cell = pixels[6 * row : 6 * row + 4, 7 * column : 7 * column + 5]
            np.testing.assert_allclose(cell[..., 0] * 255, IMAGES[row, column], atol=1e-3)
            assert (cell[..., 3] == 1).all()
    assert pixels[..., 3].sum() == IMAGES.size
    assert '<title id="p-title">c &lt;i&gt;</title>' in svg


def test_boxes_stand_in_their_image_in_the_colour_of_the_arm() -> None:
    boxes = np.full((2, 3, 2, 4), np.nan, np.float32)
    boxes[1, 2, 0] = 0.5, -3, 2, 9.25
    drawn = {label: draw_picture(Picture("c", "images", IMAGES, boxes), STYLES[label], name="p") for label in STYLES}
    assert '<svg x="14" y="6" width="5" height="4"' in drawn["other"]
    assert drawn["other"].count("<rect") == 1
    assert '<rect x="0.5" y="-3.0" width="2.0" height="9.2"/>' in drawn["other"]
    assert f'stroke="{DARK["arm-1"]}"' in drawn["other"]
    assert f'stroke="{DARK["accent"]}"' in drawn["base"]


def test_strokes_follow_the_offsets_and_lift_the_pen() -> None:
    strokes = np.array([[[0, 0, 0], [10, 0, 1], [0, 10, 0], [-10, 0, 0]], [[0, 0, 0], *[[np.nan] * 3] * 3]], np.float32)
    svg = draw_picture(Picture("c", "strokes", strokes), STYLES["base"], name="p")
    path = re.findall(r'<path d="([^"]*)"', svg)[0]
    # A square of ten, 160 pixels high: two points, the pen is lifted, two points more; then a single point.
    assert path == "M6.0 6.0L166.0 6.0M166.0 166.0L6.0 166.0M366.0 6.0"
    assert 'stroke="var(--ink)"' in svg
    empty = np.full((1, 2, 3), np.nan, np.float32)
    assert '<path d=""' in draw_picture(Picture("c", "strokes", empty), STYLES["base"], name="p")


@pytest.fixture
def study(make_study: Callable, recipe: type, tmp_path: Path) -> StudyFolder:
    folder = StudyFolder(make_study(tmp_path / "study", recipe(arms=2, seeds=3, evaluations=4)))
    summary = json.loads(folder.summary.read_text())
    for arm in summary["arms"]:
        for run in arm["runs"]:
            caption = f"seed {run['seed']}"
            folder.run(run["id"]).pictures.write_bytes(pack([Picture(caption, "images", IMAGES)] * 2))
    return folder


def test_the_first_seed_of_every_arm_is_shown(study: StudyFolder) -> None:
    runs = read_study(study.path).runs
    assert [(run.seed, len(run.pictures)) for run in runs if run.pictures] == [(0, 2), (0, 2)]
    page = write_report(study.path).read_text()
    assert page.count("<h3>seed 0</h3>") == 1
    assert "seed 1</h3>" not in page
    assert page.count("data:image/png") == 4
    assert page.count('<a href="#pictures">') == 1
    ids = re.findall(r' id="(picture-[^"]*)"', page)
    assert len(set(ids)) == len(ids) == 8
    assert "img-src data:" in page


def test_a_study_without_pictures_has_no_such_part(whole_page: str) -> None:
    assert "#pictures" not in whole_page


def test_damaged_pictures_are_named(study: StudyFolder) -> None:
    run = json.loads(study.summary.read_text())["arms"][0]["runs"][0]
    study.run(run["id"]).pictures.write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"pictures\.npz does not hold the pictures of a run"):
        write_report(study.path)
