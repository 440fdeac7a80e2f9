"""Pictures of segmentations: overlays with a legend, confusion matrices."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from mindvit.data.label_maps import overlaid, palette
from mindvit.visualization.attention_sheet import colours
from mindvit.visualization.confusion import draw_file, picture
from mindvit.visualization.overlay import MARGIN, legend, sheet


def test_colours_lie_over_the_image_but_for_class_0() -> None:
    image, labels = np.full((4, 6, 3), 100, np.uint8), np.zeros((4, 6), np.int32)
    labels[1], labels[2] = 3, 255
    found = overlaid(image, labels)
    assert (found[[0, 2, 3]] == 100).all()
    assert np.array_equal(found[1, 0], np.rint(100 * 0.45 + palette()[3] * 0.55))


def test_a_sheet_has_the_image_the_overlay_and_the_classes_that_are_there() -> None:
    image, labels = np.full((40, 60, 3), 100, np.uint8), np.zeros((40, 60), np.int32)
    labels[:10] = 2
    names = ("ground", "cat", "dog")
    assert legend(labels, names) == [(0, "ground", 0.75), (2, "dog", 0.25)]
    pixels = np.asarray(sheet(Image.fromarray(image), labels, names))
    width = 60 * 5  # enlarged to at least 256 px
    assert (pixels[MARGIN : MARGIN + 200, MARGIN : MARGIN + width] == 100).all()
    overlay = pixels[MARGIN : MARGIN + 200, 2 * MARGIN + width : 2 * MARGIN + 2 * width]
    assert np.array_equal(overlay[::5, ::5], overlaid(image, labels))
    swatches = {tuple(colour) for row in pixels[:, 3 * MARGIN + 2 * width :] for colour in row}
    assert tuple(palette()[2]) in swatches and tuple(palette()[1]) not in swatches


def test_a_confusion_matrix_is_coloured_by_the_share_of_its_row(tmp_path: Path) -> None:
    counts = np.array([[30, 10, 0], [0, 0, 0], [5, 0, 5]])
    with (tmp_path / "confusion.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["labelled", "a", "b", "c"], *([name, *row] for name, row in zip("abc", counts))])
    found = Image.open(draw_file(tmp_path / "confusion.csv"))
    assert np.array_equal(np.asarray(found), np.asarray(picture(counts, "abc")))
    corners = {tuple(int(value) for value in colours(np.array(share))) for share in (0.75, 0.25, 0.5, 0.0)}
    assert corners <= {tuple(colour) for row in np.asarray(found).tolist() for colour in row}
    assert max(picture(np.eye(150, dtype=int), list(map(str, range(150)))).size) < 1400
