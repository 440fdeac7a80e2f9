"""Detectors beside the same networks in PyTorch, on this machine: one image, float32, in turn, in one run.

python benchmarks/compare_detectors.py --torch_python VENV/bin/python [--models retinanet_crossformer_small ...]
[--modes train forward] [--size 800 1344] [--rounds 3]

--modes nms roi_align roi_align_grad are of boxes alone: 8,819 in five groups; maps of 512; with the gradient too.

PyTorch and torchvision are in an environment of their own. The share of the peak is of the multiply-adds that the
network's entry counts at 800 x 1280 px, times the size's area over that, three times for a training step.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from compare import Figures, in_turn, ratio, started  # noqa: E402

MODELS = ("retinanet_crossformer_small", "mask_rcnn_crossformer_small")


def main() -> None:
    """Print a row for each network and mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch_python", required=True)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--modes", nargs="+", default=("train", "forward"))
    parser.add_argument("--size", nargs=2, default=("800", "1344"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1)
    given = parser.parse_args()
    from mindvit.models import dense_info

    sides = {"mindvit": (sys.executable, "side_detector.py"), "torch": (given.torch_python, "side_torch_detector.py")}
    for model in given.models:
        info = dense_info(model)
        area = int(given.size[0]) * int(given.size[1]) / (info.macs_size[0] * info.macs_size[1])
        for mode in given.modes:
            found = {name: Figures() for name in sides}
            commands = {name: [python, str(HERE / file), model, *given.size] for name, (python, file) in sides.items()}
            with started(commands, os.environ, found) as running:
                in_turn(running, mode, found, rounds=given.rounds, steps=given.steps)
            for name, item in found.items():
                if item.ms is None:
                    print(f"{model} {mode} {name}: {item.error}", flush=True)
                    continue
                times = {"train": 3, "forward": 1}.get(mode, 0)
                speed = f"{2e-9 * info.macs * area * times / (item.ms / 1000):.0f} GFLOP/s, " if times else ""
                print(
                    f"{model} {mode} {name} ({item.what}): {item.ms:.1f} ms, {speed}{item.peak:.1f} GiB, "
                    f"compiled in {item.compile:.0f} s",
                    flush=True,
                )
            print(f"{model} {mode}: {ratio(found['mindvit'], found['torch']) or float('nan'):.2f} x", flush=True)


if __name__ == "__main__":
    main()
