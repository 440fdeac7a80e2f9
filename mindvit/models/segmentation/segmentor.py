"""Segmentors: a backbone, perhaps a neck, and heads."""

from __future__ import annotations

from typing import Optional

from mindspore import Tensor, nn

from mindvit.layers.precision import in_float32
from mindvit.layers.resample import ResizedImages
from mindvit.models.pyramid import OnPyramid, Pyramid, add_prefix
from mindvit.models.segmentation.heads import Head


class Segmentor(OnPyramid):
    """The class of every pixel: (B, in_channels, H, W) -> logits (B, num_classes, H, W), float32.

    drop_path_scale: see Residual. `heads` gives what a training loss takes. Parameter names are mmsegmentation's:
    backbone, neck, decode_head, auxiliary_head.
    """

    def __init__(
        self, backbone: Pyramid, neck: Optional[nn.Cell], decode_head: Head, auxiliary_head: Optional[Head] = None
    ):
        super().__init__(backbone, decode_head.conv_seg.weight.shape[0])
        self.neck, self.decode_head, self.auxiliary_head = neck, decode_head, auxiliary_head
        for name in ("backbone", "neck", "decode_head", "auxiliary_head"):
            part = getattr(self, name)
            if part is not None:
                add_prefix(part, f"{name}.")
        self.resized_images = ResizedImages()

    @property
    def dropout_channels(self) -> tuple[int, ...]:
        """Channels that each head drops from, for the draws of a training step."""
        heads = (self.decode_head, self.auxiliary_head)
        return tuple(head.channels for head in heads if head is not None and head.drop_rate > 0)

    def features(
        self, x: Tensor, drop_path_scale: Optional[Tensor] = None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What the auxiliary head and what the decode head takes: the backbone's maps, and the neck's."""
        maps = self.backbone(x, drop_path_scale)
        return maps, maps if self.neck is None else self.neck(maps)

    def heads(
        self,
        x: Tensor,
        drop_path_scale: Optional[Tensor] = None,
        dropout_scales: tuple[Optional[Tensor], ...] = (None, None),
    ) -> tuple[Tensor, ...]:
        """Logits of the decode head and, where there is one, of the auxiliary head: maps of their own sides, float32.

        dropout_scales: see Head, one for each.
        """
        maps, decoded = self.features(x, drop_path_scale)
        logits = in_float32(self.decode_head(decoded, x.shape[0], dropout_scales[0]))
        if self.auxiliary_head is None:
            return (logits,)
        return logits, in_float32(self.auxiliary_head(maps, x.shape[0], dropout_scales[1]))

    def construct(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> Tensor:
        logits = in_float32(self.decode_head(self.features(x, drop_path_scale)[1], x.shape[0]))
        return self.resized_images(logits, x.shape[2], x.shape[3])
