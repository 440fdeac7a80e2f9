"""How attention maps are drawn: where values stand, how grids are added, and which colours they take."""

from __future__ import annotations

import numpy as np
import pytest

from mindvit.visualization import attention_sheet
from mindvit.visualization.attention import AttentionMap
from mindvit.visualization.grids import Grid, together


def test_values_stand_at_the_centres_of_their_keys() -> None:
    values = np.zeros((1, 4, 4), np.float32)
    values[0, 1, 2] = 1
    drawn = attention_sheet.spread(AttentionMap("", values, (8.0, 8.0), (32.0, 32.0)), (128, 128), 128)
    assert np.unravel_index(drawn.argmax(), drawn.shape) in {(39, 71), (40, 72), (39, 72), (40, 71)}
    assert drawn[40, 72 + 16] == pytest.approx(0.5, abs=0.03) and drawn[40, 127] == 0
    partly = np.where(np.eye(4) > 0, 1.0, np.nan)[None]
    drawn = attention_sheet.spread(AttentionMap("", partly, (16.0, 16.0), (32.0, 32.0)), (128, 128), 128)
    assert np.isfinite(drawn).sum() == 4 * 32 * 32 and np.isfinite(drawn[0, :32]).all()


def test_maps_of_two_grids_are_added_by_area() -> None:
    fine, coarse = Grid((4, 4), (4.0, 4.0), (8.0, 8.0)), Grid((2, 2), (8.0, 8.0), (16.0, 16.0))
    even = together([fine, coarse], [np.full((4, 4), 0.5 / 16), np.full((2, 2), 0.5 / 4)], (32, 32))
    np.testing.assert_allclose(even, 1 / 16)
    corner = together([fine, coarse], [np.zeros((4, 4)), np.array([[1.0, 0], [0, 0]])], (32, 32))
    assert corner[0, 0] == pytest.approx(1 / 4) and corner.argmax() == 0 and corner[:, 3].max() == 0


def test_an_even_map_looks_even_and_a_sharp_one_takes_all_colours() -> None:
    noise = np.random.default_rng(0).random((1, 8, 8))
    nearly, sharp = (AttentionMap("", 1 / 64 + share * noise, (4.0, 4.0), (8.0, 8.0)) for share in (1e-4, 1.0))
    for item, most in ((nearly, 0.02), (sharp, 1.0)):
        colour = attention_sheet.scaled(item.values, *attention_sheet.shown(item))
        assert np.ptp(colour) <= most + 1e-6 and abs(colour.mean() - 0.5) < 0.1
    assert attention_sheet.shown(sharp) == attention_sheet.limits(sharp)


def test_colours_grow_lighter() -> None:
    shades = attention_sheet.colours(np.linspace(0, 1, 50)) @ [0.299, 0.587, 0.114]
    assert (np.diff(shades) > 0).all() and shades[0] < 40 and shades[-1] > 210
