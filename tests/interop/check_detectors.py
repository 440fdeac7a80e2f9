"""The PyTorch detectors that mindvit is measured beside find what mmdetection finds: check_detectors.py. PyTorch's own
Python runs it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "goldens"), str(HERE.parent.parent / "benchmarks")]

import fill  # noqa: E402
import torch_detectors  # noqa: E402

BOX, SCORE = 3e-3, 3e-5  # px; test_detection.py's
# what the goldens do to filled weights: the end of a name, scale, shift
CHANGES = {
    "retinanet": {
        "bbox_head.retina_cls.weight": (2, 0),
        "bbox_head.retina_cls.bias": (1, -10),
        "bbox_head.retina_reg.weight": (0.25, 0),
    },
    "mask_rcnn": {
        "rpn_head.rpn_conv.weight": (1.12, 0),
        "rpn_head.rpn_cls.weight": (0.5, 0),
        "rpn_head.rpn_cls.bias": (1, -2),
        "rpn_head.rpn_reg.weight": (0.04, 0),
        "fc_reg.weight": (0.5, 0),
    },
}


def filled(method: str) -> torch.nn.Module:
    """With the goldens' weights, and as few proposals as they have."""
    net = (
        torch_detectors.RetinaNet("small")
        if method == "retinanet"
        else torch_detectors.MaskRCNN("small", (100, 100), 170)
    )
    state = net.state_dict()
    for key, value in state.items():
        found = fill.fill(key.replace("backbone.", ""), tuple(value.shape))
        for ending, (scale, shift) in CHANGES[method].items():
            if key.endswith(ending):
                found = found * np.float32(scale) + np.float32(shift)
        state[key] = torch.from_numpy(found)
    net.load_state_dict(state)
    return net.eval()


def main() -> None:
    """Print the largest deviation of each network's detections; 1 beyond the tolerance."""
    golden = np.load(HERE.parent / "goldens" / "detection_inference.npz")
    for method in torch_detectors.METHODS:
        true, own = golden[f"{method}/0/true_size"], golden[f"{method}/0/ori_size"]
        image = fill.image(1, (224, 320))
        image[:, :, true[0] :] = image[:, :, :, true[1] :] = 0
        net = filled(method)
        net.image_size = tuple(int(side) for side in true)
        with torch.inference_mode():
            boxes, scores, labels = (item.numpy() for item in net(torch.from_numpy(image))[:3])
        boxes = boxes / np.tile((true / own).astype(np.float32)[::-1], 2)
        wanted = golden[f"{method}/0/dets"]
        far = np.abs(boxes[None] - wanted[:, None, :4]).max(2) + 1e6 * (
            labels[None] != golden[f"{method}/0/labels"][:, None]
        )
        order = far.argmin(1)
        worst = float(far[np.arange(100), order].max()), float(np.abs(scores[order] - wanted[:, 4]).max())
        print(f"{method}: boxes {worst[0]:.1e} px, scores {worst[1]:.1e}")
        if worst[0] > BOX or worst[1] > SCORE:
            sys.exit(f"{method} differs from mmdetection's")


if __name__ == "__main__":
    main()
