"""mindvit's side: side_mindvit.py MODEL BATCH float32|bfloat16."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import mindspore
from side import Step, answers_only, serve

from mindvit.benchmark.network import CLASSES, SUBJECTS, NoImages, compiled, image_sides
from mindvit.engine.setup import setup
from mindvit.models import network_info
from mindvit.recipe import schema
from mindvit.version import __version__


def main(model: str, batch: int, kind: str) -> None:
    """Serve the steps that train.py and validate.py run."""
    answers = answers_only()
    info = network_info(model)
    values = {
        "model": model,
        "batch_size": batch,
        "device_target": "CPU",
        **({"label_smoothing": 0.1} if info.task == "classification" else {"drop_rate": 0.1}),
        "drop_path_rate": 0.0,
        "lr": 1e-3,
        "amp_level": "O0" if kind == "float32" else "O2",
        "amp_type": "auto" if kind == "float32" else kind,
    }
    setting = setup(schema.build(values, {}), NoImages(getattr(info, "num_classes", CLASSES)))
    if setting.device.dtype != kind:
        sys.exit(f"{kind} is nothing that this machine is fast in")

    def make(mode: str) -> Step:
        subject = SUBJECTS[mode](setting)
        compiled(subject, setting, cache=None)
        return lambda: subject.step().asnumpy()

    serve(
        answers,
        {
            "what": f"mindvit {__version__}, MindSpore {mindspore.__version__}",
            "name": info.name,
            "size": image_sides(setting)[0],
        },
        make,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
