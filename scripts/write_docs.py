"""Write the generated parts of README and docs: model table, recipe keys, quick-start row, measurements.

python scripts/write_docs.py [--check]: with --check, only say whether they are up to date (exit code 1 if not).
"""

from __future__ import annotations

import csv
import functools
import json
import re
import sys
from pathlib import Path
from typing import Any, Callable, Sequence

import docs_commands
import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from mindvit.benchmark.columns import SHOWN  # noqa: E402
from mindvit.cli.benchmark import SHOWN_DATA  # noqa: E402
from mindvit.engine.result import tables  # noqa: E402
from mindvit.hub.sources import ELSEWHERE, SOURCES  # noqa: E402
from mindvit.models import dense_info, list_models, model_info  # noqa: E402
from mindvit.recipe.schema import FIELDS, SECTIONS, WITHOUT_EFFECT, type_name  # noqa: E402
from mindvit.runtime.console import table  # noqa: E402
from mindvit.tasks.classification.task import ClassificationTask  # noqa: E402


def models() -> str:
    """Every network with its published figures."""
    lines = [
        "| name | also called | parameters (M) | multiply-adds (G) | input | top-1 | top-5 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in list_models():
        info = model_info(name)
        lines.append(
            f"| `{name}` | {', '.join(f'`{alias}`' for alias in info.aliases)} | {info.params / 1e6:.2f} | "
            f"{info.macs / 1e9:.2f} "
            f"| {info.input_size} | {info.acc1:.2f} | {'-' if info.acc5 is None else f'{info.acc5:.2f}'} |"
        )
    return "\n".join(lines)


def dense_models(task: str, size: tuple[int, int], metrics: Sequence[str]) -> str:
    """Every published network of a task with its figures; size: height and width of the images that multiply-adds are
    of; metrics: their names, which are the columns' titles.
    """
    titles = ["name", "parameters (M)", f"multiply-adds (G) at {size[1]} x {size[0]} px", *metrics, "weights"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for info in map(dense_info, list_models(task=task)):
        assert info.macs_size == size
        figures = [f"{info.metrics[key]:.1f}" if key in info.metrics else "-" for key in metrics]
        cells = [f"`{info.name}`", f"{info.params / 1e6:.2f}", f"{info.macs / 1e9:.1f}", *figures, weights(info.name)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def segmentors() -> str:
    """Every published segmentor with its figures."""
    return dense_models("segmentation", (1024, 1024), ("mIoU", "mIoU, multi-scale"))


def detectors() -> str:
    """Every published detector with its figures."""
    return dense_models("detection", (800, 1280), ("box AP", "mask AP"))


def weights(name: str) -> str:
    """Where a network's weights are, source by source, as links; what no program can fetch comes last."""
    by_hand = [f"{item.origin} by hand: [page]({item.page})" for item in ELSEWHERE[name] if item.page]
    none = [f"{item.origin}: none released" for item in ELSEWHERE[name] if not item.page]
    fetched = [f"[{source.origin}]({source.link})" for source in SOURCES[name]]
    return ", ".join([*fetched, *by_hand] or none)


def family(name: str) -> str:
    """A family's networks: facts, published accuracy and, where timm measured it, the row there, recipe, weights."""
    by_timm = name in ("crossvit", "xcit")
    columns = [
        "name",
        "parameters (M)",
        "multiply-adds (G)",
        "input",
        "top-1",
        "top-5",
        "weights",
        "recipe",
        *["row in timm"] * by_timm,
    ]
    lines = [columns, ["---"] * len(columns)]
    for info in (model_info(model) for model in list_models()):
        if info.family == name:
            recipe = Path("configs", name, f"{info.name}_ascend.yaml")
            assert (ROOT / recipe).exists(), recipe
            row = info.accuracy_source.partition("timm results-imagenet.csv, ")[2]
            lines.append(
                [
                    f"`{info.name}`",
                    f"{info.params / 1e6:.2f}",
                    f"{info.macs / 1e9:.2f}",
                    str(info.input_size),
                    f"{info.acc1:.2f}",
                    "-" if info.acc5 is None else f"{info.acc5:.2f}",
                    weights(info.name),
                    f"`{recipe.name}`",
                    *[f"`{row}`"] * by_timm,
                ]
            )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@functools.lru_cache
def published() -> dict[str, Any]:
    """What was published of every network, by its name: the table that we began from (`seed`) and timm's validation
    of the same weights.
    """
    variants = yaml.safe_load((ROOT / "tests" / "goldens" / "variants.yaml").read_text(encoding="utf-8"))["variants"]
    return {model_info(name).name: facts for name, facts in variants.items()}


def errata_xcit() -> str:
    """Rows of the seed table that repeat another network's figures, beside timm's."""
    rows = {
        name: (facts["seed"]["acc1"], facts["seed"]["acc5"])
        for name, facts in published().items()
        if name.startswith("xcit")
    }
    lines = [
        "| network | the seed table | that is the row of | timm's validation of its weights | authors' top-1 |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        twin = next((other for other in rows if other != name and rows[other] == row), None)
        measured = published()[name]["timm_validation"]
        if twin and abs(measured["acc1"] - row[0]) > 0.1:
            lines.append(
                f"| `{name}` | {row[0]:.2f} / {row[1]:.2f} | `{twin}` | {measured['acc1']:.3f} / "
                f"{measured['acc5']:.3f} | {AUTHORS_TOP1[name]} |"
            )
    return "\n".join(lines)


def errata_crossvit() -> str:
    """CrossViT's networks whose accuracy in the seed table is more than 0.1 from timm's."""
    lines = ["| network | the seed table, 224 px | timm, 240 px |", "|---|---|---|"]
    for name, facts in published().items():
        given, measured = facts["seed"], facts.get("timm_validation")
        if name.startswith("crossvit") and abs(given["acc1"] - measured["acc1"]) > 0.1:
            lines.append(
                f"| `{name}` | {given['acc1']:.2f} / {given['acc5']:.2f} | {measured['acc1']:.3f} / "
                f"{measured['acc5']:.3f} |"
            )
    return "\n".join(lines)


def digits(name: str) -> str:
    """What a family's digits recipe reached in the run that was kept."""
    row = json.loads((ROOT / "results" / "digits" / f"{name}.json").read_text(encoding="utf-8"))
    machine = f"{row['machine']}, MindSpore {row['mindspore']}, {row['time'][:10]}"
    return (
        "| recipe | network | input | epochs | top-1 | machine |\n|---|---|---|---|---|---|\n"
        f"| `{row['config']}` | `{row['model']}` | {row['image_size']}x{row['image_size']} | {row['epochs']} | "
        f"{row['top1']:.2f} | {machine} |"
    )


def keys() -> str:
    """Every recipe key with type, default and meaning."""
    lines: list[str] = []
    for section, cls in SECTIONS.items():
        lines += [f"## {section}", "", str(cls.__doc__), "", "| key | type | default | meaning |", "|---|---|---|---|"]
        for key, (home, item, kind) in FIELDS.items():
            if home == section:
                kinds = " / ".join(f"`{choice}`" for choice in item.metadata["choices"]) or type_name(kind)
                lines.append(f"| `{key}` | {kinds} | `{item.default}` | {item.metadata['doc']} |")
        lines.append("")
    lines += [
        "## MindCV's keys without effect",
        "",
        "They are accepted in files, and the run says that they change nothing.",
        "",
        "| key | why |",
        "|---|---|",
    ]
    return "\n".join(lines + [f"| `{key}` | {why} |" for key, why in WITHOUT_EFFECT.items()])


def quickstart() -> str:
    """The tables of the last quick start that was kept."""
    row = json.loads((ROOT / "results" / "quickstart.json").read_text(encoding="utf-8"))
    return (
        f"{tables(row, ClassificationTask.metrics)}\n\n"
        f"MindSpore {row['mindspore']}, {row['machine']}, {row['time'][:10]}: "
        f"{row['train_s']:.0f} s of training, "
        f"{row['total_s']:.0f} s in all."
    )


def kept(name: str, command: str) -> str:
    """A file of results as it is, or that `command` makes it."""
    path = ROOT / "results" / f"{name}.md"
    return (
        path.read_text(encoding="utf-8").strip()
        if path.exists()
        else f"Not measured yet (`{command}` writes {path.relative_to(ROOT)})."
    )


def benchmark(mode: str) -> str:
    """The rows of the last benchmark of this mode that was kept, and what they were measured on."""
    path = ROOT / "results" / f"benchmark_{mode}.json"
    if not path.exists():
        return f"Not measured yet (`make benchmark` writes results/{path.name})."
    rows = json.loads(path.read_text(encoding="utf-8"))
    shown = SHOWN_DATA if mode == "data" else SHOWN
    versions = " ".join(f"{key} {rows[0][key]}" for key in ("mindspore", "pillow", "mindvit") if key in rows[0])
    return (
        table(*({key: row[key] for key in shown} for row in rows))
        + f"\n\n{versions}; {rows[0]['machine']}; {rows[0]['date']}."
    )


def ascend_small() -> str:
    """What MindSpore's Ascend plug-in makes of the small networks that tests/ascend holds to it."""
    lines = ["| graph | kernels (legacy) | all-reduces | graph engine's rules |", "|---|---|---|---|"]
    for case, row in json.loads((ROOT / "tests" / "ascend" / "recorded.json").read_text(encoding="utf-8")).items():
        name, *graph = case.split(":")
        if name == "none":
            continue
        counts = row["kernels"]
        kernels = f"{sum(counts.values()):,} ({counts['aclop']})" if counts else ""
        reduces = counts["hccl"] if counts and graph[2:3] == ["8"] else ""
        rules = "hold" if row["checked"] else "refused, so O1" if counts and "O2" in graph else ""
        lines.append(f"| {name} {ascend_graph(graph)} | {kernels} | {reduces} | {rules} |")
    return "\n".join(lines)


def ascend_graph(words: Sequence[str]) -> str:
    """A case of tests/ascend/probe.py in words: graph, level, ranks and micro-batches."""
    graph, level, *numbers = words
    ranks, batches = [*numbers, "1", "1"][:2] if len(numbers) < 2 else numbers
    parts = [{"train": "training", "eval": "evaluation"}[graph], level]
    parts += [f"{ranks} ranks"] * (ranks != "1") + [f"{batches} micro-batches"] * (batches != "1")
    return ", ".join(parts)


def ascend_outcome(row: dict[str, Any], words: Sequence[str]) -> str:
    """What became of a graph, in a cell."""
    counts = row["kernels"]
    if "O2" in words:
        return "the graph engine's rules hold" if row["checked"] else "refused by the graph engine, taken at O1"
    reduces = f", {counts['hccl']}" if counts["hccl"] else ""
    return f"{sum(counts.values()):,} ({counts['aclop']}){reduces}"


def ascend_full() -> str:
    """The same of whole networks, before and after."""
    lines = ["| network, graph | before: kernels (legacy), all-reduces | now | CPU s, GiB |", "|---|---|---|---|"]
    for case, found in json.loads((ROOT / "results" / "ascend.json").read_text(encoding="utf-8")).items():
        name, *graph = case.split(":")
        cells = [f"{name.split('/')[-1]}, {ascend_graph(graph)}"]
        for when in ("before", "now"):
            cells.append(ascend_outcome(found[when], graph) if when in found else "not counted")
        cost = found.get("now", {"seconds": "", "memory": ""})
        lines.append(f"| {' | '.join(cells)} | {cost['seconds']}, {cost['memory']} |")
    return "\n".join(lines)


def scaling() -> str:
    """How speed falls with size, depth and batch: every row of results/scaling."""
    path = ROOT / "results" / "scaling" / "benchmark_train.csv"
    if not path.exists():
        return "Not measured yet (`make benchmark` writes results/scaling)."
    with path.open(newline="", encoding="utf-8") as stream:
        return table(*({key: row[key] for key in SCALING_COLUMNS} for row in csv.DictReader(stream)))


SCALING_COLUMNS = (
    "model",
    "resolution",
    "batch size",
    "multiply-adds (G)",
    "ms/step",
    "img/s",
    "GFLOP/s per device",
    "share of peak",
    "peak memory",
    "date",
)
AUTHORS_TOP1 = {
    "xcit_medium_24_p16_224_distill": 84.3,
    "xcit_medium_24_p16_384_distill": 85.4,
}  # README of facebookresearch/xcit
FAMILIES = ("crossvit", "cvt", "crossformer", "xcit")
PARTS: dict[str, Callable[[], str]] = {
    "models": models,
    "segmentors": segmentors,
    "detectors": detectors,
    "keys": keys,
    "quickstart": quickstart,
    "commands": docs_commands.listing,
    "scaling": scaling,
    "ascend_small": ascend_small,
    "ascend_full": ascend_full,
    "errata_xcit": errata_xcit,
    "errata_crossvit": errata_crossvit,
    **{name: functools.partial(family, name) for name in FAMILIES},
    "goldens": functools.partial(kept, "goldens", "make goldens"),
    "goldens_segmentation": functools.partial(kept, "goldens_segmentation", "make goldens-segmentation"),
    "compare_segmentors": functools.partial(kept, "segmentors/compare_native", "make compare"),
    "compare_detectors": functools.partial(kept, "detectors/compare", "make compare"),
    "profile": functools.partial(kept, "profile", "make profile"),
    "lock_held": functools.partial(kept, "lock_held", "benchmarks/lock_held.py"),
    "census": functools.partial(kept, "census", "mindvit census"),
    **{f"digits_{name}": functools.partial(digits, name) for name in FAMILIES[1:]},
    **{
        f"compare_{name}": functools.partial(kept, f"compare_{name}", "make compare")
        for name in ("native", "avx2", "bfloat16", "data")
    },
    **{
        f"amx_{name}": functools.partial(kept, f"amx/{name}", "make compare, on a machine with AMX")
        for name in ("compare_native", "compare_bfloat16", "latency")
    },
    "latency": functools.partial(kept, "latency/compare_native", "make compare"),
    "memory": functools.partial(kept, "memory/compare_native", "make compare"),
    "variants": functools.partial(kept, "variants/compare_native", "make compare"),
    **{f"benchmark_{mode}": functools.partial(benchmark, mode) for mode in ("train", "forward", "data")},
}


def filled(text: str) -> str:
    """`text` with everything between <!-- name --> and <!-- end --> made anew."""
    return re.sub(
        r"<!-- (\w+) -->\n.*?<!-- end -->",
        lambda found: f"<!-- {found[1]} -->\n{PARTS[found[1]]()}\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def main() -> None:
    """Write or check."""
    stale = []
    for path in [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if filled(text) != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(filled(text), encoding="utf-8")
    if stale:
        print(f"{'out of date' if '--check' in sys.argv else 'written'}: {', '.join(stale)}")
    sys.exit(1 if stale and "--check" in sys.argv else 0)


if __name__ == "__main__":
    main()
