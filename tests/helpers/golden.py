"""Our networks with the oracle's weights and images, beside what the authors' PyTorch code gave for them.

goldens/ holds the reference arrays (see goldens/README.md); run this file for a table of the worst deviations.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, Callable, Iterator

import mindspore as ms
import numpy as np
import yaml
from mindspore import Tensor, nn, ops

FOLDER = Path(__file__).parents[1] / "goldens"
sys.path[:0] = [str(FOLDER), str(FOLDER.parent.parent)]

import fill  # noqa: E402
from modes import no_random_weights  # noqa: E402
from steps import UNCHANGED, neutral_inputs, objective, train_step  # noqa: E402

from mindvit.engine.step import ScaledObjective, TrainStep  # noqa: E402
from mindvit.models import create_model, list_models  # noqa: E402
from mindvit.models.registry import model_config  # noqa: E402

VARIANTS: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "variants.yaml").read_text())["variants"]
TRAJECTORY_BATCH, TRAJECTORY_STEPS = 4, 20
BIG = 2e10  # multiply-adds
SMALL_ACTIVATIONS = (
    "small activations"  # a golden beside those of a network's sizes: weights with which every eps shows
)

# gradients that are zero in exact arithmetic (the oracle's REPORT.md says why): key biases and what else shifts all
# scores of a query alike
WITHOUT_GRADIENT = ("*.attn.wk.bias", "*.attn.proj_k.bias", "stage[01].*.conv_proj_k.bn.bias", "*.attn.pos.pos3.2.bias")


def is_without_gradient(name: str) -> bool:
    """Whether a whole parameter's gradient may be nothing but rounding."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in WITHOUT_GRADIENT)


def filled(name: str, filling: Callable[..., Any] = fill.fill, **arguments: Any) -> nn.Cell:
    """A network in evaluation mode with the oracle's weights, found by the authors' parameter names."""
    with no_random_weights():
        net = create_model(name, **arguments)
    return refilled(net, filling).set_train(False)


def refilled(net: nn.Cell, filling: Callable[..., Any]) -> nn.Cell:
    """The same network with other weights; a graph that is compiled already takes them."""
    for parameter in net.get_parameters():
        parameter.set_data(Tensor(filling(parameter.name, parameter.shape)))
    return net


def logits(net: nn.Cell, size: Any, at_once: int = 2) -> np.ndarray:
    """(2, classes) for the oracle's two images, both at once or one after the other."""
    images = fill.image(2, size)
    return np.concatenate([net(Tensor(images[first : first + at_once])).asnumpy() for first in range(0, 2, at_once)])


def is_big(name: str) -> bool:
    """Whether a network's goldens need gigabytes, which MindSpore gives back only when the process ends."""
    return (
        max(
            VARIANTS[file]["measured"]["macs"]["total"]
            for file in VARIANTS
            if VARIANTS[file]["golden"] in goldens()[name]
        )
        > BIG
    )


def logits_deviations(name: str) -> dict[str, float]:
    """Deviation of each of a network's logits goldens, by name; last, where there is one, of the one with small
    activations.
    """
    net, found = filled(name), {}
    for file in goldens()[name]:
        golden = np.load(FOLDER / f"{file}.npz")
        found[file] = deviation(logits(net, tuple(golden["input_size"]), 1 if is_big(name) else 2), golden["logits"])
    if (FOLDER / f"{name}.extra.npz").exists():
        with np.load(FOLDER / f"{name}.extra.npz") as extra:
            ours = logits(refilled(net, fill.fill_small), VARIANTS[name]["eval"]["input"][0])
            found[SMALL_ACTIVATIONS] = deviation(ours, extra["small"])
    return found


