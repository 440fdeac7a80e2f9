"""Strict loading: every weight of the network is named in the report, and nothing stays random in silence."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import os
import re
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Sequence, Union

import numpy as np
from mindspore import Parameter, Tensor, nn

from mindvit.errors import Hint, UserError
from mindvit.layers.resize import bicubic_matrix
from mindvit.weights import names, prefixes
from mindvit.weights.readers import STATE, Arrays, WeightsFile, read, select

POSITION = "pos_embed."  # tensors (1, 1 + side * side, C) that can be resized to another grid
STEM = "patch_embed."  # in the names of the convolutions that see the image
HEAD = "head."
TOP, BACKBONE = ("norm.", HEAD), ("norm.*", "head.*")  # what backbones end without
LAST_LAYERS = (".conv_seg.", ".retina_cls.", ".fc_cls.", ".fc_reg.", ".conv_logits.")
NEW = ("norm.*", "fpn?.*")  # of a backbone, what classifiers' files may lack: the last norm, and what makes a pyramid
# buffers in the authors' files that no network here needs: BatchNorm's counter, and tables that CrossFormer's code of
# 2021 saved
UNUSED = ("*.num_batches_tracked", "*.attn.biases", "*.attn.relative_position_index")
HEADS = {
    1000: "ImageNet-1K",
    21841: "ImageNet-22k",
    21842: "ImageNet-22k",
    21843: "ImageNet-21k",
    11221: "ImageNet-21k-P",
    10450: "ImageNet-21k-P",
}


class WeightsError(UserError):
    """Weights that don't fit a network; `report` has the particulars."""

    def __init__(self, message: str, report: Report, hints: Sequence[Hint] = ()):
        super().__init__(message, hints)
        self.report = report


@dataclass
class Report:
    """Names, ours, by what happened to them; `notes` say where the weights came from.

    `optimizer` has the file's names of what training keeps beside weights.
    """

    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    transposed: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    optimizer: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    origin: str = ""

    def __str__(self) -> str:
        parts = [*self.notes, f"{len(self.loaded)} loaded"]
        parts += [
            f"{len(found)} {what}: {_some(found)}"
            for what, found in (
                ("resized", self.resized),
                ("fitted to other input channels", self.adapted),
                ("renamed", self.renamed),
                ("transposed", self.transposed),
                ("of another number type", self.converted),
                ("left at initial values", self.kept),
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", self.differing),
                ("of no use here", self.unused),
                ("values of an optimizer ignored", self.optimizer),
            )
            if found
        ]
        return "; ".join(parts)

    def facts(self) -> dict[str, Any]:
        """As JSON takes it; of what was simply loaded or is an optimizer's, the number."""
        return {**dataclasses.asdict(self), "loaded": len(self.loaded), "optimizer": len(self.optimizer)}


def _some(found: Sequence[str], count: int = 3) -> str:
    return ", ".join(found[:count]) + (f" and {len(found) - count} more" if len(found) > count else "")


@dataclass(frozen=True)
class Wanted:
    """What may differ between a file and the network.

    may_differ: shell patterns of names that may be missing, unexpected or of another shape (such weights of the network
    keep their values). new_head: the classifier keeps its initial values. resize: interpolate position embeddings of
    another grid.
    adapt_channels: fit the first convolutions to another number of input channels. take: which set of weights of a
    checkpoint that has several, `model`, `ema` or a PyTorch script's name (None: the one that scored better, where the
    checkpoint says so, else `model`).
    """

    may_differ: Sequence[str] = ()
    resize: bool = False
    new_head: bool = False
    adapt_channels: bool = False
    take: Optional[str] = None


