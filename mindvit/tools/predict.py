"""Name what is in pictures.

python -m mindvit.tools.predict PICTURE|FOLDER ... --ckpt_path FILE [--model NAME] [--topk 5] [--format table|json|csv] [--out FILE]
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Optional, Sequence, TextIO

from mindvit import errors

if TYPE_CHECKING:
    from mindvit.predictor import Answer, Predictor

Named = tuple[str, "Answer"]  # a picture's path and its classes


def as_csv(answers: Iterable[Named]) -> Iterator[str]:
    """A line for each class of each picture."""
    yield "picture,rank,class,probability"
    for path, answer in answers:
        for rank, (name, probability) in enumerate(answer, 1):
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerow((path, rank, name, f"{probability:.6f}"))
            yield line.getvalue()[:-1]


def as_json(answers: Iterable[Named]) -> Iterator[str]:
    """A list with an object for each picture, one a line."""
    before = "["
    for path, answer in answers:
        yield before + json.dumps({"picture": path, "classes": [{"name": name, "probability": round(value, 6)} for name, value in answer]}, ensure_ascii=False)
        before = ","
    yield "]" if before == "," else "[]"


def as_table(answers: Iterable[Named], paths: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """Aligned columns; a picture's path stands beside its first class."""
    first, second = (max(map(len, (*column, title))) for column, title in ((paths, "picture"), (names, "class")))
    yield f"{'picture':{first}}  {'class':{second}}  probability"
    for path, answer in answers:
        for name, probability in answer:
            yield f"{path:{first}}  {name:{second}}  {100 * probability:9.2f} %"
            path = ""


def predictions(predictor: Predictor, paths: Sequence[str], topk: int, bad: list[str]) -> Iterator[Named]:
    """Each picture's classes, under a progress bar if stderr is a terminal; broken ones are named there and collected in `bad`."""
    from tqdm import tqdm

    from mindvit.data.sources import BadPicture

    with tqdm(total=len(paths), unit="picture", dynamic_ncols=True, leave=False, disable=None) as bar:
        for path, logits in zip(paths, predictor.stream(paths)):
            bar.update()
            if isinstance(logits, BadPicture):
                bad.append(path)
                tqdm.write(f"warning: {logits}", file=sys.stderr)
            else:
                yield path, predictor.best(logits, topk)


@contextlib.contextmanager
def writer(out: Optional[Path]) -> Iterator[Callable[[str], Any]]:
    """A function that writes a line to a file, or to stdout without tearing the progress bar. UserError if the file can't be written."""
    from tqdm import tqdm

    if out is None:
        yield lambda line: tqdm.write(line, file=sys.stdout)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stream: TextIO = out.open("w", encoding="utf-8")
    except OSError as error:
        raise errors.UserError(f"--out {out} can't be written: {error.strerror}") from None
    with stream:
        yield lambda line: stream.write(line + "\n")


def main(arguments: Sequence[str]) -> None:
    """Predict; UserError for anything that the user can mend."""
    from mindvit.commandline import Parser, positive, weights_arguments

    parser = Parser(prog="python -m mindvit.tools.predict", description="Name what is in pictures.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="a picture of any format and mode, or a folder of them")
    weights_arguments(parser)
    parser.add_argument("--topk", type=positive, default=5, metavar="N", help="classes a picture (default: 5)")
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table", help="of what is written (default: table)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there (default: stdout)")
    parser.add_argument("--batch_size", type=positive, default=32, metavar="N", help="most pictures computed at once (default: 32)")
    given = parser.parse_args(arguments)
    from mindvit.data.sources import find_pictures

    paths = find_pictures(given.pictures)
    from mindvit.predictor import Predictor, Unreadable  # MindSpore takes seconds to import: not for --help or a mistyped path

    predictor = Predictor(
        given.ckpt_path, given.model, given.classes, given.batch_size, given.device_target, given.take)
    print(predictor, file=sys.stderr)
    bad: list[str] = []
    answers = predictions(predictor, paths, given.topk, bad)
    lines = {"csv": as_csv, "json": as_json}.get(given.format, lambda found: as_table(found, paths, predictor.class_names))(answers)
    with writer(given.out) as write:
        for line in lines:
            write(line)
    if bad:
        raise Unreadable(len(bad), len(paths))


if __name__ == "__main__":
    errors.run(main)
