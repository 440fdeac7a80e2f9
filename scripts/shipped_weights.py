"""Train the backbone of detection's quick start on scenes: python scripts/shipped_weights.py FOLDER

FOLDER gets windows of training scenes, each around a digit and named by its class alone, and the run: a small XCiT
learns to tell the ten classes, with train.py's own command line. Its blocks, in half precision, are written to
mindvit/hub/weights/xcit_digits.safetensors, from which configs/quickstart/detection_scenes.yaml starts. The digits
are those that train everything else here; none of the validation's is among them. (shipped_patches.py makes
segmentation's.)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

import numpy as np
from mindspore import Tensor
from PIL import Image
from safetensors.numpy import save_file

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from mindvit import errors  # noqa: E402
from mindvit.cli import train  # noqa: E402
from mindvit.data.datasets.scenes import ScenesDataset  # noqa: E402
from mindvit.hub.shipped import FOLDER, SUFFIX  # noqa: E402
from mindvit.models.info import ModelInfo  # noqa: E402
from mindvit.models.registry import Entry, register  # noqa: E402
from mindvit.models.xcit import XCiT  # noqa: E402
from mindvit.weights.readers import read  # noqa: E402

NAME = "xcit_digits"
WINDOW, SIDE = 88, 80  # px: of a window, and of what the network sees; the tallest digits have 80
COUNTS = {"train": 22000, "val": 400}  # windows
TURN, SHEAR = 10.0, 0.15  # degrees and a share, the most that a training window is turned and slanted
CONFIG: dict[str, Any] = {
    "patch_size": 8,
    "embed_dim": 96,
    "depth": 4,
    "num_heads": 4,
    "mlp_ratio": 4,
    "eta": 1.0,
    "tokens_norm": False,
}
EDGE = 2  # patches at each side that don't count
CLASSIFIER = ("cls_", "norm.", "head.")  # what no backbone needs begins so
EPOCHS = 4
OPTIONS = (
    f"--model {NAME} --distribute False --image_resize {SIDE} --scale [0.65,1.0] --ratio [0.8,1.25] --hflip 0 "
    f"--label_smoothing 0.1 --batch_size 32 --epoch_size {EPOCHS} --lr 2e-3 --betas [0.9,0.99] "
    "--scheduler warmup_cosine_decay --warmup_epochs 0 --warmup_steps 100 --val_interval 2 --ckpt_save_interval 2 "
    "--log_interval 50 --resume none"
)


def window(image: Image.Image, box: np.ndarray, rng: Optional[np.random.Generator]) -> Image.Image:
    """WINDOW px around a digit, turned and slanted if there is an rng; beyond the image lies its mean colour."""
    turn, slant = (0.0, 0.0) if rng is None else (np.radians(rng.uniform(-TURN, TURN)), rng.uniform(-SHEAR, SHEAR))
    across = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array([[1, slant], [0, 1]])
    middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    start = middle - across @ np.full(2, WINDOW / 2)
    mean = tuple(int(value) for value in np.asarray(image).reshape(-1, 3).mean(0))
    place = (*across[0], start[0], *across[1], start[1])
    return image.transform((WINDOW, WINDOW), Image.Transform.AFFINE, place, Image.Resampling.BILINEAR, fillcolor=mean)


def draw(folder: Path, split: str) -> None:
    """The windows of a split, a folder a class."""
    data, written = ScenesDataset(split), 0
    rng = np.random.default_rng(0) if split == "train" else None
    for index in range(len(data)):
        pixels, scene = data.draw(index)
        for label, box in zip(scene.classes, scene.boxes):
            place = folder / split / str(label - 1)
            place.mkdir(parents=True, exist_ok=True)
            found = window(Image.fromarray(pixels), box, rng)
            found.save(place / f"{index}_{written}.png", compress_level=1)
            written += 1
        if written >= COUNTS[split]:
            return


class MiddleXCiT(XCiT):
    """An XCiT that tells an image's class by the mean of its middle patches, so that these know what they are part of:
    what a pixel's class needs. (Class attention finds the class by itself, whatever a patch knows.)
    """

    def forward_features(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> Tensor:
        """(B, 3, SIDE, SIDE) -> the normalized mean (B, C)."""
        patches = SIDE // self.patch_size
        tokens = self.after_blocks(x, drop_path_scale)[-1].reshape(x.shape[0], patches, patches, -1)
        return self.norm(tokens[:, EDGE : patches - EDGE, EDGE : patches - EDGE].mean((1, 2)))


def make_known() -> None:
    """Register the network, so that a recipe can ask for it by its name."""
    info = ModelInfo(
        name=NAME,
        family="xcit",
        params=0,
        macs=0,
        input_size=SIDE,
        crop_pct=1.0,
        acc1=0.0,
        acc5=None,
        accuracy_source="not published",
        paper="https://arxiv.org/abs/2106.09681",
        source="this script",
        drop_path_rate=0.0,
    )
    register(Entry(info, MiddleXCiT, CONFIG))


def write(arrays: Mapping[str, np.ndarray], name: str) -> Path:
    """The backbone's weights among a classifier's, in half precision, for the package."""
    kept = {key: value.astype(np.float16) for key, value in arrays.items() if not key.startswith(CLASSIFIER)}
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}{SUFFIX}"
    save_file(kept, str(path))
    return path


def main(arguments: Sequence[str]) -> None:
    """Draw, train, write."""
    if len(arguments) != 1:
        raise errors.UserError(str(__doc__).splitlines()[0])
    folder = Path(arguments[0])
    for split in COUNTS:
        draw(folder / "windows", split)
    make_known()
    run = folder / "run"
    train.main(["--data_dir", str(folder / "windows"), "--ckpt_save_dir", str(run), *OPTIONS.split()])
    print(write(read(str(run / f"{NAME}-{EPOCHS}.ckpt")).arrays, NAME))


if __name__ == "__main__":
    errors.run(main)
