"""Print a resolved recipe: every key, its value, and the file that it came from.

python config.py --config configs/crossvit/crossvit_9_ascend.yaml
"""

from __future__ import annotations

from typing import Sequence

from mindvit import errors


def main(arguments: Sequence[str]) -> None:
    """Print; UserError for anything that the user can mend."""
    from mindvit.commandline import describe, parse  # after errors.run has looked at the environment

    recipe, _ = parse(arguments, "Print a resolved recipe: every key, its value, and the file that it came from.")
    print(describe(recipe))


if __name__ == "__main__":
    errors.run(main)
