"""The row that a run ends with."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path
from typing import Any, Optional

import mindspore as ms
import numpy as np

from mindvit import device
from mindvit.evaluation import Score
from mindvit.meter import Meter
from mindvit.setting import Setting
from mindvit.version import __version__


def performance_row(setting: Setting, meter: Meter, params: int, score: Score, config: Optional[str], path: Optional[Path]) -> dict[str, Any]:
    """MindCV's columns: what ran, on what, how fast (median step over all cards) and how well."""
    return {
        "model": setting.info.name,
        "params (M)": round(params / 1e6, 2),
        "cards": f"{setting.device.ranks} x {setting.device.target}",
        "batch size": setting.recipe.data.batch_size,
        "resolution": f"{setting.size}x{setting.size}",
        "jit level": setting.device.jit_level,
        "graph compile": f"{meter.compile_seconds:.1f} s",
        "ms/step": round(meter.ms_per_step, 2),
        "img/s": round(meter.pictures_per_second, 2),
        "acc@top1": round(score.top1, 2),
        "acc@top5": round(score.top5, 2),
        "recipe": config or "command line",
        "checkpoint": str(path),
    }


def versions() -> str:
    """What ran, in one line."""
    return f"mindvit {__version__}, mindspore {ms.__version__}, numpy {np.__version__}, Python {platform.python_version()}; {device.machine()}"


def circumstances(setting: Setting, meter: Meter, seconds: float) -> dict[str, Any]:
    """What one needs to know to compare two rows; `seconds` are those of the whole run."""
    recipe, half = setting.recipe, setting.device.half
    return {
        "precision": f"{setting.device.amp_level} {recipe.precision.amp_type if half else 'float32'}",
        "epochs": recipe.schedule.epoch_size,
        "training seconds": round(meter.total, 1),
        "seconds": round(seconds, 1),
        "data wait": round(meter.wait_share, 4),
        "mindspore": ms.__version__,
        "mindvit": __version__,
        "machine": device.machine(),
        "date": datetime.date.today().isoformat(),
    }
