"""Whose weights a file holds, told from their names, and the tables that turn those names into ours and back.

Ours are the names of the authors' PyTorch releases. A row of a table is (their name, our name), both for a whole name,
with fields in braces: {p} is a word, {c} a letter, {x} anything, all others numbers. The first row that fits is taken,
in either direction; a name that no row fits stays as it is. Several names on one side are one tensor on the other, cut
along its first axis.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Iterable, Mapping, Optional, Union

import numpy as np

from mindvit.errors import UserError

Side = Union[str, tuple[str, ...]]
FIELDS = {"p": r"[a-z_]+", "c": "[a-z]", "x": ".+"}
NUMBER = r"\d+"
OFFICIAL = "pytorch"
FAMILIES = {"crossvit": "CrossViT", "cvt": "CvT", "crossformer": "CrossFormer", "xcit": "XCiT"}


@dataclass(frozen=True)
class Origin:
    """One project's form of a family's weights. mark: a name that all of its files have and no other's.

    linear_transposed: weights of two axes are (inputs, outputs). absent: names of ours that its files never have.
    refused: why its weights can't be taken. is_read_only: whether weights aren't written in this form.
    """

    name: str
    who: str
    family: str
    mark: str
    rows: tuple[tuple[Side, Side], ...] = ()
    linear_transposed: bool = False
    absent: tuple[str, ...] = ()
    refused: str = ""
    is_read_only: bool = False


PADDLE = functools.partial(Origin, "paddlevit", "PaddleViT", linear_transposed=True)
MINDCV = (
    "The network of that name in MindCV is another one ({}): mindvit.create_model('mindcv/NAME') gives it, "
    "and reads these weights"
)

CROSSVIT = (
    Origin(
        "timm",
        "timm",
        "crossvit",
        "pos_embed_0",
        (("pos_embed_{i}", "pos_embed.{i}"), ("cls_token_{i}", "cls_token.{i}")),
    ),
    PADDLE(
        "crossvit",
        "blocks.0.blocks.0.0.attn.out.weight",
        rows=(("blocks.{i}.blocks.{j}.{k}.attn.out.{p}", "blocks.{i}.blocks.{j}.{k}.attn.proj.{p}"),),
    ),
    Origin(
        "mindcv",
        "MindCV",
        "crossvit",
        "norm.0.gamma",
        refused=MINDCV.format("bilinear resizing, tanh GELU, another LayerNorm eps"),
    ),
    Origin(OFFICIAL, "IBM/CrossViT", "crossvit", "blocks.0.revert_projs.0.0.weight"),
)

_HF, _BLOCK = "cvt.encoder.stages.{s}.", "cvt.encoder.stages.{s}.layers.{b}."
_HF_CONV = _BLOCK + "attention.attention.convolution_projection_"
CVT = (
    Origin(
        "hf",
        "Hugging Face transformers",
        "cvt",
        "cvt.encoder.stages.0.embedding.convolution_embeddings.projection.weight",
        (
            (_HF + "embedding.convolution_embeddings.projection.{p}", "stage{s}.patch_embed.proj.{p}"),
            (_HF + "embedding.convolution_embeddings.normalization.{p}", "stage{s}.patch_embed.norm.{p}"),
            (_HF + "cls_token", "stage{s}.cls_token"),
            *(
                (
                    f"{_HF_CONV}{word}.convolution_projection.convolution.{{p}}",
                    f"stage{{s}}.blocks.{{b}}.attn.conv_proj_{word[0]}.conv.{{p}}",
                )
                for word in ("query", "key", "value")
            ),
            *(
                (
                    f"{_HF_CONV}{word}.convolution_projection.normalization.{{p}}",
                    f"stage{{s}}.blocks.{{b}}.attn.conv_proj_{word[0]}.bn.{{p}}",
                )
                for word in ("query", "key", "value")
            ),
            *(
                (
                    f"{_BLOCK}attention.attention.projection_{word}.{{p}}",
                    f"stage{{s}}.blocks.{{b}}.attn.proj_{word[0]}.{{p}}",
                )
                for word in ("query", "key", "value")
            ),
            (_BLOCK + "attention.output.dense.{p}", "stage{s}.blocks.{b}.attn.proj.{p}"),
            (_BLOCK + "intermediate.dense.{p}", "stage{s}.blocks.{b}.mlp.fc1.{p}"),
            (_BLOCK + "output.dense.{p}", "stage{s}.blocks.{b}.mlp.fc2.{p}"),
            (_BLOCK + "layernorm_before.{p}", "stage{s}.blocks.{b}.norm1.{p}"),
            (_BLOCK + "layernorm_after.{p}", "stage{s}.blocks.{b}.norm2.{p}"),
            ("layernorm.{p}", "norm.{p}"),
            ("classifier.{p}", "head.{p}"),
        ),
    ),
    PADDLE(
        "cvt",
        "stages.0.patch_embed.proj.weight",
        rows=(
            ("stages.{s}.blocks.{b}.attn.conv_proj_{c}.0.{p}", "stage{s}.blocks.{b}.attn.conv_proj_{c}.conv.{p}"),
            (
                "stages.{s}.blocks.{b}.attn.conv_proj_{c}.1._mean",
                "stage{s}.blocks.{b}.attn.conv_proj_{c}.bn.running_mean",
            ),
            (
                "stages.{s}.blocks.{b}.attn.conv_proj_{c}.1._variance",
                "stage{s}.blocks.{b}.attn.conv_proj_{c}.bn.running_var",
            ),
            ("stages.{s}.blocks.{b}.attn.conv_proj_{c}.1.{p}", "stage{s}.blocks.{b}.attn.conv_proj_{c}.bn.{p}"),
            ("stages.{s}.{x}", "stage{s}.{x}"),
        ),
    ),
    Origin(OFFICIAL, "microsoft/CvT", "cvt", "stage0.patch_embed.proj.weight"),
)

CROSSFORMER = (
    Origin(
        "mm",
        "MMDetection or MMSegmentation",
        "crossformer",
        "backbone.layers.0.blocks.0.attn.pos.pos_proj.weight",
        (("backbone.{x}", "{x}"),),
        absent=("norm.*", "head.*"),
    ),
    Origin(OFFICIAL, "cheerss/CrossFormer", "crossformer", "layers.0.blocks.0.attn.pos.pos_proj.weight"),
)


def row_of_blocks(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """MMPretrain's name of a part of XCiT's two kinds of blocks, and ours."""
    kinds = (("xca_layers", "blocks"), ("ca_layers", "cls_attn_blocks"))
    return tuple((f"{kind}.{{i}}.{theirs}", f"{block}.{{i}}.{ours}") for kind, block in kinds)


XCIT = (
    Origin(
        "mm",
        "MMDetection or MMSegmentation",
        "xcit",
        "backbone.pos_embeder.token_projection.weight",
        (("backbone.{x}", "{x}"),),
        absent=("cls_token", "cls_attn_blocks.*", "norm.*", "head.*"),
    ),
    Origin(
        "timm",
        "timm",
        "xcit",
        "cls_attn_blocks.0.attn.q.weight",
        (
            (tuple(f"cls_attn_blocks.{{i}}.attn.{part}.{{p}}" for part in "qkv"), "cls_attn_blocks.{i}.attn.qkv.{p}"),
            ("pos_embed.{x}", "pos_embeder.{x}"),
        ),
    ),
    PADDLE(
        "xcit",
        "patch_embed.proj.0.1._mean",
        rows=(("{x}._mean", "{x}.running_mean"), ("{x}._variance", "{x}.running_var")),
    ),
    Origin(
        "mmpretrain",
        "MMPretrain",
        "xcit",
        "pos_embed.token_projection.conv.weight",
        (
            *(
                (f"patch_embed.proj.{place}.{part}.{{p}}", f"patch_embed.proj.{2 * place}.{number}.{{p}}")
                for place in range(4)
                for number, part in enumerate(("conv", "bn"))
            ),
            ("pos_embed.token_projection.conv.{p}", "pos_embeder.token_projection.{p}"),
            ("xca_layers.{i}.local_mp.conv{j}.conv.{p}", "blocks.{i}.local_mp.conv{j}.{p}"),
            ("xca_layers.{i}.local_mp.conv1.bn.{p}", "blocks.{i}.local_mp.bn.{p}"),
            (tuple(f"ca_layers.{{i}}.attn.{part}.{{p}}" for part in "qkv"), "cls_attn_blocks.{i}.attn.qkv.{p}"),
            *row_of_blocks("ffn.layers.0.0.{p}", "mlp.fc1.{p}"),
            *row_of_blocks("ffn.layers.1.{p}", "mlp.fc2.{p}"),
            *row_of_blocks("{x}", "{x}"),
        ),
        is_read_only=True,
    ),
    Origin(
        "mindcv",
        "MindCV",
        "xcit",
        "patch_embed.proj.0.1.moving_mean",
        refused=MINDCV.format("queries and keys that aren't normalised, tanh GELU"),
    ),
    Origin(OFFICIAL, "facebookresearch/xcit", "xcit", "pos_embeder.token_projection.weight"),
)

ORIGINS = (*CROSSVIT, *CVT, *CROSSFORMER, *XCIT)


@dataclass
class Translation:
    """Arrays under other names, and the new names of what was renamed and of what was transposed."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    renamed: list[str] = field(default_factory=list)
    transposed: list[str] = field(default_factory=list)


