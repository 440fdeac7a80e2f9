"""Write the files that users have, by the libraries that write them: python write_files.py FOLDER.

In an environment with torch, timm, transformers and paddle: requirements-interop.txt.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from oracle import DETECTORS, PAIRS, filling, names
from safetensors.torch import save_file

PADDLE = {
    "crossvit_9": "crossvit_9_224",
    "crossvit_tiny": "crossvit_tiny_224",
    "cvt_13_224": "cvt-13-224x224",
    "cvt_21_224": "cvt-21-224x224",
}
CVT = {"cvt_13_224": [1, 2, 10], "cvt_21_224": [1, 4, 16]}  # transformers' blocks a stage; all else are its defaults


def tensors(shapes: dict[str, tuple[int, ...]], table: str = "") -> dict[str, torch.Tensor]:
    """The filling for a state dict; counters are 0."""
    values = {name: filling(name, shape, table) for name, shape in shapes.items()}
    return {
        name: torch.zeros(shapes[name], dtype=torch.int64) if value is None else torch.from_numpy(value)
        for name, value in values.items()
    }


def fill_module(module: torch.nn.Module, table: str) -> torch.nn.Module:
    """The same for a library's own network, strictly."""
    module.load_state_dict(
        tensors({name: tuple(value.shape) for name, value in module.state_dict().items()}, table), strict=True
    )
    return module.eval()


def official(folder: Path) -> None:
    """Authors' releases: bare, and in the wrappers of their training scripts; today's format and the old one."""
    for family, (first, second) in PAIRS.items():
        state = tensors(names("official", first))
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))], lr=1e-3)
        wrapped = {
            "model": state,
            "optimizer": optimizer.state_dict(),
            "epoch": 3,
            "max_accuracy": np.float64(81.5),
            "args": argparse.Namespace(lr=1e-3),
            "model_ema": {name: value.half() for name, value in state.items()},
        }
        torch.save(wrapped, folder / f"official-{first}-model.pth")
        torch.save(
            {"state_dict": {f"module.{name}": value for name, value in state.items()}},
            folder / f"official-{first}-parallel.pth",
            _use_new_zipfile_serialization=False,
        )
        bare = tensors(
            names("official", f"{second}@iclr" if family == "crossformer" else second)
        )  # with the tables that 2021's code saved
        torch.save(bare, folder / f"official-{second}-bare.pth")


def timm_models(folder: Path) -> None:
    """timm's own networks."""
    import timm

    for family in ("crossvit", "xcit"):
        for name in PAIRS[family]:
            net = fill_module(timm.create_model(f"{name}_240" if family == "crossvit" else name), f"timm_{family}")
            torch.save(net.state_dict(), folder / f"timm-{name}-zip.pth")
            save_file(net.state_dict(), folder / f"timm-{name}.safetensors")


def transformers_models(folder: Path) -> None:
    """transformers' CvT."""
    from transformers import CvtConfig, CvtForImageClassification

    for name, depth in CVT.items():
        net = fill_module(CvtForImageClassification(CvtConfig(depth=depth, num_labels=1000)), "hf_cvt")
        net.save_pretrained(folder / "hf")
        (folder / "hf" / "model.safetensors").rename(folder / f"hf-{name}.safetensors")
        torch.save(net.state_dict(), folder / f"hf-{name}-bin.bin")


def paddle_files(folder: Path) -> None:
    """PaddleViT isn't on the registry: paddle saves tensors with its names and shapes."""
    import paddle

    for family in ("crossvit", "cvt", "xcit"):
        for name in PAIRS[family]:
            shapes = names("paddlevit", PADDLE.get(name, name))
            state = {key: paddle.to_tensor(filling(key, shape, f"paddlevit_{family}")) for key, shape in shapes.items()}
            paddle.save(state, str(folder / f"paddlevit-{name}.pdparams"))


def detectors(folder: Path) -> None:
    """What MMDetection and MMSegmentation save."""
    for name, detector in DETECTORS.items():
        state = tensors(names("mm", detector), "mmdet_mmseg_backbone")
        torch.save({"meta": {"epoch": 12, "CLASSES": ("person",)}, "state_dict": state}, folder / f"mm-{name}.pth")


def main() -> None:
    """Write all of them."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for write in (official, timm_models, transformers_models, paddle_files, detectors):
        write(folder)
        print(f"{write.__name__}: done", flush=True)


if __name__ == "__main__":
    main()
