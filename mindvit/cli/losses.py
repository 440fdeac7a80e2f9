"""Compare the losses of two runs of one recipe, step by step: a new device beside a CPU.

mindvit losses CPU_LOG OTHER_LOG [--tolerance 0.02]
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

from mindvit import errors
from mindvit.errors import UserError

LINE = re.compile(r"\bstep (\d+)/\d+\s+loss (\S+)")
ROWS = 10  # of the table
EXIT_DIFFERENT = 1


@dataclass(frozen=True)
class Difference:
    """Two losses of one step, and how far they are apart, relative to the first one."""

    step: int
    first: float
    second: float

    @property
    def relative(self) -> float:
        """|second - first| / |first|; infinite where one of the two is no number."""
        if not (math.isfinite(self.first) and math.isfinite(self.second)):
            return math.inf
        return abs(self.second - self.first) / max(abs(self.first), 1e-12)


def read_losses(path: Path) -> dict[int, float]:
    """Step -> loss, of what train.py printed.

    Args:
        path: A file with its lines: the screen's, or a worker_0.log of msrun's.

    Raises:
        UserError: The file can't be read, or no line tells of a step.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    found = {}
    for step, loss in LINE.findall(text):
        try:
            found[int(step)] = float(loss)
        except ValueError:
            raise UserError(f"{path}: the loss of step {step} is {loss!r}, which is no number") from None
    if not found:
        raise UserError(
            f"{path} has no line with a step and its loss: keep what train.py prints, "
            "python train.py ... --log_interval 1 > FILE"
        )
    return found


def differences(first: Mapping[int, float], second: Mapping[int, float]) -> list[Difference]:
    """Of the steps that both logs have, in order. UserError if there is none."""
    steps = sorted(set(first) & set(second))
    if not steps:
        raise UserError(
            f"the logs have no step in common: the first has {min(first)} to {max(first)}, "
            f"the second {min(second)} to {max(second)} (give both runs the same log_interval)"
        )
    return [Difference(step, first[step], second[step]) for step in steps]


def main(arguments: Sequence[str]) -> None:
    """Print the table; exit code 1 where a loss is further off than the tolerance."""
    from mindvit.recipe.commandline import Parser

    parser = Parser(
        prog="mindvit losses",
        description="Compare the losses of two runs of one recipe, step by step: a new device beside a CPU.",
    )
    parser.add_argument("first", type=Path, metavar="LOG", help="what train.py printed, of the run to compare with")
    parser.add_argument("second", type=Path, metavar="LOG", help="of the other run")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="relative difference of a loss that is accepted (default: 0.02)",
    )
    given = parser.parse_args(arguments)
    rows = differences(read_losses(given.first), read_losses(given.second))
    last = len(rows) - 1
    shown = sorted({round(last * part / (ROWS - 1)) for part in range(ROWS)})
    print("| step | first | second | difference |\n|---|---|---|---|")
    for row in (rows[index] for index in shown):
        print(f"| {row.step} | {row.first:.4f} | {row.second:.4f} | {row.relative:.2%} |")
    worst = max(rows, key=lambda row: row.relative)
    verdict = "within" if worst.relative <= given.tolerance else "more than"
    print(
        f"{len(rows)} steps in common; the largest difference is {worst.relative:.2%}, at step {worst.step}: "
        f"{verdict} {given.tolerance:.2%}"
    )
    if verdict != "within":
        raise SystemExit(EXIT_DIFFERENT)


if __name__ == "__main__":
    errors.run(main)
