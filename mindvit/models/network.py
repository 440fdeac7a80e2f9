"""What every network here can do beside turning images into logits: feature maps, another classifier, checked sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Optional, Sequence

from mindspore import Tensor

from mindvit.errors import UserError
from mindvit.layers.compiled import Compiled
from mindvit.layers.conv import FeatureLayout
from mindvit.layers.linear import Linear
from mindvit.layers.precision import FULL_PRECISION, in_float32


@dataclass(frozen=True)
class Feature:
    """A map (B, channels, H / stride, W / stride) that a network can give; `name` is the cell after which it is
    taken.
    """

    name: str
    channels: int
    stride: float

    def __getitem__(self, key: str) -> Any:
        """By the keys that timm has: module, num_chs, reduction."""
        return {"module": self.name, "num_chs": self.channels, "reduction": self.stride}[key]


class FeatureInfo(tuple[Feature, ...]):
    """What is known of a network's feature maps, with timm's ways to ask."""

    def channels(self) -> list[int]:
        """Of each map."""
        return [item.channels for item in self]

    def reduction(self) -> list[float]:
        """Each map's stride."""
        return [item.stride for item in self]

    def module_name(self) -> list[str]:
        """The cell after which each map is taken."""
        return [item.name for item in self]


def multiples_beside(side: int, step: int) -> list[int]:
    """The multiples of `step` just below and above `side`, at least `step` itself."""
    below = side // step * step
    return [below, below + step] if below > 0 else [step]


class Network(Compiled):
    """A classifier of images (B, in_channels, H, W) -> logits (B, num_classes), or features with num_classes=0.

    A family gives `forward_features` (what the classifier sees), `forward_head`, `feature_maps` (in the order of
    `feature_info` and the layout of layers.conv) and, where not all sizes fit, `check_input` and `check_size`.
    `construct` and those three take Residual's `drop_path_scale` last. What programs for timm's networks touch has
    timm's names.
    """

    HEADS: tuple[str, ...] = ("head",)  # cells that give logits
    CLASSIFIER: tuple[str, ...] = ("norm", "head")  # cells and parameters through which no feature map passes

    def __init__(
        self, num_classes: int, feature_info: Sequence[Feature], default_indices: Optional[Sequence[int]] = None
    ):
        super().__init__()
        self.num_classes = num_classes
        self.model_name = ""  # in the registry
        self.pretrained_cfg: dict[str, Any] = {}  # how images are prepared for the published weights: see the registry
        self.feature_info = FeatureInfo(feature_info)
        self.default_indices = tuple(range(len(self.feature_info)) if default_indices is None else default_indices)
        self.stream_type = FULL_PRECISION
        self.layout = FeatureLayout()
        self.head: Any = None

    def __call__(self, x: Tensor, *others: Any) -> Any:
        self.check_size(*x.shape[2:])
        return super().__call__(x, *others)

    @property
    def default_cfg(self) -> dict[str, Any]:
        """As pretrained_cfg."""
        return self.pretrained_cfg

    @property
    def num_features(self) -> int:
        """Channels C of what the classifier sees, (B, C): see forward_head."""
        return self.feature_info[-1].channels

    @property
    def head_hidden_size(self) -> int:
        """As num_features."""
        return self.num_features

    def get_classifier(self) -> Any:
        """The cell that makes logits, in CrossViT one a branch; None where there is none."""
        return self.head

    def maps(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> list[Tensor]:
        """(B, in_channels, H, W) -> every feature map, (B, C, H', W'), in the order of `feature_info`."""
        return [self.layout.to_images(found) for found in self.feature_maps(x, drop_path_scale)]

    def remove_classifier(self) -> None:
        """Take away what no feature map passes through: for a backbone that gives nothing else."""
        for name in self.CLASSIFIER:
            if name in self._cells or name in self._params:
                delattr(self, name)
        self.head = None
        self.num_classes = 0

    @classmethod
    def check_input(cls, config: Mapping[str, Any], height: int, width: int) -> None:
        """UserError for an image (height, width, px) that a network of these arguments can't take. Nothing is built."""
        if height < 1 or width < 1:
            raise UserError(f"an image of {height} x {width} px has nothing to look at")

    @classmethod
    def sizes_for(cls, config: Mapping[str, Any], side: int) -> Optional[tuple[int, int]]:
        """The img_size with which a network of these arguments computes square images of `side` px at that size.

        None: networks of the family take images as they come. UserError if the family can't take such images.
        """
        cls.check_input(config, side, side)
        return None

    def check_size(self, height: int, width: int) -> None:
        """UserError for an image that the network can't take."""
        self.check_input({}, height, width)

    def no_weight_decay(self) -> frozenset[str]:
        """Names without weight decay beside biases and one-dimensional tensors."""
        return frozenset()

    def saved_multiply_adds(self, size: int) -> int:
        """How many multiply-adds of an image (of this side, px) the published form of the network needs beyond this
        one's.
        """
        return 0

    def new_head(self, num_classes: int) -> Any:
        """The classifier's cell for a number of classes; None for 0."""
        return Linear(self.num_features, num_classes) if num_classes else None

    def reset_classifier(self, num_classes: int) -> None:
        """A new, untrained classifier for another number of classes; 0 takes it away."""
        if num_classes < 0:
            raise UserError(f"reset_classifier: num_classes is {num_classes}, but must be at least 0")
        self.num_classes = num_classes
        del self.head
        self.head = self.new_head(num_classes)
        self.compile_cache.clear()  # graphs with the old classifier

    def forward_head(self, x: Any, pre_logits: bool = False) -> Tensor:
        """What a classifier makes of an image's features.

        Args:
            x: what forward_features gives.
            pre_logits: leave the classifier out.

        Returns:
            Logits (B, num_classes), float32; (B, num_features) without a classifier.
        """
        return x if pre_logits or self.head is None else in_float32(self.head(x))

    def construct(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> Tensor:
        return self.forward_head(self.forward_features(x, drop_path_scale))


class Backbone(Compiled):
    """A network's feature maps instead of its logits.

    x: (B, in_channels, H, W) -> a map (B, C, H', W') for each of out_indices.

    `feature_info` tells channels and stride of each. The parameters keep their names.
    """

    def __init__(self, net: Network, out_indices: Optional[Sequence[int]] = None):
        super().__init__(auto_prefix=False)
        count = len(net.feature_info)
        indices = net.default_indices if out_indices is None else tuple(out_indices)
        if not indices or any(not -count <= index < count for index in indices):
            raise UserError(
                f"out_indices is {tuple(indices)}, but must name some of the {count} feature maps, 0 to {count - 1}"
            )
        self.net = net
        self.model_name = net.model_name
        self.out_indices = tuple(index % count for index in indices)
        self.feature_info = FeatureInfo(net.feature_info[index] for index in self.out_indices)

    def __call__(self, x: Tensor, *others: Any) -> Any:
        self.net.check_size(*x.shape[2:])
        return super().__call__(x, *others)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """As the network's."""
        return self.net.pretrained_cfg

    @property
    def default_cfg(self) -> dict[str, Any]:
        """As pretrained_cfg."""
        return self.net.pretrained_cfg

    def no_weight_decay(self) -> frozenset[str]:
        """As the network's."""
        return self.net.no_weight_decay()

    def construct(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> tuple[Tensor, ...]:
        maps = self.net.maps(x, drop_path_scale)
        return tuple([maps[index] for index in self.out_indices])
