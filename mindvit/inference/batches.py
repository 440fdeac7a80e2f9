"""Images in batches: threads prepare the next ones while one is computed."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Callable, Iterator, Sequence, Union

import numpy as np

from mindvit.data.decoding import DecodeError
from mindvit.data.loader import default_workers
from mindvit.inference.images import ImageLike

AHEAD = 2  # batches that threads decode while another one is computed
Prepared = Union[np.ndarray, DecodeError]


class Batches:
    """Computes images of any number in batches of few sizes, since each size is compiled: powers of two and the
    largest.

    Args:
        prepare: an image -> its row of a batch; DecodeError if it can't be decoded.
        compute: a batch (B, ...) -> (B, ...). Rows of one shape share a batch.
    """

    def __init__(self, prepare: Callable[[ImageLike], np.ndarray], compute: Callable[[np.ndarray], np.ndarray]):
        self.prepare, self.compute = prepare, compute
        self.compiled: set[tuple[int, ...]] = set()  # shapes of batches

    def run(self, images: Sequence[ImageLike], batch_size: int) -> Iterator[Prepared]:
        """For each image, in order, its row of what is computed, or why it can't be decoded."""
        pool = ThreadPoolExecutor(default_workers(1), thread_name_prefix="images")
        pending: deque[list[Future[Prepared]]] = deque()
        try:
            for start in range(0, len(images), batch_size):
                chunk = images[start : start + batch_size]
                pending.append([pool.submit(self._prepared_or_bad, image) for image in chunk])
                if len(pending) > AHEAD:
                    yield from self._computed(pending.popleft(), batch_size)
            while pending:
                yield from self._computed(pending.popleft(), batch_size)
        finally:  # also when the caller leaves early
            pool.shutdown(cancel_futures=True)

    def _prepared_or_bad(self, image: ImageLike) -> Prepared:
        try:
            return self.prepare(image)
        except DecodeError as error:
            return error

    def _computed(self, futures: Sequence[Future[Prepared]], batch_size: int) -> Iterator[Prepared]:
        found = [future.result() for future in futures]
        good = (item for item in found if not isinstance(item, DecodeError))
        rows = (row for _, same in groupby(good, key=np.shape) for row in self._filled(np.stack([*same]), batch_size))
        for item in found:
            yield item if isinstance(item, DecodeError) else next(rows)

    def _filled(self, rows: np.ndarray, batch_size: int) -> np.ndarray:
        """Computed in a batch of a size that is compiled, or is worth to be; its last row fills it up."""
        count, shape = len(rows), rows.shape[1:]
        size = min(
            (known for known, *rest in self.compiled if known >= count and tuple(rest) == shape),
            default=min(batch_size, 1 << (count - 1).bit_length()),
        )
        self.compiled.add((size, *shape))
        return self.compute(np.concatenate((rows, np.repeat(rows[-1:], size - count, 0))))[:count]
