"""Print a resolved recipe: every key, its value, and the file that it came from.

mindvit config --config crossvit_9_ascend
"""

from __future__ import annotations

from typing import Sequence

from mindvit import errors


def main(arguments: Sequence[str], prog: str = "mindvit config") -> None:
    """Print; UserError for anything that the user can mend. prog: the command's name in its help."""
    from mindvit.recipe.commandline import describe, parse  # after errors.run has looked at the environment

    recipe, _ = parse(
        arguments, "Print a resolved recipe: every key, its value, and the file that it came from.", prog=prog
    )
    print(describe(recipe))


if __name__ == "__main__":
    errors.run(main)
