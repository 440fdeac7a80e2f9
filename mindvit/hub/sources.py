"""The one table of where the weights of every network are: addresses, hub repositories, and what no program can fetch.

Every address was read from what `read_in` names: the authors' code and pages, timm's, transformers', MMPretrain's and
PaddleViT's. None was made up from a pattern; where names are regular, the pattern was compared with each line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Optional

from mindvit.errors import Hint, UserError, nearest

HUB = "hf:"  # before OWNER/NAME: a repository on Hugging Face
ORIGINS = {
    "pytorch": "the authors",
    "timm": "timm",
    "hf": "Hugging Face transformers",
    "mmpretrain": "MMPretrain",
    "paddlevit": "PaddleViT",
}  # what `pretrained` calls them; the rename tables of mindvit.weights.names have the same names
GIVE = Hint(
    "--ckpt_path", "fetched in a browser, --ckpt_path FILE takes it", "fetched in a browser, pretrained=FILE takes it"
)
CLASSES = 1000  # of every file in the table: ImageNet-1K's, also of those that were trained on ImageNet-22k before


@dataclass(frozen=True)
class Source:
    """A file with a network's weights that a program can fetch.

    place: an https address, or hf:OWNER/NAME with `file` in it. form: the format. sha256: the published digest, or
    how it begins; empty where none was published. read_in: where the place was read.
    """

    origin: str
    place: str
    file: str
    form: str
    read_in: str
    sha256: str = ""
    num_classes: int = CLASSES

    @property
    def repository(self) -> str:
        """OWNER/NAME on Hugging Face, or an empty string."""
        return self.place[len(HUB) :] if self.place.startswith(HUB) else ""

    @property
    def link(self) -> str:
        """Where a browser finds the file or its repository."""
        return f"https://huggingface.co/{self.repository}" if self.repository else self.place


@dataclass(frozen=True)
class Elsewhere:
    """Why a network's weights of an origin can't be fetched, and the page that has them, if there is one."""

    origin: str
    reason: str
    page: str = ""


CROSSVIT_CODE = "IBM/CrossViT models/crossvit.py, _model_urls"
TIMM_CROSSVIT = "huggingface/pytorch-image-models timm/models/crossvit.py, default_cfgs"
TIMM_XCIT = "huggingface/pytorch-image-models timm/models/xcit.py, default_cfgs"
XCIT_README = "facebookresearch/xcit README.md, Model Zoo"
MMPRETRAIN = "open-mmlab/mmpretrain configs/xcit/metafile.yml"
CVT_CODE = "huggingface/transformers models/cvt, and the repositories' pages"
DRIVE = "https://drive.google.com/file/d/{}/view"

# name: the authors' file, timm's repository, PaddleViT's file on Google Drive
CROSSVIT = {
    "crossvit_tiny": ("crossvit_tiny_224", "crossvit_tiny_240.in1k", "1ILTVwQtetcb_hdRjki2ZbR26p-8j5LUp"),
    "crossvit_small": ("crossvit_small_224", "crossvit_small_240.in1k", "1ViOJiwbOxTbk1V2Go7PlCbDbWPbjWPJH"),
    "crossvit_base": ("crossvit_base_224", "crossvit_base_240.in1k", "1vTorkc63O4JE9cYUMHBRxFMDOFoC-iK7"),
    "crossvit_9": ("crossvit_9_224", "crossvit_9_240.in1k", "1UCX9_mJSx2kDAmEd_xDXyd4e6-Mg3RPf"),
    "crossvit_15": ("crossvit_15_224", "crossvit_15_240.in1k", "1HwkLWdz6A3Nz-dVbw4ZUcCkxUbPXgHwM"),
    "crossvit_18": ("crossvit_18_224", "crossvit_18_240.in1k", "1C4b_a_6ia8NCEXSUEMDdCEFzedr0RB_m"),
    "crossvit_9_dagger": ("crossvit_9_dagger_224", "crossvit_9_dagger_240.in1k", "1_cXQ0M8Hr9UyugZk07DrsBl8dwwCA6br"),
    "crossvit_15_dagger": (
        "crossvit_15_dagger_224",
        "crossvit_15_dagger_240.in1k",
        "1cCgBoozh2WFtSz42LwEUUPPyC5KmkAFg",
    ),
    "crossvit_18_dagger": (
        "crossvit_18_dagger_224",
        "crossvit_18_dagger_240.in1k",
        "1sdAbWxKL5k3QIo1zdgHzasIOtpy_Ogpw",
    ),
    "crossvit_15_dagger_384": (
        "crossvit_15_dagger_384",
        "crossvit_15_dagger_408.in1k",
        "12LQjYbs9-LyrY1YeRt46x9BTB3NJuhpJ",
    ),
    "crossvit_18_dagger_384": (
        "crossvit_18_dagger_384",
        "crossvit_18_dagger_408.in1k",
        "1CeGwB6Tv0oL8QtL0d7Ar-d02Lg_PqACr",
    ),
}
# name: Microsoft's repository and the file in it, PaddleViT's file on Google Drive
CVT = {
    "cvt_13_224": ("cvt-13", "model.safetensors", "1r0fnHn1bRPmN0mi8RwAPXmD4utDyOxEf"),
    "cvt_21_224": ("cvt-21", "pytorch_model.bin", "18s7nRfvcmNdbRuEpTQe02AQE3Y9UWVQC"),
    "cvt_13_384": ("cvt-13-384", "pytorch_model.bin", "1J0YYPUsiXSqyExBPtOPrOLL9c16syllg"),
    "cvt_21_384": ("cvt-21-384", "pytorch_model.bin", "1tpXv_yYXtvyArlYi7AFcHUOqemhyMWHW"),
    "cvt_13_384_22k": ("cvt-13-384-22k", "pytorch_model.bin", "18djrvq422u1pGLPxNfWAp6d17F7C5lbP"),
    "cvt_21_384_22k": ("cvt-21-384-22k", "pytorch_model.bin", "1NVXd7vxVoRpL-21GN7nGn0-Ut0L0Owp8"),
    "cvt_w24_384_22k": ("cvt-w24-384-22k", "pytorch_model.bin", "1M3bg46N4SGtupK8FcvAOE0jltOwP5yja"),
}
# what the READMEs of cheerss/CrossFormer link, its detection/ and its segmentation/; None: a row without a link
CROSSFORMER = {
    "crossformer_tiny": "1YSkU9enn-ITyrbxLH13zNcBYvWSEidfq",
    "crossformer_small": "1RAkigsgr33va0RZ85S2Shs2BhXYcS6U8",
    "crossformer_base": "1bK8biVCi17nz_nkt7rBfio_kywUpllSU",
    "crossformer_large": "1zRWByVW_KIZ87NgaBkDIm60DAsGJErdG",
}
DENSE: Mapping[str, Optional[str]] = {
    "semantic_fpn_crossformer_small": "1I-zpGG5rvkTtrTUnOF8Fx11yeb6pXGYi",
    "semantic_fpn_crossformer_base": "1EjAnRc8Sau0un1ymqDVhFebHPeBIjukK",
    "semantic_fpn_crossformer_large": "12WS9lX9yR5skxdt3N2HE3b2EaDSMwUMY",
    "upernet_crossformer_small": "1VKu4D6oxYdO1VVILLMhOQy8oCxKGH5gx",
    "upernet_crossformer_base": "1B8VTNeidrzlfsOkQUKgmX4m_UfCIm58i",
    "upernet_crossformer_large": "1I9ph5MeCwlTF2PNCkIYMFXYsdywp9nU1",
    "retinanet_crossformer_small": "1OEEottS4fYGVZcPZG6WuBlKMK0tZLPZW",
    "retinanet_crossformer_base": "1TOuLLf_S4Ixo6COvaHQAocACR4NKKnGz",
    "mask_rcnn_crossformer_small": "1qgO3-wnsJQw9Nj304AOj-TjVyadPPtvf",
    "mask_rcnn_crossformer_base": "1urkCa8Inss9CL1G1OgM4tWR5PSf6Ofn4",
    "mask_rcnn_crossformer_small_3x": None,
    "mask_rcnn_crossformer_base_3x": None,
    "cascade_mask_rcnn_crossformer_small_3x": None,
}
# MMPretrain's date and digest (the first 32 bits of SHA-256, as its publishing script writes them) of network_patch,
# at 224 px, at 224 px with a teacher, at 384 px with a teacher
# fmt: off
XCIT = {
    "xcit_nano_12_p16": ("20230213-ed776c38", "20230213-fb247f7b", "20230213-712db4d4"),
    "xcit_tiny_12_p16": ("20230213-82c547ca", "20230213-d5fde0a3", "20230213-00a20023"),
    "xcit_tiny_24_p16": ("20230213-366c1cd0", "20230213-b472e80a", "20230213-20e13917"),
    "xcit_small_12_p16": ("20230213-d36779d2", "20230213-c95bbae1", "20230213-ba36c982"),
    "xcit_small_24_p16": ("20230213-40febe38", "20230213-130d7262", "20230213-28fa2d0e"),
    "xcit_medium_24_p16": ("20230213-ad0aa92e", "20230213-aca5cd0c", "20230214-6c23a201"),
    "xcit_large_24_p16": ("20230214-d29d2529", "20230214-4fea599c", "20230214-bd515a34"),
    "xcit_nano_12_p8": ("20230213-3370c293", "20230213-2f87d2b3", "20230213-09d925ef"),
    "xcit_tiny_12_p8": ("20230213-8b02f8f5", "20230213-f3f9b44f", "20230213-a072174a"),
    "xcit_tiny_24_p8": ("20230213-4b9ba392", "20230213-ad9c44b0", "20230213-30d5e5ec"),
    "xcit_small_12_p8": ("20230213-9e364ce3", "20230213-71886580", "20230214-9f2178bc"),
    "xcit_small_24_p8": ("20230213-280ebcc7", "20230213-f2773c78", "20230214-57298eca"),
    "xcit_medium_24_p8": ("20230214-c362850b", "20230214-625c953b", "20230214-5db925e0"),
    "xcit_large_24_p8": ("20230214-08f2f664", "20230214-8c092b34", "20230214-9f718b1a"),
}
# fmt: on
# our ending, the authors', timm's, MMPretrain's
TRAININGS = (
    ("_224", "_224", "_224.fb_in1k", "3rdparty_in1k"),
    ("_224_distill", "_224_dist", "_224.fb_dist_in1k", "3rdparty-dist_in1k"),
    ("_384_distill", "_384_dist", "_384.fb_dist_in1k", "3rdparty-dist_in1k-384px"),
)
# digests on the files' own pages on Hugging Face, as far as they could be read: by repository and file
PUBLISHED = {
    ("timm/crossvit_9_240.in1k", "model.safetensors"): (
        "5b45ceb819816111d69a80dd4df1404ae574df5835962854276550fefe07878f"
    ),
    ("timm/crossvit_small_240.in1k", "model.safetensors"): (
        "f71a8685182a0ac0b74a36b3b1d9053e5db5e40c08ad583156ae64f8ade11169"
    ),
    ("timm/crossvit_18_dagger_408.in1k", "model.safetensors"): (
        "64f24c9f4daf58b8b410ef4f62402a00e6d2e4a28fba6e78a9921c3d8a9f02cd"
    ),
    ("timm/xcit_large_24_p16_224.fb_in1k", "model.safetensors"): (
        "0006fa7542b12cf466838026d942ec3c5c5c9b74a882b8af0ced4b1a9104961e"
    ),
    ("timm/xcit_tiny_24_p16_224.fb_in1k", "model.safetensors"): (
        "1d593c2c504838dc786de05080d8a2310ff1a523bfc04c023079fed8dee03359"
    ),
    ("microsoft/cvt-13-384", "pytorch_model.bin"): "bac7a58899c41b4cd90bfded50f1d4e1cf283c2d3255e3fce7ff7350e0d23438",
    ("microsoft/cvt-21-384", "pytorch_model.bin"): "c19b5977814f89e610d6e8e30582586ff02168a7e8dcd7a117aa9fa5a234e051",
}


def _in_repository(origin: str, repository: str, file: str, read_in: str) -> Source:
    form = "safetensors" if file.endswith(".safetensors") else "PyTorch"
    return Source(origin, HUB + repository, file, form, read_in, PUBLISHED.get((repository, file), ""))


def _at(origin: str, address: str, read_in: str, sha256: str = "") -> Source:
    return Source(origin, address, address.rpartition("/")[2], "PyTorch", read_in, sha256)


def _on_drive(origin: str, key: Optional[str], where: str) -> Elsewhere:
    if key is None:
        return Elsewhere(origin, f"{where} gives figures and links no file")
    return Elsewhere(origin, f"{where} links them on Google Drive, whose pages answer browsers only", DRIVE.format(key))


def _sources() -> dict[str, tuple[Source, ...]]:
    found: dict[str, tuple[Source, ...]] = {}
    for name, (file, repository, _) in CROSSVIT.items():
        found[name] = (
            _at("pytorch", f"https://github.com/IBM/CrossViT/releases/download/weights-0.1/{file}.pth", CROSSVIT_CODE),
            _in_repository("timm", f"timm/{repository}", "model.safetensors", TIMM_CROSSVIT),
        )
    for name, (repository, file, _) in CVT.items():
        found[name] = (_in_repository("hf", f"microsoft/{repository}", file, CVT_CODE),)
    found.update(dict.fromkeys((*CROSSFORMER, *DENSE), ()))
    for network, digests in XCIT.items():
        dashed = network.replace("_", "-")
        for (ours, theirs, timm, mm), digest in zip(TRAININGS, digests):
            address = f"https://download.openmmlab.com/mmclassification/v0/xcit/{dashed}_{mm}_{digest}.pth"
            found[network + ours] = (
                _at("pytorch", f"https://dl.fbaipublicfiles.com/xcit/{network}{theirs}.pth", XCIT_README),
                _in_repository("timm", f"timm/{network}{timm}", "model.safetensors", TIMM_XCIT),
                _at("mmpretrain", address, MMPRETRAIN, digest.partition("-")[2]),
            )
    return found


def _elsewhere() -> dict[str, tuple[Elsewhere, ...]]:
    paddle = "PaddleViT's README"
    found: dict[str, tuple[Elsewhere, ...]] = {
        name: (_on_drive("paddlevit", key, paddle),) for name, (_, _, key) in CROSSVIT.items()
    }
    zoo = Elsewhere(
        "pytorch",
        "the authors' README links a folder on OneDrive, whose pages answer browsers only",
        "https://github.com/microsoft/CvT#models-pre-trained-on-imagenet-22k",
    )
    found.update({name: (zoo, _on_drive("paddlevit", key, paddle)) for name, (_, _, key) in CVT.items()})
    for name, file in {**CROSSFORMER, **DENSE}.items():
        found[name] = (_on_drive("pytorch", file, "the authors' README"),)
    nothing = Elsewhere("paddlevit", f"{paddle} of XCiT links no file")
    found.update({network + ours: (nothing,) for network in XCIT for ours, *_ in TRAININGS})
    return found


# what can be fetched, by the network's name; the first is the default: the weights whose accuracy our tables quote
SOURCES: Mapping[str, tuple[Source, ...]] = _sources()
# what was released and can't be, by the same names
ELSEWHERE: Mapping[str, tuple[Elsewhere, ...]] = _elsewhere()


def source_of(name: str, origin: Optional[str] = None) -> Source:
    """Where a network's weights are.

    Args:
        name: the network's own name, no alias.
        origin: one of ORIGINS; None: the one whose accuracy is quoted.

    Returns:
        The first source that fits.

    Raises:
        UserError: there is none that a program can fetch; the message says why, and where a person finds the file.
    """
    if name not in SOURCES:
        raise UserError(f"no published weights of {name!r} are known{nearest(name, SOURCES)}")
    found = [item for item in SOURCES[name] if origin in (None, item.origin)]
    if found:
        return found[0]
    hints = [_takes(item.origin) for item in SOURCES[name]]
    for item in ELSEWHERE[name]:
        if origin in (None, item.origin):
            where = f"; the file is at {item.page}" if item.page else ""
            by_hand = [GIVE] if item.page else []
            raise UserError(f"{name} has no weights that can be fetched: {item.reason}{where}", [*by_hand, *hints])
    raise UserError(f"{name}: no weights of {ORIGINS.get(str(origin), origin)} are known", hints)


def _takes(origin: str) -> Hint:
    words = f"takes those of {ORIGINS[origin]}"
    return Hint("--pretrained", f"--pretrained {origin} {words}", f"pretrained={origin!r} {words}")
