"""False alarms and missed objects as files, and on the report page."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import make_coco_folder
from PIL import Image

from mindvit.data.datasets.coco import AnnotatedDataset, read_annotations
from mindvit.data.datasets.scene_objects import SceneObjects
from mindvit.errors import UserError
from mindvit.visualization import detection_report
from mindvit.visualization.run_report import write_report


def written(dataset: AnnotatedDataset, file: Path) -> None:
    """Detections: of image 100 its object; of 101 one beside it, which is unsure, and one of another class."""
    items = json.loads(dataset.file.read_text())["annotations"]
    first, second = (next(item for item in items if item["image_id"] == number) for number in (100, 101))
    keys = ("image_id", "category_id", "bbox")
    found = [{key: first[key] for key in keys} | {"score": 0.9}]
    found.append({key: second[key] for key in keys} | {"score": 0.2})
    found.append({key: second[key] for key in keys} | {"score": 0.8, "category_id": 3})
    file.write_text(json.dumps(found))


def test_errors_by_class_and_as_a_picture(tmp_path: Path) -> None:
    root = make_coco_folder(tmp_path / "coco", train=1)
    dataset = AnnotatedDataset(read_annotations(root / "annotations" / "val.json"), root / "val", False, False)
    written(dataset, tmp_path / "predictions.json")
    lines = detection_report.write(tmp_path, tmp_path / "predictions.json", dataset)
    total = int(dataset.counts().sum())
    expected = (
        f"1 of {total} objects found, {total - 2} missed; false alarms: 0 localization, 1 classification, 0 duplicate"
    )
    assert expected in lines[0]
    rows = {row["class"]: row for row in csv.DictReader((tmp_path / "errors.csv").open())}
    assert list(rows) == ["all", "red", "blue"]
    assert (rows["red"]["found"], rows["blue"]["found"], rows["blue"]["class"]) == ("1", "0", "blue")
    picture = np.asarray(Image.open(tmp_path / "errors.png"))
    for colour in (detection_report.RED, detection_report.ACCENT):
        assert (picture == colour).all(2).any()
    (tmp_path / "log.csv").write_text("epoch,box AP\n1,3.5\n")
    page = write_report([tmp_path], tmp_path / "report")[0].read_text()
    assert "Objects found and missed, and false alarms by kind" in page
    assert "<td>all</td>" in page and f"<td>{total}</td>" in page
    assert "False alarms and missed objects" in page
    with pytest.raises(UserError, match="--out .* can't be written"):
        detection_report.write(tmp_path / "errors.csv" / "there", tmp_path / "predictions.json", dataset)


def test_data_without_ids_of_their_own(tmp_path: Path) -> None:
    scenes = SceneObjects("val")
    box = scenes.target(5).boxes[0]
    item: dict[str, Any] = {"image_id": 5, "category_id": int(scenes.target(5).labels[0]) + 1, "score": 0.9}
    item["bbox"] = [float(value) for value in (*box[:2], *(box[2:] - box[:2]))]
    (tmp_path / "a.json").write_text(json.dumps([item]))
    found = dict(detection_report.read_detections(tmp_path / "a.json", scenes))
    assert len(found) == 100
    assert found[5].boxes.tolist() == [box.tolist()]
    assert found[5].labels.tolist() == [int(scenes.target(5).labels[0])]
