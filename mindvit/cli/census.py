"""Count the operators and the multiply-adds of networks in their compiled graphs.

mindvit census MODEL [MODEL ...] [--train] [--size N] [--as-run] [--out FILE]
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from mindvit import errors


def main(arguments: Sequence[str]) -> None:
    """Print and keep the tables; UserError for anything that the user can mend."""
    from mindvit.recipe.commandline import Parser

    parser = Parser(
        prog="mindvit census",
        description="Count the operators and the multiply-adds of networks in their compiled graphs.",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="name, alias or shell pattern, e.g. 'crossvit_*'")
    parser.add_argument("--train", action="store_true", help="count the training step's graph too")
    parser.add_argument("--size", type=int, metavar="N", help="side of the images in px (default: the registry's)")
    parser.add_argument(
        "--as-run",
        action="store_true",
        help="with the operators that this machine takes (default: those of NPUs and GPUs)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the tables in a Markdown file")
    given = parser.parse_args(arguments)
    from mindspore import __version__  # takes seconds: not for --help

    from mindvit.benchmark.census import MACS_HEAD, OPERATORS_HEAD, census, names
    from mindvit.recipe.options import PrecisionOptions, RuntimeOptions
    from mindvit.runtime import device

    chosen = names(given.models)
    device.set_up(RuntimeOptions(distribute=False), PrecisionOptions())
    lines, found = [OPERATORS_HEAD], []
    print(OPERATORS_HEAD)
    for name in chosen:
        for train in (False, True) if given.train else (False,):
            found.append(census(name, train, given.size, given.as_run))
            lines.append(found[-1].row())
            print(lines[-1], flush=True)
    lines += [
        "",
        MACS_HEAD,
        *(item.macs_row() for item in found if item.macs),
        "",
        f"MindSpore {__version__}, {device.machine()}.",
    ]
    print("\n".join(lines[1 + len(found) :]))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    errors.run(main)
