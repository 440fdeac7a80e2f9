"""What convert wrote under other libraries' names, in those libraries: python read_back.py FOLDER. Strict loading,
and the goldens' logits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from oracle import GOLDENS, PAIRS, deviation, fill, names
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file
from write_files import CVT, PADDLE

TOLERANCE = 1e-4
UNUSED = ("num_batches_tracked", ".biases", "relative_position_index")


def worst(net: torch.nn.Module, name: str) -> float:
    """Deviation of a network's logits from its golden."""
    golden = np.load(GOLDENS / f"{name}.npz")
    with torch.no_grad():
        found = net.eval()(torch.from_numpy(fill.image(2, tuple(golden["input_size"]))))
    return deviation(getattr(found, "logits", found).numpy(), golden["logits"])


class QuickGELU(torch.nn.Module):
    """The authors' activation, which transformers' CvT replaces by another (its logits are then 0.03 off)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


def library_network(family: str, name: str) -> torch.nn.Module:
    """timm's or transformers' network."""
    if family != "cvt":
        import timm

        return timm.create_model(f"{name}_240" if family == "crossvit" else name)
    from transformers import CvtConfig, CvtForImageClassification

    net = CvtForImageClassification(CvtConfig(depth=CVT[name], num_labels=1000))
    for module in list(net.modules()):
        if type(module).__name__ == "CvtIntermediate":
            module.activation = QuickGELU()
    return net


def main() -> None:
    """Check all files; exit code 1 if one fails."""
    folder, failed = Path(sys.argv[1]), []
    for family, pair in PAIRS.items():
        for name in pair:
            if family != "crossformer":
                whose = "hf" if family == "cvt" else "timm"
                net = library_network(family, name)
                net.load_state_dict(load_file(folder / f"{whose}-{name}.safetensors"), strict=True)
                deviated = worst(net, name)
                print(f"{whose}-{name}: loaded strictly, logits {deviated:.1e}")
                failed += [name] if deviated > TOLERANCE else []
            forms = [("pytorch", "official", name)] + (
                [("paddlevit", "paddlevit", PADDLE.get(name, name))] if family != "crossformer" else []
            )
            for whose, origin, network in forms:
                file = folder / f"{whose}-{name}.safetensors"
                found = {key: value.shape for key, value in load_numpy(file).items()}
                known = {key: shape for key, shape in names(origin, network).items() if not key.endswith(UNUSED)}
                print(f"{file.name}: {len(found)} names and shapes are theirs: {found == known}")
                failed += [] if found == known else [file.name]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
