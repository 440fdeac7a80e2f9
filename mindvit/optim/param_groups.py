"""What weights have of their own: weight decay or none, and a factor of the learning rate by depth."""

from __future__ import annotations

import re
from typing import Collection, Sequence


def is_decayed(name: str, dimensions: int, weight_decay_filter: str, no_weight_decay: Collection[str]) -> bool:
    """Whether weight decay applies to a parameter: timm's rule for norm_and_bias, everything for disable; for
    norm_names, OpenMMLab's rule of Swin's and CrossFormer's segmentors, all but those with `norm` in their names.
    """
    if weight_decay_filter == "norm_names":
        return "norm" not in name
    return weight_decay_filter == "disable" or not (
        dimensions <= 1 or name.endswith(".bias") or name in no_weight_decay
    )


def layers_of(names: Sequence[str]) -> tuple[list[int], int]:
    """How deep each weight lies (0 in the stem, n in the n-th block, one more than the last behind it), and how many
    blocks there are.

    names: the network's weights in its own order. What stands before the first block is the stem; what stands between
    two blocks (a stage's patch embedding) goes with the block after it.
    """
    blocks: list[str] = []
    after = []  # blocks begun when a name comes, and whether it belongs to the last of them
    for name in names:
        block = re.match(r".*?blocks\.\d+(?=\.)", name)
        if block and block[0] not in blocks:
            blocks.append(block[0])
        after.append((len(blocks), block is not None))
    return [count if inside or count == 0 else count + 1 for count, inside in after], len(blocks)


def layer_lr_scales(names: Sequence[str], decay: float) -> list[float]:
    """The factor of the learning rate for each weight: 1 for the head and the last norm, times `decay` for every block
    below (Clark et al. 2020). names: see layers_of.
    """
    layers, blocks = layers_of(names)
    return [decay ** (blocks + 1 - layer) for layer in layers]
