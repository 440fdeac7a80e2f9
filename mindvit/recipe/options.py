"""What a training recipe may say: its keys with types, units and defaults, by section.

Keys are flat and carry MindCV's names; in code they are reached by section (`recipe.schedule.lr`).
Nothing here imports MindSpore, so `--help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional, Tuple, Union

Pair = Tuple[float, float]
Triple = Tuple[float, float, float]


def option(
    default: Any,
    doc: str,
    choices: tuple = (),
    low: Optional[float] = None,
    high: Optional[float] = None,
    path: bool = False,
    affects_result: bool = True,
) -> Any:
    """A recipe key: its default, its line of help, the values it accepts (`low` and `high` included), whether a
    string is a path (`~` is expanded), and whether the key changes what a run computes: a run that resumes with another
    value of one that does says so.
    """
    return field(
        default=default,
        metadata={
            "doc": doc,
            "choices": choices,
            "low": low,
            "high": high,
            "path": path,
            "affects_result": affects_result,
        },
    )


@dataclass(frozen=True)
class DataOptions:
    """Where the images come from and how they are batched."""

    dataset: str = option(
        "imagenet",
        "data set: of classification a folder of images or list files (imagenet), or the digits that ship; of "
        "segmentation the scenes that ship, a folder of images and label maps (segmentation), or the official ones of "
        "ADE20K and Cityscapes; of detection the scenes, or COCO and what is annotated in its form (coco), in Pascal "
        "VOC's (voc) or in YOLO's (yolo)",
        ("imagenet", "digits", "scenes", "segmentation", "ade20k", "cityscapes", "coco", "voc", "yolo"),
    )
    data_dir: Optional[str] = option(
        None,
        "folder with train/ and val/ class folders, or with train_list.txt and val_list.txt; dataset: segmentation: "
        "with images/train, images/val, annotations/train, annotations/val and classes.txt",
        path=True,
        affects_result=False,
    )
    train_split: str = option("train", "name of the training split")
    val_split: str = option("val", "name of the validation split")
    classes: Optional[str] = option(
        None,
        "file with the class folders in the order of the logits, a name a line (none: the checkpoint's, else sorted)",
        path=True,
        affects_result=False,
    )
    shuffle: bool = option(True, "shuffle the training images anew in every epoch")
    balanced: bool = option(
        False,
        "see every class equally often: an epoch repeats images of rare classes and leaves out some of common ones",
    )
    batch_size: int = option(128, "images a device and step", low=1)
    drop_remainder: bool = option(
        True, "drop an epoch's last, incomplete batch (the compiled step has one shape: only True)", (True,)
    )
    aug_repeats: int = option(
        0, "repeated augmentation: times an image appears in an epoch's order (0 or 1: off; usual: 3)", low=0
    )
    num_parallel_workers: Optional[int] = option(
        None,
        "threads or processes that make batches (none: one a core of this rank, of threads at most 8)",
        low=1,
        affects_result=False,
    )
    python_multiprocessing: Union[bool, str] = option(
        "auto",
        "make batches in processes (True) or threads (False); auto: processes for an NPU or GPU with at least 4 cores "
        "a rank",
        ("auto", True, False),
        affects_result=False,
    )
    val_share: Optional[float] = option(
        None,
        "data_dir holds class folders without a split: the share of each class that is kept for validation",
        low=0.01,
        high=0.9,
    )
    split_seed: int = option(0, "seed of that split; it is kept in data_dir/mindvit_split.csv", low=0)
    bad_image: str = option(
        "skip",
        "a training image that can't be decoded: skip (named, counted, another one taken) or stop",
        ("skip", "stop"),
    )
    max_pixels: int = option(
        178_956_970,
        "largest image that is decoded, width x height, pixels; a larger one counts as one that can't be decoded",
        low=1,
    )

    @property
    def place(self) -> str:
        """What a run calls its data: the folder, after the data set's name unless that is any folder of images."""
        if self.data_dir is None:
            return self.dataset
        return self.data_dir if self.dataset == "imagenet" else f"{self.dataset} in {self.data_dir}"