def load_weights(
    net: nn.Cell,
    source: Union[str, os.PathLike, Mapping[str, np.ndarray], WeightsFile],
    may_differ: Sequence[str] = (),
    resize: bool = False,
    new_head: bool = False,
    adapt_channels: bool = False,
    take: Optional[str] = None,
) -> Report:
    """Copy weights into a network and say what was done.

    Args:
        net: the network, which is changed as a whole or not at all.
        source: a file of any format and origin that is known (docs/weights.md), what was read of one, or a mapping of
            name to array.
        may_differ: shell patterns of names that may be missing, left over or of other shapes.
        resize: fit position embeddings of another size.
        new_head: leave the classifier as it is.
        adapt_channels: fit the first layer to another number of input channels.
        take: which set of weights of a file that holds several.

    Returns:
        What was loaded, resized, missing and left over.

    Raises:
        WeightsError: anything else differs.
        UserError: the file can't be read.
    """
    wanted = Wanted(may_differ, resize, new_head, adapt_channels, take)
    if isinstance(source, Mapping):
        source = select(WeightsFile(dict(source), {}, ""), take)
    report, values = fitted(net, source if isinstance(source, WeightsFile) else read(source, take), wanted)
    for name, parameter in _parameters(net).items():
        if name in values:
            parameter.set_data(Tensor(values[name].astype(np.float32), parameter.dtype))
    return report


def _parameters(net: nn.Cell) -> dict[str, Parameter]:
    """A network's parameters by the names that it has alone, whatever it is a part of."""
    prefix = getattr(net, "prefix", "")  # of a segmentor's backbone
    return {parameter.name[len(prefix) :]: parameter for parameter in net.get_parameters()}


def fitted(net: nn.Cell, content: WeightsFile, wanted: Wanted) -> tuple[Report, Arrays]:
    """The values for the network's parameters out of what a file holds; the network stays as it is."""
    report = Report()
    arrays, absent, wide = _ours(net, content, report)
    parameters = {name: parameter.shape for name, parameter in _parameters(net).items()}
    body = getattr(net, "net", net)  # of a Backbone, whose feature maps don't pass through the last norm
    headless = getattr(body, "num_classes", None) == 0
    may_lack = [*(NEW if body is not net else []), *(absent if wanted.new_head else [])]
    left_out = (*(("head",) if wanted.new_head else ()), *(getattr(body, "CLASSIFIER", ("head",)) if headless else ()))
    report.unused += [name for name in arrays if name.split(".")[0] in left_out and name not in parameters]
    arrays = {name: value for name, value in arrays.items() if name not in set(report.unused)}
    values: Arrays = {}
    for name, shape in parameters.items():
        value = arrays.pop(name, None)
        if (wanted.new_head and _is_classifier(name)) or (value is None and _matches(name, may_lack)):
            report.kept.append(name)
        elif value is None:
            report.missing.append(name)
        else:
            _fit(name, value, shape, wanted, report, values)
    report.unexpected = sorted(arrays)
    report.loaded = [name for name in values if name not in {*report.resized, *report.adapted}]
    kinds = {name: "bfloat16" if name in wide else str(value.dtype) for name, value in values.items()}
    report.converted = [f"{name} {kind}" for name, kind in kinds.items() if kind != "float32"]
    _refuse(report, content, net, wanted)
    return report, values


def _is_classifier(name: str) -> bool:
    """Whether a parameter is of what tells the classes: a classifier's head, or the last layers of a segmentor's or
    detector's heads.
    """
    return name.startswith(HEAD) or any(layer in name for layer in LAST_LAYERS)


