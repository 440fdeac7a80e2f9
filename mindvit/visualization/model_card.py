"""A run's model card: what the model is, what it reached, how it was trained, how to use it, what is left to say."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any, Mapping, Optional

import yaml

from mindvit.data.classes import imagenet
from mindvit.errors import UserError
from mindvit.inference.publish import Trained, without_paths
from mindvit.models import network_info
from mindvit.recipe.options import DataOptions
from mindvit.recipe.schema import FIELDS
from mindvit.runtime import files
from mindvit.runtime.console import table
from mindvit.tasks.metric import LOSS, METRICS
from mindvit.visualization.charts import CHARTS, axis, draw
from mindvit.visualization.run_files import LOG, Run, read_run, read_text

CARD = "README.md"
UNKNOWN = "unknown"  # what hubs call a licence that nobody has named
HUBS = {"top1": "accuracy"}  # what hubs call a metric
TAGS = {"classification": "image-classification", "segmentation": "image-segmentation", "detection": "object-detection"}
# of a result row: what concerns others, without what tells of the machine's folders
ROW = ("model", "params_m", "image_size", "epochs", "batch_size", "ranks", "device", "dtype", "seed", "mindspore")
TO_SAY = (
    ("Data", "what it was trained and validated on, and under which terms"),
    ("Intended use", "what it is for, and what it isn't"),
    ("Limits", "where it is wrong, and whom that may harm"),
)


def read_log(place: Path) -> Optional[Run]:
    """What a run's folder tells of its course; None for a checkpoint alone."""
    return read_run(place, place.name) if place.is_dir() and (place / LOG).is_file() else None


def write_card(folder: Path, trained: Trained, place: Path, run: Optional[Run], licence: str = UNKNOWN) -> list[Path]:
    """README.md, the log and, where matplotlib is installed, its curves; the files written.

    UserError if the folder can't be written.
    """
    try:
        images = _curves(folder, trained, run) if importlib.util.find_spec("matplotlib") else []
        log = [folder / LOG] if run is not None else []
        for path in log:
            files.write_text(path, read_text(place / LOG))
        files.write_text(folder / CARD, card(folder.name, trained, run, licence, [path.name for path in images]))
    except OSError as error:
        raise UserError(f"--to {folder} can't be written: {error.strerror}") from None
    return [folder / CARD, *log, *images]


def _curves(folder: Path, trained: Trained, run: Optional[Run]) -> list[Path]:
    if run is None:
        return []
    task, found = network_info(trained.model).task, []
    wanted = ("loss", METRICS[task][0].key)
    for chart in (chart for chart in CHARTS if chart.name in wanted):
        image = draw(chart, [run], axis([run]))
        if image is not None:
            path = folder / f"{chart.name}.png"
            with files.atomic_write(path) as unfinished:
                unfinished.write_bytes(image)
            found.append(path)
    return found


def front_matter(trained: Trained, result: Mapping[str, Any], licence: str) -> dict[str, Any]:
    """What hubs index a model by, its scores among it."""
    info = network_info(trained.model)
    tag = TAGS.get(info.task, info.task)
    measured = [
        {"type": HUBS.get(metric.key, metric.key), "name": metric.chart, "value": result[f"best_{metric.key}"]}
        for metric in METRICS[info.task][:1]
        if result.get(f"best_{metric.key}") is not None
    ]
    dataset = _dataset(trained)
    head: dict[str, Any] = {
        "license": licence,
        "library_name": "mindvit",
        "pipeline_tag": tag,
        "tags": [tag, "mindspore", "mindvit", trained.model],
    }
    if measured:
        data = {"name": dataset, "type": dataset}
        results = [{"task": {"type": tag}, "dataset": data, "metrics": measured}]
        head["model-index"] = [{"name": trained.model, "results": results}]
    return head


def _dataset(trained: Trained) -> str:
    """What the scores were measured on, as far as a run knows: `imagenet` in a recipe means any folder of images."""
    name = str(trained.told.recipe.get("dataset", UNKNOWN))
    if name != DataOptions.dataset:
        return name
    return "imagenet-1k" if tuple(trained.told.class_names) == imagenet().columns[0] else UNKNOWN


def card(name: str, trained: Trained, run: Optional[Run], licence: str, images: list[str]) -> str:
    """The text of the card."""
    result = run.result if run is not None else {}
    parts = [
        f"---\n{yaml.safe_dump(front_matter(trained, result, licence), sort_keys=False, allow_unicode=True)}---",
        f"# {name}",
        f"`{trained.model}`, {trained.told.num_classes} classes, trained with mindvit and "
        "[MindSpore](https://www.mindspore.cn).",
        "## Use",
        '```python\nimport mindvit\n\npredictor = mindvit.Predictor("hf:OWNER/NAME")  # or the folder\n'
        'print(predictor("image.jpg"))\nnet = mindvit.create_model("hf:OWNER/NAME")\n```',
        "## Results",
        _results(trained, run),
    ]
    parts += [f"![{Path(image).stem}]({image})" for image in images] + [f"Epoch by epoch: `{LOG}`."] * (run is not None)
    recipe = yaml.safe_dump(_chosen(without_paths(trained.told.recipe)), sort_keys=False, allow_unicode=True)
    parts += [
        "## Recipe",
        "What differs from mindvit's defaults; `config.json` has every key.",
        f"```yaml\n{recipe}```",
    ]
    if licence == UNKNOWN:
        parts += ["## Licence", "TO SAY: `license` above is `unknown`; name one that hubs know (apache-2.0, mit, ...)."]
    for title, question in TO_SAY:
        parts += [f"## {title}", f"TO SAY: {question}."]
    return files.printable("\n\n".join(parts) + "\n")


def _results(trained: Trained, run: Optional[Run]) -> str:
    """The result row in two tables, and the last epoch's row where the run hasn't ended."""
    if run is None:
        return f"Not in a run's folder: `{trained.source}` alone was published."
    task = network_info(trained.model).task
    scores = [metric.key if metric is not LOSS else "val_loss" for metric in METRICS[task]]
    scores += [f"ema_{key}" for key in scores] + [f"best_{METRICS[task][0].key}", "best_epoch"]
    last = {key: values[-1] for key, values in run.columns.items() if values and not math.isnan(values[-1])}
    row = {**last, **run.result}
    tables = [table({key: row[key] for key in keys if row.get(key) is not None}) for keys in (ROW, scores)]
    taken = f" ({trained.taken})" if trained.taken else ""
    return "\n\n".join([*tables, f"Published: `{trained.source}`{taken}. Scores in per cent."])


def _chosen(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The keys with other values than the defaults, as YAML takes them."""
    values = {key: _listed(value) for key, value in recipe.items()}
    defaults = {key: _listed(item.default) for key, (_, item, _) in FIELDS.items()}
    return {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
