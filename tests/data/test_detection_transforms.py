"""Images together with their objects, beside mmdetection's pipeline."""

from __future__ import annotations

import numpy as np
import pytest
from dense_goldens import sampled, unpacked
from golden import FOLDER

from mindvit.data.datasets.scene_objects import SceneObjects
from mindvit.data.objects import Objects
from mindvit.data.transforms.dense import fit_within
from mindvit.data.transforms.detection import DetectionTransform
from mindvit.tasks.detection.inference import TestScale

GOLDEN = np.load(FOLDER / "detection_data.npz")


def test_sizes() -> None:
    for height, width, *wanted in GOLDEN["det/sizes"][:, :4].tolist():
        assert list(fit_within((height, width), (1333, 800))) == wanted
    sizes = GOLDEN["det/sizes"].astype(np.float32)
    factors = np.stack([sizes[:, 3] / sizes[:, 1], sizes[:, 2] / sizes[:, 0]] * 2, 1)
    assert np.array_equal(factors, GOLDEN["det/scale_factor"])


@pytest.mark.parametrize("case", ["0", "1", "2", "3", "4"])
def test_images_boxes_and_masks(case: str) -> None:
    def golden(name: str) -> np.ndarray:
        return GOLDEN[f"det/{case}/{name}"]

    image = golden("image")[:, :, ::-1]
    count = len(golden("boxes_in"))
    masks = unpacked(golden("mask_bits_in"), (count, *image.shape[:2])).astype(bool)
    objects = Objects(golden("boxes_in"), np.arange(count, dtype=np.int32), masks, np.zeros(count, bool))
    height, width = (int(side) for side in golden("pad_shape")[:2])
    transform = DetectionTransform([(90, 60)], [(height, width)], 6, float(golden("flip")))
    pixels, size, boxes, labels, packed = transform(image, objects, np.random.default_rng(0))
    assert size.tolist() == golden("img_shape")[:2].tolist()
    assert np.allclose(np.tile((size / image.shape[:2])[::-1], 2), golden("scale_factor"))
    resized = golden("resized")[:, :, ::-1]
    expected = resized[:, ::-1] if golden("flip") else resized
    assert np.array_equal(pixels[: size[0], : size[1]], expected)
    assert pixels[size[0] :].max(initial=0) == 0 and pixels[:, size[1] :].max(initial=0) == 0
    assert np.allclose(boxes[:count], golden("boxes"), atol=1e-4)
    assert labels.tolist() == [*range(count), *[-1] * (6 - count)]
    assert packed is not None
    found = np.unpackbits(packed, axis=2).astype(bool)
    assert np.array_equal(found[:count], unpacked(golden("mask_bits"), (count, height, width)).astype(bool))
    assert found[:count].sum((1, 2)).tolist() == golden("mask_area").tolist()
    seen = TestScale(None, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).normalized(pixels[: size[0], : size[1]])
    assert list(seen.shape) == golden("network_input/shape").tolist()
    assert sampled(seen, GOLDEN, f"det/{case}/network_input") < 1e-6


def test_the_largest_objects_are_kept_and_crowds_left_out() -> None:
    boxes = np.array([[0, 0, 4, 4], [0, 0, 9, 9], [2, 2, 2, 8], [1, 1, 8, 8], [0, 0, 16, 16]], np.float32)
    objects = Objects(boxes, np.arange(5, dtype=np.int32), None, np.arange(5) == 4)
    transform = DetectionTransform([(16, 16)], [(32, 32)], 2)
    _, _, found, labels, masks = transform(np.zeros((16, 16, 3), np.uint8), objects, np.random.default_rng(0))
    assert labels.tolist() == [1, 3]
    assert np.array_equal(found, boxes[[1, 3]])
    assert masks is None


def test_images_larger_than_the_canvas_are_fitted() -> None:
    transform = DetectionTransform([(64, 64)], [(32, 64)], 1)
    assert transform.size((100, 50), (64, 64), (32, 64)) == (32, 16)
    assert transform.size((50, 100), (64, 64), (32, 64)) == (32, 64)


def test_scenes() -> None:
    sample = SceneObjects("val")[3]
    objects = sample.target
    assert SceneObjects("val").class_names == tuple("0123456789")
    assert objects.masks.shape == (len(objects.labels), sample.image.height, sample.image.width)
    for box, mask in zip(objects.boxes, objects.masks):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