def _ours(net: nn.Cell, content: WeightsFile, report: Report) -> tuple[Arrays, tuple[str, ...], set[str]]:
    """The arrays under our names, without what no network needs; what the origin never has; and what was stored as
    bfloat16.

    UserError for another family's weights, or such as can't be taken.
    """
    arrays = {name: value for name, value in content.arrays.items() if not name.startswith(STATE)}
    origin = names.recognise(arrays)
    own = names.recognise(_parameters(net))
    wide = set(content.widened)
    absent: tuple[str, ...] = ()
    if origin is not None and own is not None and own.name == names.OFFICIAL:
        _check_origin(origin, own, net, content.where)
        translation = names.inwards(arrays, origin)
        if wide:
            wide = {
                name
                for name, marks in names.inwards(
                    {name: np.full(3, name in wide) for name in arrays}, origin
                ).arrays.items()
                if marks.any()
            }
        arrays, report.renamed, report.transposed = translation.arrays, translation.renamed, translation.transposed
        report.origin = origin.name
        absent = origin.absent if origin.absent or any(name.startswith(TOP) for name in arrays) else BACKBONE
        if origin.name != names.OFFICIAL:
            report.notes.append(f"names of {origin.who}")
    # of a detector, what wasn't renamed is no part of the backbone
    is_part = origin is not None and origin.absent and (own is None or own.name == names.OFFICIAL)
    others = set(content.arrays) if is_part else frozenset()
    report.unused = [*(name for name in arrays if name in others or _matches(name, UNUSED)), *content.ignored]
    report.optimizer = list(content.optimizer)
    if content.taken or content.others:
        report.notes.append(f"taken: {taken(content)}")
    stored_as = content.meta.get("model")
    if stored_as and stored_as != (getattr(net, "model_name", "") or stored_as):
        report.notes.append(f"saved as {stored_as}")
    return {name: value for name, value in arrays.items() if name not in set(report.unused)}, absent, wide


def taken(content: WeightsFile) -> str:
    """Which set of weights was taken of a file, why, and which others it holds, in words."""
    if not content.others:
        return str(content.taken)
    why = ", which scored better in validation" if content.meta.get("best_weights") == content.taken else ""
    return f"{content.taken}{why} (also there: {', '.join(content.others)})"


def _check_origin(origin: names.Origin, own: names.Origin, net: nn.Cell, where: str) -> None:
    if origin.refused:
        raise UserError(f"{where} has {origin.who}'s weights of {names.FAMILIES[origin.family]}. {origin.refused}")
    if origin.family != own.family:
        raise UserError(
            f"{where} has weights of {names.FAMILIES[origin.family]} (names of {origin.who}), but the network is "
            f"{_called(net, own.family)}"
        )


def _called(net: nn.Cell, family: str) -> str:
    return getattr(net, "model_name", "") or f"a {names.FAMILIES[family]}"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name.split(" ")[0], pattern) for pattern in patterns)


def _fit(name: str, value: np.ndarray, shape: tuple[int, ...], wanted: Wanted, report: Report, values: Arrays) -> None:
    if value.shape != shape and wanted.resize and name.startswith(POSITION):
        value = resize_position(value, shape)
        report.resized.append(name)
    elif wanted.adapt_channels and _has_other_channels(name, value.shape, shape):
        value = with_channels(value, shape[1])
        report.adapted.append(name)
    if value.shape != shape:
        report.differing.append(f"{name} {value.shape} instead of {shape}")
    else:
        values[name] = value


def _has_other_channels(name: str, there: tuple[int, ...], here: tuple[int, ...]) -> bool:
    return STEM in name and len(there) == 4 and there != here and there[:1] + there[2:] == here[:1] + here[2:]


def _refuse(report: Report, content: WeightsFile, net: nn.Cell, wanted: Wanted) -> None:
    missing, unexpected, differing = (
        [name for name in found if not _matches(name, wanted.may_differ)]
        for found in (report.missing, report.unexpected, report.differing)
    )
    wrong = Report(report.loaded, report.resized, missing, unexpected, differing, report.unused, notes=report.notes)
    if not (wrong.missing or wrong.unexpected or wrong.differing):
        return
    where, stored_as, called = content.where, content.meta.get("model"), getattr(net, "model_name", "")
    if stored_as and called and stored_as != called:
        where = f"{where} is a mindvit file of {stored_as}, but the network is {called}: it"
    elif stored_as:
        where = f"{where} (model {stored_as})"
    hints = [*_hints(wrong, net), Hint("", "", "may_differ=[...] names what may differ")]
    raise WeightsError(f"{where} doesn't fit the network: {wrong}{_head_of(wrong)}", report, hints)


