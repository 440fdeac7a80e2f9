"""Grad-CAM: its gradients by hand and by differences, its maps on the networks' grids, and a slide."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image
from small import SMALL, inputs_of, small

from mindvit.errors import UserError
from mindvit.visualization.attention import AttentionMap, uncompiled
from mindvit.visualization.gradcam import FAMILIES, Probe, grad_cam, gradients
from mindvit.visualization.slide import HEIGHT, WIDTH, slide

SIDE = {"crossvit": 60, "cvt": 64, "crossformer": 64, "xcit": 64}  # px: grids of some tokens
CELLS = {
    "crossvit": ["blocks.2.blocks.0.0", "blocks.2.blocks.1.0"],
    "cvt": ["stage2.blocks.0"],
    "crossformer": ["layers.3.blocks.0"],
    "xcit": ["blocks.1"],
}
GRIDS = {"crossvit": [(5, 5), (5, 5), (4, 4)], "cvt": [(4, 4)], "crossformer": [(2, 2)], "xcit": [(4, 4)]}


def network(family: str) -> Any:
    net = small(family, **({"img_size": (60, 64)} if family == "crossvit" else {})).set_train(False)
    rng = np.random.default_rng(5)
    for item in net.get_parameters():  # larger than at the start of a training, so that gradients stand out of rounding
        if item.ndim > 1 and not item.name.startswith("stage"):
            item.set_data(Tensor(item.asnumpy() + 0.05 * rng.standard_normal(item.shape).astype(np.float32)))
    return net


def noise(family: str) -> Tensor:
    return Tensor(np.random.default_rng(3).standard_normal((1, 3, SIDE[family], SIDE[family])).astype(np.float32))


def test_by_hand_where_the_mean_of_normalised_tokens_is_classified() -> None:
    """CrossFormer's end in numpy: LayerNorm, mean over the tokens, one row of the classifier; and its gradient."""
    net, x = network("crossformer"), noise("crossformer")
    logits, [(tokens, slopes)] = gradients(net, x, CELLS["crossformer"], 2)
    count, channels = tokens.shape
    scale, shift = net.norm.weight.asnumpy(), net.norm.bias.asnumpy()
    spread = np.sqrt(tokens.var(1, keepdims=True) + 1e-5)
    normed = (tokens - tokens.mean(1, keepdims=True)) / spread
    row = net.head.weight.asnumpy()[2]
    assert logits[2] == pytest.approx(
        float((normed * scale + shift).mean(0) @ row + net.head.bias.asnumpy()[2]), abs=1e-5
    )
    above = row * scale / count
    by_hand = (above - above.mean() - normed * (normed @ above)[:, None] / channels) / spread
    np.testing.assert_allclose(slopes, by_hand, atol=1e-6)
    found = np.maximum(tokens @ by_hand.mean(0), 0)
    cam = grad_cam(net, x, 2)[1][0]
    np.testing.assert_allclose(cam.values.ravel(), found / found.sum(), atol=1e-5)


@pytest.mark.parametrize("family", SMALL)
def test_gradients_are_differences_and_maps_lie_on_the_grids(family: str) -> None:
    net, x = network(family), noise(family)
    logits, found = gradients(net, x, CELLS[family], 1)
    rng, step = np.random.default_rng(0), 1e-2
    with uncompiled(net):
        probe = Probe(net, CELLS[family])
        for place, (values, slopes) in enumerate(found):
            way = rng.standard_normal(values.shape).astype(np.float32)
            either = []
            for sign in (step, -step):
                added = [np.zeros_like(item) for item, _ in found]
                added[place] = sign * way
                either.append(float(probe.logit(x, 1, [Tensor(item) for item in added]).asnumpy()))
            expected = float((slopes * way).sum())
            assert (either[0] - either[1]) / (2 * step) == pytest.approx(expected, rel=0.02, abs=2e-4)
        probe.remove()
        np.testing.assert_allclose(net(x).asnumpy()[0], logits, atol=1e-6)  # nothing of the probe is left
    assert ms.get_context("mode") == ms.GRAPH_MODE
    maps = grad_cam(net, x)[1]
    assert [item.values.shape[1:] for item in maps] == GRIDS[family]
    for item in maps:
        assert item.values.min() >= 0 and item.values.sum() == pytest.approx(1, abs=1e-5)
        assert 0 < item.first[0] < SIDE[family] and item.title


def test_every_family_has_a_place() -> None:
    assert {type(small(family)) for family in SMALL} == set(FAMILIES)
    net = small("cvt", depth=(1, 1, 1))
    assert FAMILIES[type(net)](net, (64, 64))[0].cell == "stage2.pos_drop"
    with pytest.raises(UserError, match="one image at a time"):
        grad_cam(small("xcit"), inputs_of("xcit"))


def test_a_slide_of_long_names_leaves_its_edges_free() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    item = AttentionMap("", np.eye(4)[None], (8.0, 8.0), (16.0, 16.0))
    for name in ("7", "a long name " * 9, "one" * 99):
        made = slide(image, item, (name, 1.0), "file " * 99, "Grad-CAM " * 99 + "\nnetwork")
        ink = np.asarray(made.convert("L")) < 250
        assert made.size == (WIDTH, HEIGHT)
        assert not (ink[:40].any() or ink[-40:].any() or ink[:, :40].any() or ink[:, -40:].any())
