"""onnxruntime's side: side_onnxruntime.py MODEL BATCH, forward alone, of the ONNX file that we export."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import onnxruntime
from side import Step, answers_only, serve

from mindvit.inference.export import export
from mindvit.models import create_model, model_info
from mindvit.runtime import platform


def main(model: str, batch: int) -> None:
    """Serve the exported network."""
    answers = answers_only()
    size = model_info(model).input_size
    image = (3, size, size)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{model}.onnx"
        export(create_model(model, for_platform=platform.PORTABLE), image, "ONNX", path, batch)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    images = {session.get_inputs()[0].name: np.random.default_rng(0).standard_normal((batch, *image), np.float32)}

    def make(mode: str) -> Step:
        if mode != "forward":
            sys.exit("an exported file does not train")
        return lambda: session.run(None, images)

    serve(answers, {"what": f"our ONNX file, onnxruntime {onnxruntime.__version__}", "name": model, "size": size}, make)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