def _head_of(wrong: Report) -> str:
    """What a head of another size is, or why there is none, as a phrase."""
    for name, there, here in map(_shapes_in, wrong.differing):
        if name.startswith(HEAD) and there[1:] == here[1:]:
            whose = f", those of {HEADS[there[0]]}" if there[0] in HEADS else ""
            return f"; the file's head has {there[0]} classes{whose}"
    if any(prefixes.is_projection(name) for name in wrong.unused):
        return "; it was trained without classes (a projection head, and no classifier)"
    return ""


def _hints(wrong: Report, net: nn.Cell) -> list[Hint]:
    """What could be asked for so that the weights fit."""
    hints = []
    sides = list(getattr(net, "sizes", ()))  # of CrossViT's branches, px
    for name, there, here in map(_shapes_in, wrong.differing):
        if name.startswith(POSITION) and there[0::2] == here[0::2]:
            branch = int(name[len(POSITION) :])
            sides[branch] = sides[branch] * math.isqrt(there[1] - 1) // math.isqrt(here[1] - 1)
            hints.append(
                Hint(
                    "--resize",
                    "--resize interpolates position embeddings, after which a network needs training",
                    "resize=True interpolates position embeddings, after which a network needs training",
                )
            )
        elif name.startswith(HEAD) and there[1:] == here[1:]:
            hints.append(
                Hint(
                    "--new_head",
                    "--new_head leaves the network's untrained",
                    "new_head=True leaves the network's untrained",
                )
            )
            order = "whose classes are in the order of its own training"
            hints.append(
                Hint(
                    "--num_classes",
                    f"--num_classes {there[0]} takes it, {order}",
                    f"num_classes={there[0]} takes it, {order}",
                )
            )
        elif _has_other_channels(name, there, here):
            hints.append(
                Hint(
                    "--adapt_channels",
                    "--adapt_channels fits the first convolutions to other input channels",
                    "adapt_channels=True fits the first convolutions to other input channels",
                )
            )
    if sides != list(getattr(net, "sizes", ())):
        size = ",".join(map(str, sides))
        takes = "takes the file's size"
        hints.insert(0, Hint("--img_size", f"--img_size {size} {takes}", f"img_size=({size}) {takes}"))
    if any(name.startswith(HEAD) for name in wrong.missing) and not wrong.differing:
        hints.append(
            Hint("--new_head", "--new_head leaves the head untrained", "new_head=True leaves the head untrained")
        )
        hints.append(Hint("--features_only", "--features_only needs none", "features_only=True needs none"))
    return hints


def _shapes_in(text: str) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Name and both shapes of an entry of Report.differing."""
    name, shapes = text.split(" ", 1)
    there, here = (tuple(map(int, re.findall(r"\d+", shape))) for shape in shapes.split(" instead of "))
    return name, there, here


def with_channels(value: np.ndarray, channels: int) -> np.ndarray:
    """A convolution's weights (O, I, k, k) for another number of input channels: their sum for one, else copies in
    turn, scaled by old / new.
    """
    if channels == 1:
        return np.asarray(value.sum(1, keepdims=True))
    inputs = value.shape[1]
    return np.asarray((value[:, np.arange(channels) % inputs] * (inputs / channels)).astype(value.dtype))


def resize_position(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Position embeddings (1, 1 + s*s, C) on another square grid, bicubic; the class token's stays. UserError if no
    square.
    """
    sides = [math.isqrt(size[1] - 1) for size in (value.shape, shape)]
    if any(side * side + 1 != size[1] for side, size in zip(sides, (value.shape, shape))) or value.shape[2] != shape[2]:
        raise UserError(
            f"position embeddings {value.shape} can't be resized to {shape}: both must be 1 + a square number of "
            "tokens of one width"
        )
    matrix = bicubic_matrix(*sides).astype(np.float64)
    grid = value[0, 1:].reshape(sides[0], sides[0], -1)
    grid = np.einsum("ah,bw,hwc->abc", matrix, matrix, grid).reshape(1, -1, shape[2])
    return np.concatenate((value[:, :1], grid.astype(value.dtype)), 1)
