"""What a file with weights says of itself: the network, its classes, how its images are prepared.

The one place that answers that for every command.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Union

from mindvit.errors import UserError
from mindvit.models import ModelInfo, NetworkInfo, model_info, network_info
from mindvit.models.crossvit import branch_sizes
from mindvit.models.registry import model_config
from mindvit.recipe.schema import FIELDS, SHIPPED, Recipe
from mindvit.weights.inspect import img_size_of, in_channels_of, num_classes_of
from mindvit.weights.readers import WeightsFile

IMAGENET = 1000  # classes of a network of which nothing else is known
RGB = 3  # its input channels
# keys of a recipe that say where its run began, not what was trained
ORIGIN = ("pretrained", "ckpt_path", "new_head", "take", "backbone_weights")


@dataclass(frozen=True)
class CheckpointInfo:
    """What a file says, in its metadata or by its tensors' shapes; None, or empty, where it says nothing.

    where: how messages call the file. class_names: in the order of the logits. img_size: px, CrossViT's, a branch each.
    recipe: the keys that the weights were trained with. best_weights: which set scored better in the last validation,
    `model` or `ema`.
    """

    where: str
    model: Optional[str] = None
    num_classes: Optional[int] = None
    class_names: tuple[str, ...] = ()
    in_channels: Optional[int] = None
    img_size: Union[None, int, tuple[int, int]] = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    best_weights: Optional[str] = None

    @classmethod
    def of(cls, content: WeightsFile) -> CheckpointInfo:
        """From what was read of a file."""
        meta = content.meta
        recipe = {key: value for key, value in meta.get("recipe", {}).items() if key in FIELDS}
        size = recipe.get("img_size")
        names = tuple(meta.get("class_names", ()))
        return cls(
            where=content.where,
            model=meta.get("model"),
            num_classes=meta.get("num_classes") or num_classes_of(content),
            class_names=names,
            in_channels=in_channels_of(content) or recipe.get("in_channels"),
            recipe=recipe,
            best_weights=meta.get("best_weights"),
            img_size=(tuple(size) if isinstance(size, list) else size) or img_size_of(content),
        )

    def network(self, asked: Optional[str]) -> NetworkInfo:
        """The network that is asked for, or else the one that the file names.

        UserError if there is neither, or if they contradict each other.
        """
        name = asked or self.model
        if name is None:
            raise UserError(
                f"{self.where} doesn't say which network it belongs to: --model NAME (all names: mindvit.list_models())"
            )
        info = network_info(name)
        if self.model and not _are_alike(network_info(self.model), info):
            raise UserError(
                f"{self.where} is a checkpoint of {self.model}, but the model asked for is {info.name} "
                "(leave --model out)"
            )
        return info

    def classifier(self, asked: Optional[str]) -> ModelInfo:
        """The same where only a classifier will do; UserError for another network."""
        return model_info(self.network(asked).name)

    def fill(self, recipe: Recipe) -> Recipe:
        """`recipe` with network, size and preprocessing of the weights in every key that it doesn't say itself.

        UserError if neither says the network, or if they contradict each other.
        """
        info = self.network(recipe.model.model if recipe.origins["model"] != "default" else None)
        told: dict[str, Any] = {
            key: value
            for key, value in self.recipe.items()
            if FIELDS[key][0] in ("augment", "model", "segmentation", "detection") and key not in ORIGIN
        }
        if self.recipe:
            told["num_classes"] = self.num_classes
        if "dataset" in self.recipe and (recipe.data.data_dir is None or self.recipe["dataset"] not in SHIPPED):
            told["dataset"] = self.recipe["dataset"]
        if self.has_own_size(info):
            told["img_size"] = self.img_size
            told["image_resize"] = self.recipe.get("image_resize") or self.image_size
        told = {key: value for key, value in told.items() if recipe.origins[key] == "default"}
        return recipe.replace(
            self.where, **{**told, **({"model": info.name} if recipe.origins["model"] == "default" else {})}
        )

    def has_own_size(self, info: NetworkInfo) -> bool:
        """Whether the weights are for another img_size than the published network."""
        if not isinstance(info, ModelInfo):
            return False
        own = model_config(info.name).get("img_size")
        return self.img_size is not None and own is not None and self.img_size not in (own, branch_sizes(own))

    @property
    def image_size(self) -> Optional[int]:
        """Side of the images that fit img_size, px: the small-patch branch's."""
        return self.img_size[0] if isinstance(self.img_size, tuple) else self.img_size


def _are_alike(one: NetworkInfo, other: NetworkInfo) -> bool:
    """Whether two networks are the same but for the weights or the image size that they are published with."""
    both_classify = isinstance(one, ModelInfo) and isinstance(other, ModelInfo)
    return one.name == other.name or (both_classify and model_config(one.name) == model_config(other.name))
