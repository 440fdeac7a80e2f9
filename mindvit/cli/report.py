"""Curves, differences and results of runs, and tables of results, on one HTML page.

mindvit report RUN_DIR|TABLE ... [--out DIR]
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from mindvit import errors


def main(arguments: Sequence[str]) -> None:
    """Write the report; UserError for anything that the user can mend."""
    from mindvit.recipe.commandline import Parser

    parser = Parser(
        prog="mindvit report",
        description="Curves, differences and results of runs, and tables of results, on one HTML page.",
    )
    parser.add_argument(
        "places",
        nargs="+",
        metavar="RUN_DIR",
        help="a run's folder (its ckpt_save_dir), or a table: .csv, .json or .md",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="DIR",
        help="folder for report.html and the PNGs (default: report)",
    )
    given = parser.parse_args(arguments)
    from mindvit.visualization.run_report import write_report

    for path in write_report(given.places, given.out):
        print(path)


if __name__ == "__main__":
    errors.run(main)
