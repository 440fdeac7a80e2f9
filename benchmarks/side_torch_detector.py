"""PyTorch's side: side_torch_detector.py NAME HEIGHT WIDTH, one image of that size; of boxes the modes nms, roi_align
and roi_align_grad. Run by PyTorch's own Python.
"""

from __future__ import annotations

import os
import sys

import torch
import torchvision
from made_up_boxes import PROPOSED, SEEN, boxes_of, maps_of
from side import Step, answers_only, serve
from torch_detectors import CLASSES, MaskRCNN, RoIHead, detector

OBJECTS = 8  # as mindvit's made-up batches have


def of_boxes(mode: str, height: int, width: int) -> Step:
    """A step of suppression, RoIAlign or its gradient."""
    if mode == "nms":
        boxes = torch.from_numpy(boxes_of(sum(PROPOSED), height, width, 0))
        scores = torch.arange(len(boxes), 0, -1).float()
        levels = torch.arange(len(PROPOSED)).repeat_interleave(torch.tensor(PROPOSED))
        return lambda: torchvision.ops.batched_nms(boxes, scores, levels, 0.7)[:1000]
    boxes = torch.from_numpy(boxes_of(SEEN, height, width, 1))
    maps = [torch.from_numpy(x) for x in maps_of(height, width, 256)]
    if mode == "roi_align":
        return lambda: RoIHead.maps_of(maps, boxes, 7)
    for x in maps:
        x.requires_grad_()
    return lambda: torch.autograd.grad(RoIHead.maps_of(maps, boxes, 7).sum(), maps)


def main(name: str, height: int, width: int) -> None:
    """Serve an AdamW step and the network as it is tested."""
    answers = answers_only()
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    image, sides = torch.randn(1, 3, height, width), torch.tensor([width, height])
    corners = (torch.rand(OBJECTS, 2, 2).sort(1)[0] * sides).flatten(1)
    objects = [corners, torch.randint(0, CLASSES, (OBJECTS,))]

    def make(mode: str) -> Step:
        if mode not in ("train", "forward"):
            return of_boxes(mode, height, width)
        net = detector(name).train(mode == "train")
        if mode == "forward":

            def forward() -> None:
                with torch.inference_mode():
                    net(image)

            return forward
        if isinstance(net, MaskRCNN):
            objects[2:] = [(torch.rand(OBJECTS, height, width) < 0.5).float()]
        optimizer = torch.optim.AdamW(net.parameters(), 1e-4, weight_decay=1e-4)

        def train() -> None:
            optimizer.zero_grad()
            loss = net.loss(image, *objects)
            loss.backward()
            optimizer.step()
            loss.item()

        return train

    what = f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}, eager"
    serve(answers, {"what": what}, make)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
