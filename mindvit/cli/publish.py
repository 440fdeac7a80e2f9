"""Write a run's model as hubs want it: weights, config, model card with the curves.

mindvit publish RUN_DIR|FILE --to DIR [--license apache-2.0] [--take ema]
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from mindvit import errors
from mindvit.errors import UserError


def main(arguments: Sequence[str]) -> None:
    """Write the folder, and say how it is uploaded; UserError for anything that the user can mend."""
    from mindvit.recipe.commandline import Parser

    parser = Parser(
        prog="mindvit publish",
        description="Write a run's best weights as model.safetensors, with config.json, a model card and its curves: a "
        "folder that mindvit.create_model reads, and that can be uploaded to a hub. Nothing is uploaded.",
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a run's folder (its ckpt_save_dir), or a checkpoint")
    parser.add_argument("--to", required=True, type=Path, metavar="DIR", help="the folder to write, which is new")
    parser.add_argument("--license", default="unknown", metavar="NAME", help="as hubs call it: apache-2.0, mit, ...")
    parser.add_argument(
        "--take", metavar="KEY", help="which set of weights, model or ema (default: the better in validation)"
    )
    given = parser.parse_args(arguments)
    if not given.run.exists():
        raise UserError(f"no folder or file {given.run}")
    if given.to.exists() and (not given.to.is_dir() or any(given.to.iterdir())):
        raise UserError(f"--to {given.to} is there already: give a new folder, so that nothing else is published")
    from mindvit.inference import publish  # takes seconds: not for --help
    from mindvit.visualization.model_card import read_log, write_card

    run = read_log(given.run)
    with errors.hints_for(parser.options()):
        trained = publish.read_trained(given.run, given.take)
    for path in [*publish.write(trained, given.to), *write_card(given.to, trained, given.run, run, given.license)]:
        print(path)
    print(f"fill in what {given.to / 'README.md'} marks TO SAY, then: hf upload OWNER/NAME {given.to}")


if __name__ == "__main__":
    errors.run(main)
