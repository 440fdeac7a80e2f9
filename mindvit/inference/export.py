"""Networks as files that run without this package, each loaded again and compared with the network before it is
called done.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, ContextManager, Iterator, List, Mapping, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindvit.errors import UserError
from mindvit.inference.onnx.graph import INPUT, OUTPUT
from mindvit.runtime.quiet import quiet

FORMATS = {"MINDIR": ".mindir", "ONNX": ".onnx"}
TOLERANCE = 1e-4  # of max(1, the largest logit)
Run = Callable[..., List[np.ndarray]]  # what a file computes: arrays -> arrays
NEEDED = "pip install -r requirements-onnx.txt"


class ExportError(UserError):
    """A file that doesn't compute what the network does, or can't be written; nothing of it is left."""

    exit_code = 1


@dataclass(frozen=True)
class Exported:
    """A file, the batches it was tried with, and the worst deviation from the network, relative to max(1, the largest
    output).
    """

    path: Path
    batches: tuple[int, ...]
    deviation: float

    def __str__(self) -> str:
        batches = " and ".join(map(str, self.batches))
        return f"{self.path}: loaded again, batch {batches}: within {self.deviation:.1e} of the network"


@dataclass(frozen=True)
class Described:
    """What a file says of itself: names of its inputs and outputs, where the format has them, and metadata, see
    snippet.metadata: ONNX's metadata_props, MindIR's user_info.
    """

    inputs: Sequence[str] = (INPUT,)
    outputs: Sequence[str] = (OUTPUT,)
    metadata: Mapping[str, str] = field(default_factory=dict)


def export(
    net: nn.Cell,
    image: tuple[int, int, int],
    form: str,
    path: Path,
    batch: Optional[int],
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> Exported:
    """Write a network as a file, load the file again and compare.

    Args:
        net: the network.
        image: channels, height and width of its images.
        form: MINDIR or ONNX.
        path: the file.
        batch: images at once; None: any number.
        metadata: see Described.

    Returns:
        The file with how far it is from the network.

    Raises:
        UserError: the network can't be written.
        ExportError: what was written differs; there is no file.
    """
    check(form, path)
    batches = (batch,) if batch else (1, 3, 4)

    def compare(run: Run) -> float:
        return _deviation(net, lambda images: run(images)[0], batches, image, batch or 2)

    inputs = [Tensor(shape=(batch, *image), dtype=ms.float32)]
    return Exported(path, batches, export_checked(net, inputs, form, path, compare, Described(metadata=metadata)))


def export_checked(
    net: nn.Cell,
    inputs: Sequence[Tensor],
    form: str,
    path: Path,
    compare: Callable[[Run], float],
    described: Described,
    while_written: Optional[ContextManager[None]] = None,
) -> float:
    """Write a network for such inputs, load the file again and `compare` what it computes with the network: the
    deviation. UserError and ExportError as above.
    """
    net.set_train(False)
    load = _session if form == "ONNX" else _graph_cell
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        written = Path(folder) / path.name
        with while_written or contextlib.nullcontext():
            _write(net, inputs, form, written, described)
        deviation = compare(load(written))
        if not deviation < TOLERANCE:
            raise ExportError(
                f"{path}: not written: what the file computes is {deviation:.1e} off the network (tolerance "
                f"{TOLERANCE:.0e})"
            )
        written.replace(path)
    return deviation


def _write(net: nn.Cell, inputs: Sequence[Tensor], form: str, path: Path, described: Described) -> None:
    mindir = path.with_suffix(".mindir")

    def describe(model: Any) -> None:
        model.user_info.update(described.metadata)

    try:
        with quiet():
            ms.export(
                net,
                *inputs,
                file_name=str(mindir.with_suffix("")),
                file_format="MINDIR",
                custom_func=describe,
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"{path.name}: MindSpore can't export this network: {str(error).splitlines()[0]}") from None
    whole = (
        mindir if mindir.exists() else mindir.with_name(f"{mindir.stem}_graph.mindir")
    )  # above 1 GB the weights go to files of their own
    if form == "ONNX":
        import onnx

        from mindvit.inference.onnx import to_onnx

        weights = {item.name: item.asnumpy() for item in net.get_parameters()}
        model = to_onnx(whole, weights, described.inputs, described.outputs)
        onnx.helper.set_model_props(model, dict(described.metadata))
        onnx.save(model, str(path))
    elif whole != mindir:
        raise ExportError(
            f"{path.name}: above 1 GB MindSpore writes several files, which this command doesn't (--format ONNX "
            "writes one)"
        )


def _graph_cell(path: Path) -> Run:
    cell = nn.GraphCell(ms.load(str(path)))

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        found = cell(*map(Tensor, inputs))
        return [np.asarray(item.asnumpy()) for item in (found if isinstance(found, tuple) else (found,))]

    return run


def _session(path: Path) -> Run:
    import onnxruntime

    with _errors_of_onnx(path):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        with _errors_of_onnx(path):
            return [np.asarray(item) for item in session.run(None, dict(zip(names, inputs)))]

    return run


@contextlib.contextmanager
def _errors_of_onnx(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime's have no common class but this
        raise ExportError(
            f"{path.name}: not written: onnxruntime can't run it: {(str(error).splitlines() or [''])[0]}"
        ) from None


def check(form: str, path: Path) -> None:
    """UserError for a format, a file or a folder that can't be written."""
    if form not in FORMATS:
        raise UserError(f"--format {form}: accepted are {', '.join(FORMATS)}")
    if path.suffix != FORMATS[form]:
        raise UserError(f"--out {path}: a file of format {form} must have a name in {FORMATS[form]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(f"--out {path}: can't be written: {error.strerror}") from None
    for name in ("onnx", "onnxruntime") if form == "ONNX" else ():
        try:
            __import__(name)
        except ImportError:
            raise UserError(f"--format ONNX needs the package {name}, which is not installed: {NEEDED}") from None


def _deviation(
    net: nn.Cell, run: Callable[[np.ndarray], Any], batches: Sequence[int], image: tuple[int, ...], step: int
) -> float:
    """Worst of what the file gives for the first images, in each of `batches`, from the network's, `step` images
    at once: it is compiled for one batch.
    """
    images = np.random.default_rng(0).standard_normal((max(batches), *image)).astype(np.float32)
    expected = np.concatenate(
        [net(Tensor(images[first : first + step])).asnumpy() for first in range(0, len(images), step)]
    )
    worst = 0.0
    for count in batches:
        found = run(images[:count])
        if found.shape != expected[:count].shape or not np.isfinite(found).all():
            return float("inf")
        worst = max(worst, float(np.abs(found - expected[:count]).max() / max(1.0, np.abs(expected).max())))
    return worst