@dataclass(frozen=True)
class AugmentOptions:
    """Training augmentation, and the preprocessing of evaluation. None means: as the model's entry says."""

    image_resize: Optional[int] = option(
        None, "side of the square image that reaches the network, px (none: the model's)", low=1
    )
    scale: Pair = option((0.08, 1.0), "random crop: smallest and largest share of the image's area")
    ratio: Pair = option((3 / 4, 4 / 3), "random crop: smallest and largest aspect ratio")
    hflip: float = option(0.5, "probability of a horizontal flip", low=0, high=1)
    vflip: float = option(0.0, "probability of a vertical flip", low=0, high=1)
    color_jitter: Optional[float] = option(
        None, "strength of brightness, contrast and saturation jitter; off when auto_augment is on", low=0
    )
    auto_augment: Optional[str] = option(None, "policy by name: randaug-m9-mstd0.5-inc1, autoaug, trivialaugwide, ...")
    re_prob: float = option(0.0, "probability of random erasing", low=0, high=1)
    re_scale: Pair = option((0.02, 1 / 3), "random erasing: smallest and largest share of the area")
    re_ratio: Pair = option((0.3, 10 / 3), "random erasing: smallest and largest aspect ratio")
    re_value: str = option(
        "random",
        "what fills an erased box: noise of every pixel's own (random) or the mean colour (0)",
        ("random", "0"),
    )
    mixup: float = option(0.0, "alpha of mixup's Beta distribution (0: off)", low=0)
    cutmix: float = option(0.0, "alpha of cutmix's Beta distribution (0: off)", low=0)
    mixup_prob: float = option(1.0, "probability that a batch is mixed at all", low=0, high=1)
    mixup_switch_prob: float = option(0.5, "probability of cutmix where both are on", low=0, high=1)
    interpolation: Optional[str] = option(
        None, "resampling of crops and resizes (none: the model's)", ("nearest", "bilinear", "bicubic")
    )
    crop_pct: Optional[float] = option(
        None, "evaluation: share of the resized short side that is kept (none: the model's)", low=0.01, high=1
    )
    tta: str = option(
        "none",
        "evaluation: mean of the probabilities of an image and its mirror image (flip), or of its corners and its "
        "middle (five_crops)",
        ("none", "flip", "five_crops"),
    )
    mean: Optional[Triple] = option(
        None, "per-channel mean, of pixels in 0..1 or, as in MindCV, 0..255 (none: the model's)"
    )
    std: Optional[Triple] = option(None, "per-channel standard deviation, in the unit of the mean (none: the model's)")


@dataclass(frozen=True)
class ModelOptions:
    """The network."""

    model: str = option("crossvit_9", "name of the network; `mindvit.list_models()` has them all")
    backbone: Optional[str] = option(
        None,
        "of a detector's or segmentor's method (model: upernet, semantic_fpn, retinanet, mask_rcnn, "
        "cascade_mask_rcnn): the network below it, by name",
    )
    backbone_config: Optional[str] = option(
        None,
        "other arguments of the backbone, as YAML: 'group_size: [7, 7, 7, 7], interval: [8, 4, 2, 1]'; out_indices: "
        "which of its maps make the pyramid, as 'out_indices: [11, 11, 11, 11]' for XCiT's last",
    )
    backbone_weights: Union[None, bool, str] = option(
        None,
        "weights that the backbone starts from, a classifier's: as pretrained, which means the same if it asks for "
        "published ones",
        path=True,
        affects_result=False,
    )
    head_channels: Optional[int] = option(
        None,
        "segmentors: channels of the decode head; R-CNNs: outputs of fully connected layers (none: the paper's)",
        low=1,
    )
    neck_channels: Optional[int] = option(
        None, "semantic_fpn and detectors: channels of the pyramid (none: the paper's)", low=1
    )
    num_classes: Optional[int] = option(None, "classes (none: as many as the data set has)", low=1)
    in_channels: int = option(3, "channels of the input", low=1)
    img_size: Union[None, int, Tuple[int, int]] = option(
        None, "size that the network is built for, px; CrossViT: (small-patch, large-patch) branch"
    )
    drop_rate: float = option(0.0, "dropout rate", low=0, high=0.99)
    attn_drop_rate: float = option(0.0, "dropout rate of the attention weights", low=0, high=0.99)
    drop_path_rate: Optional[float] = option(
        None, "largest stochastic-depth rate (none: the paper's)", low=0, high=0.99
    )
    pretrained: Union[bool, str] = option(
        False,
        "weights to start from (validate.py: to measure): True, published ones, fetched by the network's name; "
        "pytorch, timm, hf or mmpretrain, those of that source; hf:OWNER/NAME; shipped:NAME, what comes with "
        "mindvit; or a FILE",
        path=True,
        affects_result=False,
    )
    ckpt_path: Optional[str] = option(
        None, "train: weights to start from; validate: weights to measure", path=True, affects_result=False
    )
    new_head: bool = option(
        False, "leave the classifier untrained, whatever the weights to start from have", affects_result=False
    )
    take: Optional[str] = option(
        None,
        "which set of weights to take of a checkpoint that holds several: model, ema (their moving average), or a "
        "PyTorch training checkpoint's name (none: the one that scored better in validation, if the file says so, "
        "else model)",
        affects_result=False,
    )


