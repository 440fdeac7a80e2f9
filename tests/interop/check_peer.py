"""The PyTorch networks that mindvit is measured beside give the authors' and mmsegmentation's logits: check_peer.py.
PyTorch's own Python runs it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "goldens"), str(HERE.parent.parent / "benchmarks")]

import fill  # noqa: E402
import torch_crossformer  # noqa: E402

HEIGHT, WIDTH = 224, 320
NETWORKS = {"fpn": "semantic_fpn_crossformer_small", "upernet": "upernet_crossformer_small"}
CLASSIFIER = "crossformer_tiny"
TOLERANCE = {"fpn": 3e-4, "upernet": 1e-4, CLASSIFIER: 1e-4}  # of logits: test_segmentation.py's, test_goldens.py's


def filled(name: str) -> torch.nn.Module:
    """With the goldens' weights."""
    net = torch_crossformer.network(name).eval()
    state = net.state_dict()
    for key, value in state.items():
        if value.ndim:  # no counter
            state[key] = torch.from_numpy(fill.fill(key.replace("backbone.", ""), tuple(value.shape)))
    net.load_state_dict(state)
    return net


def segmentor_logits(short: str) -> tuple[np.ndarray, np.ndarray]:
    """Those of the decode head at the golden's places, and mmsegmentation's."""
    golden = np.load(HERE.parent / "goldens" / "segmentation.npz")
    found = filled(NETWORKS[short]).heads(torch.from_numpy(fill.image(2, (HEIGHT, WIDTH))))[0].numpy()
    places = golden[f"eval/{short}/logits/idx"]
    return found.ravel()[places[places >= 0]], golden[f"eval/{short}/logits/val"][places >= 0]


def classifier_logits() -> tuple[np.ndarray, np.ndarray]:
    """Ours and the authors'."""
    golden = np.load(HERE.parent / "goldens" / f"{CLASSIFIER}.npz")
    return filled(CLASSIFIER)(torch.from_numpy(fill.image(2, tuple(golden["input_size"])))).numpy(), golden["logits"]


def main() -> None:
    """Print the largest deviation of each network; 1 beyond the tolerance."""
    with torch.inference_mode():
        every = {**{short: segmentor_logits(short) for short in NETWORKS}, CLASSIFIER: classifier_logits()}
    for name, (found, wanted) in every.items():
        worst = float(np.abs(found - wanted).max())
        print(f"{name}: {worst:.1e} of {TOLERANCE[name]:.1e}")
        if worst > TOLERANCE[name]:
            sys.exit(f"{name} differs from the reference")


if __name__ == "__main__":
    main()
