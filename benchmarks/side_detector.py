"""mindvit's side: side_detector.py NAME HEIGHT WIDTH, one image of that size; of boxes the modes nms, roi_align and
roi_align_grad.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import mindspore
import numpy as np
from made_up_boxes import PROPOSED, SEEN, boxes_of, maps_of
from mindspore import Tensor, nn, ops
from side import Step, answers_only, serve

from mindvit.benchmark.network import NoImages, build, training
from mindvit.engine.setup import setup
from mindvit.layers.conv import FeatureLayout
from mindvit.layers.nms import NMS
from mindvit.layers.roi_align import RoIAlign, box_levels
from mindvit.recipe import schema
from mindvit.tasks import task_of
from mindvit.version import __version__

CLASSES = 80


class MapsSum(nn.Cell):
    """The sum of boxes' maps: boxes, their levels, the pyramid's maps."""

    def __init__(self, align: RoIAlign):
        super().__init__()
        self.align = align

    def construct(self, *inputs: Tensor) -> Tensor:
        return self.align(inputs[2:], inputs[0], inputs[1]).sum()


def of_boxes(mode: str, height: int, width: int) -> Step:
    """A step of suppression, RoIAlign or its gradient."""
    if mode == "nms":
        boxes = Tensor(boxes_of(sum(PROPOSED), height, width, 0)[None])
        groups = Tensor(np.repeat(np.arange(len(PROPOSED), dtype=np.float32), PROPOSED)[None])
        suppress = NMS(0.7, 1000)
        return lambda: suppress(boxes, groups)[0].asnumpy()
    layout, align = FeatureLayout(), RoIAlign(7, (4, 8, 16, 32))
    boxes = Tensor(boxes_of(SEEN, height, width, 1)[None])
    inputs = (boxes, box_levels(boxes, 4), *(layout.from_images(Tensor(x)) for x in maps_of(height, width, 256)))
    if mode == "roi_align":
        return lambda: align(inputs[2:], boxes, inputs[1])[0].asnumpy()
    gradient = ops.grad(MapsSum(align), (2, 3, 4, 5))
    return lambda: gradient(*inputs)[3].asnumpy()


def main(name: str, height: int, width: int) -> None:
    """Serve the step that train.py runs and the network as it is tested."""
    answers = answers_only()
    values = {"model": name, "batch_size": 1, "device_target": "CPU", "canvas": [height, width], "drop_path_rate": 0.0}
    ctx = setup(schema.build({**values, "dataset": "coco", "lr": 1e-4}, {}), NoImages(CLASSES))

    def make(mode: str) -> Step:
        if mode not in ("train", "forward"):
            return of_boxes(mode, height, width)
        if mode == "train":
            subject = training(ctx)
            subject.compile()
            return lambda: subject.step().asnumpy()
        net = build(ctx, task_of(ctx.recipe)).set_train(False)
        image = Tensor(np.random.default_rng(0).standard_normal((1, 3, height, width), np.float32))
        sizes = Tensor(np.array([[height, width]], np.float32))
        return lambda: net(image, sizes)[0].asnumpy()

    serve(answers, {"what": f"mindvit {__version__}, MindSpore {mindspore.__version__}"}, make)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