@dataclass(frozen=True)
class DistillOptions:
    """Distillation from a teacher network."""

    distill_type: str = option(
        "none",
        "what is learnt from the teacher: nothing, its distribution (soft) or its class (hard)",
        ("none", "soft", "hard"),
    )
    teacher: Optional[str] = option(None, "the teacher, a network by name; mindcv/NAME takes mindcv's")
    teacher_ckpt_path: Optional[str] = option(None, "file with the teacher's weights", path=True, affects_result=False)
    teacher_take: Optional[str] = option(
        None, "which set of weights to take of that file: see take", affects_result=False
    )
    distill_alpha: float = option(0.5, "share of the teacher's term in the loss", low=0, high=1)
    distill_tau: float = option(1.0, "temperature of soft distillation, more than 0", low=0)


@dataclass(frozen=True)
class PrecisionOptions:
    """Mixed precision. Norms, softmax, loss and the master weights are float32 at every level."""

    amp_level: str = option(
        "O0",
        "O0: float32; O1: matrix products in half precision; O2 and O3: the residual stream too",
        ("O0", "O1", "O2", "O3"),
    )
    val_amp_level: Optional[str] = option(
        None, "the same for evaluation (none: as amp_level)", ("O0", "O1", "O2", "O3")
    )
    amp_type: str = option(
        "auto",
        "half precision; auto: bfloat16 on Ascend A2 and A3, float16 elsewhere, and float32 on a CPU",
        ("auto", "float16", "bfloat16"),
    )
    amp_on_cpu: bool = option(
        False, "keep to amp_level on a CPU too, where float16 is slower than float32: for trying it out"
    )
    loss_scale_type: str = option("auto", "auto: dynamic with float16 and none otherwise", ("auto", "dynamic", "fixed"))
    loss_scale: float = option(65536.0, "loss scale, or the first one if it is dynamic", low=1)
    skip_nonfinite: int = option(
        0,
        "steps in a row whose loss or gradient is NaN or infinite, loss scaling apart, that are skipped before a run "
        "stops",
        low=0,
    )
    drop_overflow_update: bool = option(
        True, "skip a step whose gradient is not finite while the loss is scaled (only True)", (True,)
    )


@dataclass(frozen=True)
class RuntimeOptions:
    """Device, graph and randomness."""

    device_target: str = option(
        "auto", "device; auto: the best one found", ("auto", "Ascend", "GPU", "CPU"), affects_result=False
    )
    mode: int = option(0, "0: compiled graph, 1: PyNative, for debugging", (0, 1), affects_result=False)
    jit_level: str = option(
        "auto",
        "graph compilation level; auto: O2 on Ascend, O1 or O0 where that can't take a graph; O0 elsewhere",
        ("auto", "O0", "O1", "O2"),
        affects_result=False,
    )
    compile_cache: str = option(
        "auto",
        "where compiled training steps are kept for the next start: auto (Ascend: in ~/.cache/mindvit/graphs), none, "
        "or a DIR",
        path=True,
        affects_result=False,
    )
    recompute: bool = option(
        False,
        "keep less of the forward pass for the backward pass, and compute it again there: less memory, more time",
        affects_result=False,
    )
    distribute: bool = option(
        True, "use all ranks of the launcher (msrun); without a launcher the run is alone", affects_result=False
    )
    seed: int = option(42, "seed of initial weights, order, augmentation and drop path", low=0, high=2**32 - 1)
