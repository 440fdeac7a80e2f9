"""What it does to a segmentor's answers if images reach it in few shapes instead of each in its own.

python benchmarks/eval_shapes.py --ckpt_path FILE --config FILE [--data_dir DIR]

The validation images of a recipe, in several ways: with sides that are enlarged to multiples of 32 px, as the authors
test, and so a graph for every shape; of 64 and 128; and padded with zeros to multiples of 128 after they were
normalized, which is cut off again. Each way's mIoU, the pixels that are of another class than in the first way, the
mean difference of logits at the images' own sizes, and how many graphs were compiled in what time.
"""

from __future__ import annotations

import datetime
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Sequence

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from mindvit import errors  # noqa: E402
from mindvit.recipe.commandline import Parser, parse  # noqa: E402
from mindvit.recipe.schema import Recipe  # noqa: E402
from mindvit.runtime import console  # noqa: E402

EXACT, PADDED = 32, 128
WAYS = {"exact": (EXACT, 0), "multiples of 64": (64, 0), "multiples of 128": (128, 0), "padded to 128": (EXACT, PADDED)}


@dataclass
class Way:
    """What one way gave."""

    matrix: Any
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    seconds: float = 0.0
    pixels: int = 0
    others: int = 0
    distance: list[float] = field(default_factory=list)


def logits_of(net: Any, pixels: np.ndarray, padding: int, shapes: set[tuple[int, ...]]) -> np.ndarray:
    """(3, H, W) normalized -> (classes, H, W), padded on the way to multiples of `padding`, if there is one."""
    from mindspore import Tensor

    height, width = pixels.shape[1:]
    if padding:
        pixels = np.pad(pixels, ((0, 0), (0, -height % padding), (0, -width % padding)))
    shapes.add(pixels.shape)
    return np.asarray(net(Tensor(pixels[None])).asnumpy())[0, :, :height, :width]


def measure(recipe: Recipe, limit: int) -> tuple[str, list[dict[str, Any]]]:
    """The network, and a row for each way."""
    import dataclasses

    from mindvit.inference.predictor import Predictor
    from mindvit.tasks import task_of
    from mindvit.tasks.segmentation.inference import resize
    from mindvit.tasks.segmentation.metrics import ConfusionMatrix
    from mindvit.tasks.segmentation.settings import test_scale

    predictor = Predictor(str(recipe.model.ckpt_path), device_target=recipe.runtime.device_target)
    net, ctx = predictor.net, predictor.ctx
    dataset: Any = task_of(ctx.recipe).open(recipe, "val")  # type: ignore[attr-defined]
    scale = test_scale(recipe, ctx.inputs)
    found = {name: Way(ConfusionMatrix(ctx.num_classes)) for name in WAYS}
    for index in range(min(limit, len(dataset))):
        sample = dataset[index]
        labels, own = np.asarray(sample.target), np.asarray(sample.image)
        exact: Any = None
        for name, way in found.items():
            divisor, padding = WAYS[name]
            test = dataclasses.replace(scale, divisor=divisor)
            pixels = test.normalized(test.resized(own))
            start = time.perf_counter()
            logits = logits_of(net, pixels, padding, way.shapes)
            way.seconds += time.perf_counter() - start
            logits = resize(logits, (labels.shape[0], labels.shape[1]))
            answer = logits.argmax(0)
            way.matrix.update(answer, labels)
            exact = exact or (logits, answer)
            way.pixels += answer.size
            way.others += int((answer != exact[1]).sum())
            way.distance.append(float(np.abs(logits - exact[0]).mean()))
    options = ctx.recipe.model
    network = " on ".join(item for item in (options.model, options.backbone) if item)
    return network, [row(name, way) for name, way in found.items()]


def row(name: str, way: Way) -> dict[str, Any]:
    """As the table has it."""
    return {
        "shapes": name,
        "mIoU": f"{way.matrix.score(len(way.distance)).primary:.2f} %",
        "pixels of another class": f"{100 * way.others / way.pixels:.2f} %",
        "logits differ by": f"{np.mean(way.distance):.3f}",
        "graphs": len(way.shapes),
        "seconds": f"{way.seconds:.1f}",
    }


def main(arguments: Sequence[str]) -> None:
    """Measure, print, keep; UserError for anything that the user can mend."""
    parser = Parser(prog="python benchmarks/eval_shapes.py", description=str(__doc__).splitlines()[0], add_help=False)
    parser.add_argument("--images", type=int, default=100, metavar="N", help="validation images (default: 100)")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    given, rest = parser.parse_known_args(arguments)
    recipe = parse(rest, str(__doc__).splitlines()[0])[0]
    if not recipe.model.ckpt_path:
        raise errors.UserError("--ckpt_path is missing: weights that were trained")
    network, rows = measure(recipe, given.images)
    told = (
        f"{given.images} images of {recipe.data.dataset}, {network}; seconds with compiling; "
        f"{datetime.date.today().isoformat()}."
    )
    text = f"{console.table(*rows)}\n\n{told}\n"
    print(text)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "eval_shapes.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    errors.run(main)
