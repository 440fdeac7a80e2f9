"""Name what is in images; of a segmentor, also draw it.

mindvit predict IMAGE|FOLDER ... --ckpt_path FILE|--model NAME [--topk 5] [--score_thr 0.3]
    [--format table|json|csv] [--out FILE] [--draw DIR]
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, Optional, Sequence, TextIO

from mindvit import errors
from mindvit.runtime.files import SPELT_OUT, on_one_line, printable

if TYPE_CHECKING:
    import argparse

    from mindvit.inference.predictor import Predictor
    from mindvit.recipe.commandline import Parser
    from mindvit.tasks.base import Asked


def trained(given: argparse.Namespace, parser: Parser) -> Predictor:
    """The network that a command line with weights_arguments tells of."""
    from mindvit.inference.predictor import Predictor  # MindSpore takes seconds: not for --help or a mistyped path

    batch = {"batch_size": given.batch_size} if "batch_size" in given else {}
    with errors.hints_for(parser.options()):
        return Predictor(
            given.ckpt_path or given.pretrained,
            given.model,
            given.classes,
            device_target=given.device_target,
            take=given.take,
            max_pixels=given.max_pixels,
            **batch,
        )


def predictions(predictor: Predictor, paths: Sequence[str], asked: Asked, bad: list[str]) -> Iterator[tuple[str, Any]]:
    """Each image's answer, under a progress bar if stderr is a terminal; broken ones are named there and collected
    in `bad`.

    Names of files that are no UTF-8 are spelt out: see files.printable.
    """
    from tqdm import tqdm

    from mindvit.data.decoding import DecodeError

    with tqdm(total=len(paths), unit="image", dynamic_ncols=True, leave=False, disable=None) as bar:
        for path, row in zip(paths, predictor.stream(paths)):
            bar.update()
            if isinstance(row, DecodeError):
                bad.append(path)
                tqdm.write(f"warning: {row}", file=sys.stderr)
            else:
                yield printable(path), predictor.answer(row, path, asked)


def draw_labels(image: Any, labels: Any, names: Sequence[str], folder: Path, name: str) -> None:
    """A segmentor's answer: NAME.png with the label map, NAME_overlay.png."""
    from mindvit.data.label_maps import write_label_map
    from mindvit.visualization.overlay import sheet

    picture = sheet(image, labels, names)
    write_label_map(folder / f"{name}.png", labels)
    picture.save(folder / f"{name}_overlay.png")


def draw_boxes(image: Any, found: Any, names: Sequence[str], folder: Path, name: str) -> None:
    """A detector's answer: NAME.png with boxes and masks."""
    from mindvit.visualization import boxes

    texts = [f"{kind} {score:.2f}" for kind, score in zip(found.names, found.scores)]
    boxes.drawn(image, found.boxes, found.labels, texts, found.masks).save(folder / f"{name}.png")


DRAW = {"segmentation": draw_labels, "detection": draw_boxes}  # by task: the others' answers are lines alone


def drawn(predictor: Predictor, answers: Iterator[tuple[str, Any]], folder: Path) -> Iterator[tuple[str, Any]]:
    """The same answers, and pictures of each in `folder` where the task has any. UserError if they can't be written."""
    from mindvit.inference.images import opened

    draw = DRAW.get(predictor.info.task)
    if draw is None:
        yield from answers
        return
    taken: set[str] = set()
    for path, answer in answers:
        name = stem = Path(path).stem
        while name in taken:  # of the same name in several folders
            name = f"{stem}-{len(taken)}"
        taken.add(name)
        image = opened(path, predictor.max_pixels)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            draw(image, answer, predictor.class_names, folder, name)
        except OSError as error:
            raise errors.UserError(f"--draw {folder}: can't be written: {error.strerror}") from None
        yield path, answer


