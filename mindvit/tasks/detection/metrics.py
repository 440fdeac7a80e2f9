"""COCO's twelve numbers of boxes and of masks, by pycocotools, or by faster-coco-eval where that is installed."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Sequence

import numpy as np

from mindvit.errors import UserError

# pycocotools' order (COCOeval.summarize)
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def pycocotools() -> Any:
    """The package's modules `coco`, `cocoeval` and `mask`; UserError where it isn't installed."""
    try:
        from pycocotools import coco, cocoeval, mask
    except ImportError as error:
        raise UserError(
            f"pycocotools can't be imported ({error}): detectors are evaluated with it (pip install 'mindvit[coco]')"
        ) from None
    return type("Modules", (), {"coco": coco, "cocoeval": cocoeval, "mask": mask})


def evaluation_classes() -> tuple[Any, Any]:
    """COCO and COCOeval: faster-coco-eval's, which give the same numbers in a quarter of the time or less, or else
    pycocotools'.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        modules = pycocotools()
        return modules.coco.COCO, modules.cocoeval.COCOeval
    return COCO, COCOeval_faster


def encoded(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) bool as COCO's compressed run lengths, fit for JSON."""
    found = pycocotools().mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode("ascii")}


def _index(dataset: Mapping[str, Any]) -> Any:
    found = evaluation_classes()[0]()
    found.dataset = dict(dataset)
    found.createIndex()
    return found


@dataclass(frozen=True)
class KindScore:
    """COCO's numbers of boxes or masks, 0..1, -1 where there is nothing to measure, and each class's AP."""

    stats: tuple[float, ...]
    per_class: tuple[float, ...]


def evaluated(truth: Mapping[str, Any], found: Sequence[Mapping[str, Any]], kind: str) -> Any:
    """A COCOeval with its numbers; arguments: see measure."""
    annotations = [{**item, "id": number} for number, item in enumerate(truth["annotations"], 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        expected = _index({**truth, "annotations": annotations})
        nothing = _index({**truth, "annotations": []})  # loadRes fails at it
        results = expected.loadRes([dict(item) for item in found]) if found else nothing
        evaluation = evaluation_classes()[1](expected, results, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def measure(truth: Mapping[str, Any], found: Sequence[Mapping[str, Any]], kind: str) -> KindScore:
    """COCO's numbers.

    Args:
        truth: a COCO annotation file's content. Annotations are numbered anew: pycocotools takes number 0 for none.
        found: detections in COCO's form, the classes by their category_id.
        kind: "bbox" or "segm".

    Returns:
        The twelve numbers, and AP by category in the order of their ids.
    """
    evaluation = evaluated(truth, found, kind)
    precision = evaluation.eval["precision"]  # (IoU, recall, class, area, detections)
    per_class = []
    for number in range(precision.shape[2]):
        own = precision[:, :, number, 0, -1]
        per_class.append(float(own[own > -1].mean()) if (own > -1).any() else float("nan"))
    return KindScore(tuple(float(value) for value in evaluation.stats), tuple(per_class))


@dataclass(frozen=True)
class DetectionScore:
    """COCO's numbers over `count` images: of boxes and, where there are masks, of masks."""

    box: KindScore
    mask: Optional[KindScore]
    count: int

    def metrics(self) -> dict[str, float]:
        """Per cent: "box AP", "box AP50", ..., "mask AP", ...; NaN for what can't be measured."""
        found = {}
        for name, kind in (("box", self.box), ("mask", self.mask)):
            values = [-1.0] * len(STATS) if kind is None else kind.stats
            found.update({f"{name} {key}": 100 * value if value >= 0 else np.nan for key, value in zip(STATS, values)})
        return found

    @property
    def primary(self) -> float:
        """Box AP, per cent."""
        return 100 * max(self.box.stats[0], 0.0)

    def per_class(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """A row for each class with its AP, per cent; None: no object of it."""
        rows: list[dict[str, Any]] = [{"class": name} for name in names]
        for title, kind in (("box AP", self.box), ("mask AP", self.mask)):
            for row, value in zip(rows, () if kind is None else kind.per_class):
                row[title] = None if np.isnan(value) else round(100 * value, 2)
        return rows

    def __str__(self) -> str:
        found = self.metrics()
        kinds = ["box"] if self.mask is None else ["box", "mask"]
        return "  ".join(f"{kind} {key} {found[f'{kind} {key}']:.2f} %" for kind in kinds for key in STATS[:3])