def logits_deviations_apart(name: str) -> dict[str, float]:
    """The same by a process of its own."""
    done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def deviation(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference over max(1, largest reference): what the tolerances are stated in."""
    return float(np.abs(ours - reference).max() / max(1.0, np.abs(reference).max()))


def images_to_step(images: np.ndarray) -> Tensor:
    """(B, C, H, W) normalised -> the step's layout."""
    return Tensor(np.ascontiguousarray(images.transpose(0, 2, 3, 1)))


def gradients(name: str, size: int) -> tuple[float, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Loss and every parameter's gradient of plain cross entropy in training mode, all drop rates 0; and the running
    statistics after it.
    """
    net = filled(name, drop_path_rate=0.0).set_train(True)
    weights = ms.ParameterTuple(net.trainable_params())
    inputs = neutral_inputs(2, size, 3)
    function = ops.value_and_grad(ScaledObjective(objective(net, **UNCHANGED)), None, weights)
    loss, found = function(
        images_to_step(fill.image(2, size)),
        Tensor(fill.labels(2).astype(np.int32)),
        *inputs[2:7],
        Tensor(1.0, ms.float32),
    )
    statistics = {item.name: item.asnumpy() for item in net.get_parameters() if not item.requires_grad}
    return (
        float(loss.asnumpy()),
        {weight.name: gradient.asnumpy() for weight, gradient in zip(weights, found)},
        statistics,
    )


def statistics_deviation(found: dict[str, np.ndarray], extra: Any) -> float:
    """Worst deviation of batch normalisation's running values after that one step; 0.0 in networks without."""
    names = [key for key in extra.files if key.startswith("bn/") and not key.endswith("num_batches_tracked")]
    assert {f"bn/{name}" for name in found} == set(names)
    return max((deviation(found[key.split("/")[1]], extra[key]) for key in names), default=0.0)


def feature_name(name: str, index: int) -> str:
    """What the oracle calls a network's feature map."""
    family = VARIANTS[name]["family"]
    if family == "crossvit":
        return f"blocks.{index // 2}.branch.{index % 2}"
    if family == "crossformer":
        return f"layers.{index}.blocks.{VARIANTS[name]['arch']['depths'][index] - 1}"
    return f"stage{index}" if family == "cvt" else f"blocks.{index}"


def feature_deviations(name: str, size: int, extra: Any) -> dict[str, float]:
    """Deviation of the sampled values of every feature map."""
    count = len(create_model(name).feature_info)
    maps = filled(name, features_only=True, out_indices=range(count))(Tensor(fill.image(2, size)))
    places, deviations = list(map(str, extra["feat_name"])), {}
    for index, found in enumerate(maps):
        place = places.index(feature_name(name, index))
        ours, samples, value = found.asnumpy(), extra["feat_idx"][place], extra["feat_val"][place]
        if extra["feat_layout"][place] == "BNC":
            tokens, channels = map(int, extra["feat_shape"][place][1:3])
            ours = ours.reshape(*ours.shape[:2], -1).transpose(0, 2, 1)
            classes = tokens - ours.shape[1]  # a class token in front, which is no place of the map
            ours = np.pad(ours, ((0, 0), (classes, 0), (0, 0)))
            samples = np.where(samples // channels % tokens < classes, -1, samples)
        assert (samples >= 0).sum() > 32
        deviations[places[place]] = deviation(ours.ravel()[samples[samples >= 0]], value[samples >= 0])
    return deviations


def trajectory_batch(step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (4, 3, size, size) and labels of a step of the oracle's 20-step trajectory."""
    cell = np.arange(size) * 7 // size
    images, labels = [], []
    for index in range(TRAJECTORY_BATCH * step, TRAJECTORY_BATCH * (step + 1)):
        noise = fill.noise(f"traj/{index}/noise", (3, size, size)).astype(np.float64)
        grid = fill.noise(f"traj/{index}/grid", (3, 7, 7)).astype(np.float64)
        images.append((0.6 * noise + 0.8 * grid[:, cell][:, :, cell]).astype(np.float32))
        labels.append(zlib.crc32(f"traj/label/{index}".encode()) % 1000)
    return np.stack(images), np.array(labels, np.int32)


def trajectory(name: str, size: int, **options: Any) -> tuple[list[float], list[float], TrainStep]:
    """Losses and gradient norms of 20 steps of the training step, and the step with its final weights."""
    net = filled(name, drop_path_rate=0.0).set_train(True)
    decayed = [weight.ndim > 1 for weight in net.trainable_params()]  # the oracle's rule, whatever the recipes spare
    step = train_step(net, decayed, **UNCHANGED, **options)
    unused = neutral_inputs(TRAJECTORY_BATCH, size, 3)[2:7]
    losses, norms = [], []
    for number in range(TRAJECTORY_STEPS):
        images, labels = trajectory_batch(number, size)
        lr = Tensor(1e-4 * min(1, (number + 1) / 5), ms.float32)
        result = step.read(step(images_to_step(images), Tensor(labels), *unused, lr))
        losses.append(result.loss)
        norms.append(result.norm)
    return losses, norms, step


@functools.cache
def goldens() -> dict[str, list[str]]:
    """Names of the logits goldens that are here, by the first variant that is their network (other sizes and weights
    share it).
    """
    found: dict[str, list[str]] = {}
    networks: dict[str, str] = {}
    for name in list_models():
        golden = VARIANTS[name]["golden"]
        network = networks.setdefault(f"{VARIANTS[name]['family']} {model_config(name)}", name)
        if (FOLDER / f"{golden}.npz").exists() and golden not in found.get(network, []):
            found.setdefault(network, []).append(golden)
    return found


def rows() -> Iterator[tuple[str, str, str, str]]:
    """(network, what, worst deviation or count, tolerance or reference), one by one as they are computed."""
    for name in list_models():
        count = sum(item.size for item in create_model(name).trainable_params())
        yield name, "parameters", f"{count:,}", f"{VARIANTS[name]['measured']['params']:,}"
    for name in goldens():
        for file, worst in logits_deviations_apart(name).items():
            size = VARIANTS[name]["eval"]["input"][0]
            yield (
                name if file == SMALL_ACTIVATIONS else file,
                f"logits, {file}" if file == SMALL_ACTIVATIONS else "logits",
                f"{worst:.1e}",
                "1e-04",
            )
            if (FOLDER / f"{file}.extra.npz").exists():
                yield from extra_rows(name, size)


def extra_rows(name: str, size: int) -> Iterator[tuple[str, str, str, str]]:
    """Second sizes, ten classes, small activations, loss and gradients of one network."""
    extra = np.load(FOLDER / f"{name}.extra.npz")
    for key in [key for key in extra.files if key.startswith("size/")]:
        height, width = map(int, key.split("/")[1].split("x"))
        yield (
            name,
            f"logits, {height}x{width} px",
            f"{deviation(logits(filled(name), (height, width)), extra[key]):.1e}",
            "1e-04",
        )
    yield (
        name,
        "logits, ten classes",
        f"{deviation(logits(filled(name, num_classes=10), size), extra['nc10']):.1e}",
        "1e-04",
    )
    features = feature_deviations(name, size, extra)
    yield name, f"features of {len(features)} places", f"{max(features.values()):.1e}", "1e-04"
    loss, found, statistics = gradients(name, size)
    norm, sample = gradient_deviations(found, extra)
    yield name, "loss", f"{abs(loss / float(extra['loss']) - 1):.1e}", "1e-04"
    yield name, "gradients: norm", f"{norm:.1e}", "1e-03"
    yield name, "gradients: samples", f"{sample:.1e}", "1e-03"
    if statistics:
        yield name, f"{len(statistics)} running statistics", f"{statistics_deviation(statistics, extra):.1e}", "1e-04"


def main() -> None:
    """Print the worst deviation of every golden, and keep the table in results/goldens.md; with a network's name,
    only its logits', as JSON.
    """
    fill.selftest()
    ms.set_context(mode=ms.GRAPH_MODE)
    if len(sys.argv) > 1:
        print(json.dumps(logits_deviations(sys.argv[1])))
        return
    lines = ["| network | what | worst deviation, or count | tolerance, or reference |", "|---|---|---|---|"]
    print("\n".join(lines))
    for row in rows():
        lines.append(f"| {' | '.join(row)} |")
        print(lines[-1], flush=True)
    (FOLDER.parent.parent / "results" / "goldens.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def gradient_deviations(found: dict[str, np.ndarray], extra: Any) -> tuple[float, float]:
    """Worst relative difference of a gradient's norm, and worst deviation of its samples, over all parameters that
    can matter.
    """
    norms, samples = [0.0], [0.0]
    for name, norm, noise, index, value in zip(
        extra["grad_name"], extra["grad_l2"], extra["grad_noise"], extra["grad_idx"], extra["grad_val"]
    ):
        ours = found[str(name)].ravel()
        samples.append(deviation(ours[index[index >= 0]], value[index >= 0]))
        if noise < 0.1 * norm:  # else the gradient is zero in exact arithmetic, and both sides' values are rounding
            norms.append(abs(float(np.linalg.norm(ours.astype(np.float64))) / norm - 1))
    return max(norms), max(samples)


if __name__ == "__main__":
    main()
