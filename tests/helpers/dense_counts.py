"""Multiply-adds of CrossFormer's segmentors and detectors, counted by hand from the paper's shapes."""

from __future__ import annotations

from typing import Any, Optional

from mindvit.models.crossformer import EMBED_KERNELS, VARIANTS, grouping

GROUPS: dict[str, Any] = {
    "semantic_fpn": ((14, 14, 7, 7), (16, 8, 2, 1)),
    "upernet": ((7, 7, 7, 7), (8, 4, 2, 1)),
    "1x": ((7, 7, 7, 7), (8, 4, 2, 1)),
    "3x": ((14, 14, 7, 7), (16, 8, 2, 1)),
}
CLASSES, CLASSES_OF_COCO = 150, 80
Sizes = tuple[int, tuple[int, ...], tuple[int, ...]]  # width, depths, heads


def multiply_adds(name: str, height: int, width: int, padded: bool, sizes: Optional[Sizes] = None) -> int:
    """Of one image without the auxiliary head; padded: with the products that the authors' code computes for
    padding.
    """
    method, _, backbone = name.partition("_crossformer_")
    channels, depths, heads = VARIANTS[f"crossformer_{backbone}"][:3] if sizes is None else sizes
    head = semantic_fpn if method == "semantic_fpn" else upernet
    grid = (height // 4, width // 4)
    return crossformer(channels, depths, heads, grid, method, padded) + head(channels, grid)


def crossformer(
    channels: int, depths: tuple[int, ...], heads: tuple[int, ...], grid: tuple[int, int], method: str, padded: bool
) -> int:
    """The backbone's. grid: height and width in tokens of the first stage."""
    (height, width), total = grid, 0
    for kernel, part in EMBED_KERNELS.items():
        total += height * width * (channels // part) * 3 * kernel**2
    for stage, (depth, head_count) in enumerate(zip(depths, heads)):
        group, interval = (setting[stage] for setting in GROUPS[method])
        for block in range(depth):
            (n, r, i), (m, s, j) = grouping(height, width, group, interval, block % 2 == 1, "iclr")
            places, tokens = n * r * i * m * s * j, height * width
            hidden, offsets = channels // 16, (2 * r - 1) * (2 * s - 1)
            total += (places if padded else tokens) * 4 * channels**2 + 2 * places * r * s * channels
            total += offsets * (2 * hidden + 2 * hidden**2 + hidden * head_count) + 8 * tokens * channels**2
        if stage < len(depths) - 1:
            height, width = height // 2, width // 2
            total += height * width * channels**2 * (2**2 + 4**2)
            channels *= 2
    return total


def semantic_fpn(channels: int, grid: tuple[int, int]) -> int:
    """Neck's and head's."""
    total = grid[0] * grid[1] * 128 * CLASSES
    for level in range(4):
        places = (grid[0] >> level) * (grid[1] >> level)
        total += places * 256 * ((channels << level) + 9 * 256)
        for doubling in range(max(level, 1)):
            total += (places << 2 * doubling) * 9 * (128 if doubling else 256) * 128
    return total


def upernet(channels: int, grid: tuple[int, int]) -> int:
    """The decode head's."""
    coarse = (grid[0] >> 3) * (grid[1] >> 3)
    total = sum(side**2 for side in (1, 2, 3, 6)) * 8 * channels * 512 + coarse * 9 * (8 * channels + 2048) * 512
    for level in range(3):
        total += (grid[0] >> level) * (grid[1] >> level) * 512 * ((channels << level) + 9 * 512)
    return total + grid[0] * grid[1] * 512 * (9 * 2048 + CLASSES)


def detector(
    name: str,
    height: int,
    width: int,
    padded: bool,
    sizes: Optional[Sizes] = None,
    boxes: tuple[int, int] = (1000, 100),
) -> int:
    """Of one image; boxes: that the R-CNNs' box heads and mask heads look at."""
    method, _, backbone = name.partition("_crossformer_")
    schedule = "3x" if backbone.endswith("_3x") else "1x"
    settings = VARIANTS[f"crossformer_{backbone.replace('_3x', '')}"][:3] if sizes is None else sizes
    channels, depths, heads = settings
    grid = (height // 4, width // 4)
    total = crossformer(channels, depths, heads, grid, schedule, padded)
    places = [-(-grid[0] // 2**level) * -(-grid[1] // 2**level) for level in range(6)]
    conv = 9 * 256**2
    if method == "retinanet":
        total += sum(places[level] * (256 * (channels << level) + conv) for level in (1, 2, 3))
        total += places[4] * 9 * 256 * (channels << 3) + places[5] * conv
        return total + sum(places[1:6]) * (8 * conv + 9 * 256 * 9 * (CLASSES_OF_COCO + 4))
    total += sum(places[level] * (256 * (channels << level) + conv) for level in range(4))
    total += sum(places[:5]) * (conv + 256 * 15)
    cascade, last = method.startswith("cascade"), 1024 * (CLASSES_OF_COCO + 1 + 4 * CLASSES_OF_COCO)
    first = 256 * 49 * 1024
    box = 4 * 49 * conv + first + last if cascade else first + 1024**2 + last
    mask = 4 * 196 * conv + 196 * 4 * 256**2 + 784 * 256 * CLASSES_OF_COCO
    return total + (3 if cascade else 1) * (boxes[0] * box + boxes[1] * mask)