def recognise(names: Iterable[str]) -> Optional[Origin]:
    """Whose names these are; None for nobody's that is known."""
    names = set(names)
    return next((item for item in ORIGINS if item.mark in names), None)


def origin(name: str, family: str) -> Origin:
    """An origin by its name."""
    return next(item for item in ORIGINS if (item.name, item.family) == (name, family))


def destinations(family: str) -> list[str]:
    """Origins of a family under whose names weights can be written."""
    found = [item for item in ORIGINS if item.family == family]
    return [item.name for item in found if not (item.refused or item.absent or item.is_read_only)]


def inwards(arrays: Mapping[str, np.ndarray], origin: Origin) -> Translation:
    """An origin's weights under our names."""
    return _translated(arrays, origin.rows, origin)


def outwards(arrays: Mapping[str, np.ndarray], origin: Origin) -> Translation:
    """Our weights under an origin's names."""
    return _translated(arrays, tuple((ours, theirs) for theirs, ours in origin.rows), origin)


def _translated(arrays: Mapping[str, np.ndarray], rows: tuple[tuple[Side, Side], ...], origin: Origin) -> Translation:
    result = Translation()
    done: set[str] = set()
    for name, value in arrays.items():
        if name in done:
            continue
        sources, targets = _renamed(name, rows)
        if not all(source in arrays for source in sources):
            sources, targets = (name,), (name,)  # a part alone: the report will say what is missing
        done.update(sources)
        whole = value if len(sources) == 1 else np.concatenate([arrays[source] for source in sources])
        parts = [whole] if len(targets) == 1 else np.split(whole, len(targets))
        for target, part in zip(targets, parts):
            if target in result.arrays:
                raise UserError(
                    f"two tensors would be called {target} (one of them is {name}): the file mixes names of several "
                    "projects"
                )
            if origin.linear_transposed and part.ndim == 2:
                part = part.T
                result.transposed.append(target)
            result.arrays[target] = part
            if target != name:
                result.renamed.append(target)
    return result


def _renamed(name: str, rows: tuple[tuple[Side, Side], ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All names of the first row that fits `name`, before and after."""
    for row in rows:
        before, after = ((side,) if isinstance(side, str) else side for side in row)
        fields = next(
            (found.groupdict() for found in (_pattern(template).fullmatch(name) for template in before) if found), None
        )
        if fields is not None:
            return tuple(template.format(**fields) for template in before), tuple(
                template.format(**fields) for template in after
            )
    return (name,), (name,)


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"{(\w)}", template)
    text = "".join(
        re.escape(part) if place % 2 == 0 else f"(?P<{part}>{FIELDS.get(part, NUMBER)})"
        for place, part in enumerate(parts)
    )
    return re.compile(text)
