"""The columns of a benchmark's rows. Nothing is imported here: `--help` and the documentation read them too."""

from __future__ import annotations

COLUMNS = (
    "model",
    "mode",
    "params (M)",
    "devices",
    "batch size",
    "resolution",
    "jit level",
    "graph compile",
    "with cache",
    "ms/step",
    "p90 ms",
    "img/s",
    "img/s per device",
    "sustained img/s",
    "multiply-adds (G)",
    "GFLOP/s per device",
    "peak GFLOP/s",
    "share of peak",
    "peak memory",
    "precision",
    "warm-up",
    "steps",
    "mindspore",
    "mindvit",
    "machine",
    "date",
    "error",
)

# columns that a screen has no room for; the files have all
FILES_ONLY = {
    "mode",
    "img/s per device",
    "sustained img/s",
    "multiply-adds (G)",
    "peak GFLOP/s",
    *COLUMNS[COLUMNS.index("precision") :],
}
SHOWN = tuple(name for name in COLUMNS if name not in FILES_ONLY)
