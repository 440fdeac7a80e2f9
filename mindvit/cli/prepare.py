"""Pack a data set into MindRecord files: mindvit prepare DATA_DIR OUT.

train.py and validate.py take OUT as data_dir. What was cut off continues when the same command is given again.

Or unpack the official archives of a data set by name into class folders: mindvit prepare cifar10 ARCHIVE... DIR.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Sequence

from mindvit import errors
from mindvit.errors import UserError
from mindvit.runtime import files

SPLITS = ("train", "val")
NAMED = ("cifar10", "cifar100", "flowers102", "food101", "pets")  # of data.official


def main(arguments: Sequence[str]) -> None:
    """Pack the splits; UserError for anything that the user can mend."""
    from mindvit.recipe.commandline import COMMAND_LINE, Parser
    from mindvit.recipe.options import DataOptions

    name = arguments[0].lower().replace("-", "") if arguments else ""
    if name in NAMED and not Path(arguments[0]).is_dir() and not {"-h", "--help"}.intersection(arguments):
        unpack(name, arguments[1:])
        return
    parser = Parser(
        prog="mindvit prepare",
        description="Pack a folder or list data set into MindRecord files. Or unpack official archives into class "
        f"folders: mindvit prepare NAME ARCHIVE... DIR, NAME one of {', '.join(NAMED)}.",
    )
    parser.add_argument(
        "data_dir",
        metavar="DATA_DIR",
        help="folder with train/ and val/ class folders, or with train_list.txt and val_list.txt",
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="folder for the files, the data_dir of recipes from then on"
    )
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=SPLITS, help="default: both")
    parser.add_argument(
        "--train_split",
        default=DataOptions.train_split,
        metavar="NAME",
        help="name of the training split (default: train)",
    )
    parser.add_argument(
        "--val_split", default=DataOptions.val_split, metavar="NAME", help="name of the validation split (default: val)"
    )
    parser.add_argument(
        "--shard_size", type=int, default=1024, metavar="MIB", help="images in one file, MiB (default: 1024)"
    )
    given = parser.parse_args(arguments)
    if given.shard_size < 1:
        raise UserError(f"{COMMAND_LINE}: --shard_size is {given.shard_size}, but must be at least 1 (MiB)")
    if files.printable(str(given.out)) != str(given.out):
        raise UserError(
            f"OUT {given.out} has a name that is no UTF-8, which MindSpore's writer can't open; "
            f"give another folder (DATA_DIR may have any name)"
        )
    write(given)


def unpack(name: str, arguments: Sequence[str]) -> None:
    """Write the images of a named data set to a folder. UserError for archives or a folder that can't be used."""
    from tqdm import tqdm

    from mindvit.data.official import OFFICIAL, archives_of
    from mindvit.data.official import unpack as write_images
    from mindvit.runtime import console

    *given, out = arguments or ("",)
    archives = archives_of(name, given)
    try:
        with tqdm(total=OFFICIAL[name].images, desc=name, unit=" images", disable=not sys.stderr.isatty()) as bar:
            counts = write_images(name, archives, Path(out), bar.update)
    except OSError as error:
        raise UserError(f"{out} can't be written: {error.strerror}") from None
    found = ", ".join(f"{counts[split]} in {split}" for split in ("train", "val", "test") if split in counts)
    console.log_info(f"{name}: {found}; use it with: --data_dir {out}")


def write(given: Namespace) -> None:
    """Pack the splits that the command line names. UserError for data or a folder that can't be used."""
    from tqdm import tqdm

    from mindvit.data.datasets.base import FileDataset
    from mindvit.data.datasets.build import check_same_classes, open_dataset, passed_over, remarks
    from mindvit.data.datasets.mindrecord import pack
    from mindvit.recipe.options import DataOptions
    from mindvit.runtime import console

    data = DataOptions(data_dir=given.data_dir, train_split=given.train_split, val_split=given.val_split)
    sources = {split: open_dataset(data, split) for split in given.split}
    for split, source in sources.items():
        if not isinstance(source, FileDataset):
            raise UserError(f"{given.data_dir} is packed already: give the folder that {split} was packed from")
    if len(sources) == 2:
        check_same_classes(sources["train"], open_dataset(data, "val", sources["train"].class_names))
    if given.out.resolve() == Path(given.data_dir).resolve():
        raise UserError(f"OUT and DATA_DIR are both {given.data_dir}: give another folder for the MindRecord files")
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        for split, source in sources.items():
            assert isinstance(source, FileDataset)
            with tqdm(total=len(source), desc=split, unit=" images", disable=not sys.stderr.isatty()) as bar:
                paths = pack(
                    source,
                    Path(given.data_dir),
                    given.out,
                    getattr(given, f"{split}_split"),
                    given.shard_size << 20,
                    bar.update,
                )
            console.log_info(
                f"{split}: {len(source)} images of {len(source.class_names)} classes in {len(paths)} "
                f"file{'s' * (len(paths) > 1)}, counted and checked" + passed_over((split, source))
            )
            for line in remarks(source) if split == "train" else ():
                console.log_info(f"WARNING: {line}")
    except OSError as error:
        raise UserError(f"OUT {given.out} can't be written: {error.strerror}") from None
    console.log_info(f"use them with: --data_dir {given.out}")


if __name__ == "__main__":
    errors.run(main)