class Answers:
    """A file of lines that is there when all of them are, and what stood there until then; `closing` ends one that
    stays unfinished.

    UserError if it can't be written.
    """

    def __init__(self, out: Path, closing: str) -> None:
        self.out, self.closing, self.lines = out, closing, 0
        self.place = Path(os.path.realpath(out))
        self.device = (
            self.place.exists() and not self.place.is_file()
        )  # a pipe, or /dev/stdout: nothing can take its place
        self.partial = self.place if self.device else self.place.with_name(f"{self.place.name}.partial")
        with self.told():
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            self.stream: TextIO = self.partial.open("w", encoding="utf-8", errors=SPELT_OUT)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """What the system refuses, as a line for the user."""
        try:
            yield
        except OSError as error:
            raise errors.UserError(f"--out {self.out} can't be written: {error.strerror}") from None

    def write(self, line: str) -> None:
        """One line more."""
        with self.told():
            self.stream.write(line + "\n")
        self.lines += 1

    def finish(self) -> None:
        """All lines are written."""
        with self.told(), self.stream:
            self.stream.flush()
            if not self.device:
                os.fsync(self.stream.fileno())
                os.replace(self.partial, self.place)

    def abandon(self) -> None:
        """There will be no more: lines beyond a heading stay beside the place of the whole."""
        with contextlib.suppress(
            OSError
        ):  # what ended the work is what the user is to hear of, and a full disk may be that
            if self.closing and self.lines and not self.stream.closed:
                self.stream.write(self.closing + "\n")
            self.stream.close()
        if not self.device:
            if self.lines > 1:
                print(f"the answers so far are in {on_one_line(str(self.partial))}", file=sys.stderr, flush=True)
            else:
                self.partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writer(out: Optional[Path], closing: str = "") -> Iterator[Callable[[str], Any]]:
    """A function that writes a line to a file, see Answers, or to stdout without tearing the progress bar. UserError
    if the file can't be written.
    """
    from tqdm import tqdm

    if out is None:
        yield lambda line: tqdm.write(line, file=sys.stdout)
        return
    answers = Answers(out, closing)
    try:
        yield answers.write
        answers.finish()
    except BaseException:
        answers.abandon()
        raise


def options() -> Parser:
    """What the command takes."""
    from mindvit.recipe.commandline import Parser, max_pixels_argument, positive, share, weights_arguments

    parser = Parser(prog="mindvit predict", description="Name what is in images.")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="an image of any format and mode, or a folder of them"
    )
    weights_arguments(parser)
    max_pixels_argument(parser)
    parser.add_argument("--topk", type=positive, default=5, metavar="N", help="classes an image (default: 5)")
    parser.add_argument(
        "--score_thr", type=share, default=0.3, metavar="X", help="least score of what is detected (default: 0.3)"
    )
    parser.add_argument(
        "--format", choices=("table", "json", "csv"), default="table", help="of what is written (default: table)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there (default: stdout)")
    parser.add_argument(
        "--draw",
        type=Path,
        default=Path("predictions"),
        metavar="DIR",
        help="segmentors and detectors: folder for what is drawn of each image (default: predictions)",
    )
    parser.add_argument(
        "--batch_size", type=positive, default=32, metavar="N", help="most images computed at once (default: 32)"
    )
    return parser


def main(arguments: Sequence[str]) -> None:
    """Predict; UserError for anything that the user can mend."""
    parser = options()
    given = parser.parse_args(arguments)
    from mindvit.data.datasets.build import find_images

    paths = find_images(given.images)
    from mindvit.inference.predictor import Unreadable
    from mindvit.tasks.base import Asked

    bad: list[str] = []
    with writer(given.out, "]" if given.format == "json" else "") as write:
        predictor = trained(given, parser)
        print(predictor, file=sys.stderr)
        asked = Asked(given.topk, given.score_thr)
        answers = drawn(predictor, predictions(predictor, paths, asked, bad), given.draw)
        for line in predictor.inference.formats(paths)[given.format](answers):
            write(line)
    if bad:
        raise Unreadable(len(bad), len(paths))


if __name__ == "__main__":
    errors.run(main)
