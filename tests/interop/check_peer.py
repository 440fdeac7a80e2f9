"""The PyTorch segmentors that mindvit is measured beside give mmsegmentation's logits: check_peer.py. PyTorch's own
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
import torch_segmentors  # noqa: E402

HEIGHT, WIDTH = 224, 320
NETWORKS = {"fpn": "semantic_fpn_crossformer_small", "upernet": "upernet_crossformer_small"}
TOLERANCE = {"fpn": 3e-4, "upernet": 1e-4}  # of logits: test_segmentation.py's


def filled(name: str) -> torch_segmentors.Segmentor:
    """With the goldens' weights."""
    net = torch_segmentors.segmentor(name).eval()
    state = net.state_dict()
    for key, value in state.items():
        if value.ndim:  # no counter
            state[key] = torch.from_numpy(fill.fill(key.replace("backbone.", ""), tuple(value.shape)))
    net.load_state_dict(state)
    return net


def main() -> None:
    """Print the largest deviation of each network; 1 beyond the tolerance."""
    golden = np.load(HERE.parent / "goldens" / "segmentation.npz")
    for short, name in NETWORKS.items():
        with torch.inference_mode():
            found = filled(name).heads(torch.from_numpy(fill.image(2, (HEIGHT, WIDTH))))
        places = golden[f"eval/{short}/logits/idx"]
        wanted = golden[f"eval/{short}/logits/val"][places >= 0]
        worst = float(np.abs(found[0].numpy().ravel()[places[places >= 0]] - wanted).max())
        print(f"{name}: {worst:.1e} of {TOLERANCE[short]:.1e}")
        if worst > TOLERANCE[short]:
            sys.exit(f"{name} differs from mmsegmentation's")


if __name__ == "__main__":
    main()
