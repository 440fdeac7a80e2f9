"""MindSpore's own log, where it would say a second time what an error says."""

from __future__ import annotations

import contextlib
import logging
from typing import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep MindSpore's own log lines about an error away: the error says it once, in one line."""
    logger = logging.getLogger("MindSpore")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
