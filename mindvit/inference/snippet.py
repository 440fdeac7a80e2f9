"""What an exported file says of itself, and ten lines of Python that need nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping, Optional

START = """import json, numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession({path!r}, providers=["CPUExecutionProvider"])
told = {{key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}}
image, (_, height, width) = Image.open("image.jpg").convert("RGB"), told["input_size"]
"""
CENTER = """size = [int(width / told["crop_pct"]) * side // min(image.size) for side in image.size]
left, top = [round((side - width) / 2) for side in size]
image = image.resize(size, Image.Resampling[told["interpolation"].upper()]).crop((left, top, left + width, top + width))
"""
SQUASH = 'image = image.resize((width, height), Image.Resampling[told["interpolation"].upper()])\n'
WHOLE = 'image = image.resize((width, height), Image.Resampling["BILINEAR"])\n'  # a segmentor's
RUN = """x = ((np.asarray(image) / 255 - told["mean"]) / told["std"]).transpose(2, 0, 1)[None].astype(np.float32)
output = session.run(None, {{"image": x{repeated}}})[0][0].astype(float)
"""
CLASSES = """shares = np.exp(output) / np.exp(output).sum()
for number in np.argsort(-shares)[:5]:
    print(f"{told['label_names'][number]}  {100 * shares[number]:.2f} %")
"""
LABELS = """labels = output.argmax(0).astype(np.uint8)  # a class number for each pixel
for number in np.unique(labels):
    print(f"{told['label_names'][number]}  {100 * (labels == number).mean():.2f} % of the pixels")
"""
DETECTIONS = """factor = min(height / image.height, width / image.width)
fitted = image.resize([int(side * factor) for side in image.size], Image.Resampling["BILINEAR"])
x = np.zeros((1, 3, height, width), np.float32)
x[0, :, : fitted.height, : fitted.width] = ((np.asarray(fitted) / 255 - told["mean"]) / told["std"]).transpose(2, 0, 1)
inputs = dict(zip(told["inputs"], (x, np.float32([[fitted.height, fitted.width]]), np.float32([0.3]))))
boxes, scores, labels = (found[0] for found in session.run(told["outputs"][:3], inputs))
for box, score, label in zip(boxes / factor, scores, labels):
    if score > 0:
        print(f"{told['label_names'][label]}  {100 * score:.2f} %  left, top, right, bottom: {box.round().astype(int)}")
"""


def metadata(content: Mapping[str, Any]) -> dict[str, str]:
    """A side file's content as a file's metadata has it: JSON by key."""
    return {key: json.dumps(value, ensure_ascii=False) for key, value in content.items()}


def snippet(path: Path, content: Mapping[str, Any], batch: Optional[int] = None) -> str:
    """Python that names what is in image.jpg with an ONNX file of ours, onnxruntime, numpy and Pillow.

    Args:
        path: the file.
        content: its metadata, see side_file.
        batch: how many images it takes at once; None: any number.

    Returns:
        The lines, each with its end.
    """
    if content["task"] == "detection":
        return START.format(path=str(path)) + DETECTIONS
    classifies = content["task"] == "classification"
    resized = WHOLE if not classifies else SQUASH if content["crop_mode"] == "squash" else CENTER
    repeated = "" if batch in (None, 1) else f".repeat({batch}, 0)"
    return START.format(path=str(path)) + resized + RUN.format(repeated=repeated) + (CLASSES if classifies else LABELS)
